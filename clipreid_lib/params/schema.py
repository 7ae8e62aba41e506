"""Params: one flat, typed schema. ``params/base.yaml`` explains every key; a test holds the two together."""

import difflib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipreid_lib.base.accelerator import resolve_precision
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import file_sha
from clipreid_lib.params.recipes import EMBEDDED, SHIPPED, TIMM, WEIGHTS_CONFIG, recipe_of

ROOT = Path(__file__).resolve().parent.parent.parent  # the checkout: notebooks/, params/ and outputs/ lie here

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# The notebooks, in order. 01 is done once per data set, the others as a run needs them.
NOTEBOOKS = (
    *("01_data_exploration", "02_prompt_learning", "03_encoder_finetune"),
    *("04_evaluation", "05_retrieval_visualisation"),
)
SURVEY, PROMPTS, ENCODER, EVALUATION, RETRIEVAL = NOTEBOOKS
EXTERNAL = "external"  # variant: features that another program made, by `clipreid score`
GIVEN = "features.safetensors"  # these features, in the run's folder
TRAIN_NOTHING = ("frozen", "tip_adapter", EXTERNAL)  # variants
SPEAK = ("clipid", "inversion", "promptsg")  # variants that train with sentences
SILENT = ("frozen", "tip_adapter", "classifier", "clipid_no_text")  # variants that need no text tower
PROMPT_LEARN = "prompt_learn"  # stage 2a, notebook 02
ENCODER_FINETUNE = "img_encoder_finetune"  # stages 1 and 2b, notebook 03

# Keys that say where, how fast or how much is shown, never what is trained: they stay out of the run id. So do paths,
# for which the hash of what they lead to stands (weights, prompts) or the manifest's (data).
NOT_IN_ID = {
    *("experiment", "outputs_root", "device", "top_k", "flip_test", "checkpointing"),
    *("data_root", "allow_missing", "pretrained", "resume_prompt", "rerank_k1", "rerank_k2"),
    *("photograph", "gallery_root", "gallery_images", "query_images"),
}
# Keys that version 0.1.0 had not: an id or a notebook's key holds them only where they differ from the default.
LATER = {
    *("positions", "test_resize", "noun", "flip_train", "padding", "erasing", "sampler", "schedule", "bias_factor"),
    *("activation", "normalisation", "test_features", "rerank_k1", "rerank_k2", "photograph", "gallery_root"),
    *("train", "gallery_images", "query_images"),
}
# Keys that say which data is read, how it is split and where it goes.
DATA_KEYS = {
    *("dataset", "data_root", "allow_missing", "burst_gap"),
    *("aspect", "protocol", "validation", "draws", "draw_seed"),
    *("demo_people", "demo_images", "demo_sessions", "demo_difficulty", "demo_seed", "outputs_root"),
}
# In version 0.1.0 one key said what prompt_loss and prompt_logits say now.
OLDER_WORDS = {("supervised", "cosine"): "cosine", ("supervised", "dot"): "supcon", ("infonce", "cosine"): "infonce"}
# How keys that must match a pattern are written.
WRITTEN = {
    "experiment": "letters, digits and . _ + - make a name, such as pilot-1",
    "aspect": "letters, digits, spaces and . _ + - make a name, such as dorsal_r; write dorsal_r+palmar_r for one run "
    "on both, [dorsal_r, palmar_r] for a run on each",
    "noun": "write words, and a full stop or none, such as hand.",
    "image_size": "write the pixels of a square's side or HEIGHTxWIDTH, such as 224 or 256x128",
    "train": "write all, norms, last-N or lora-R with whole numbers from 1, such as last-2 or lora-4",
    "device": "write auto, cpu, cuda, cuda:1 or mps",
}
# Data sets and the aspects they have; nothing where the data itself decides (clipreid_lib/data).
HANDS = ("dorsal_r", "dorsal_l", "palmar_r", "palmar_l")
ASPECTS = {"demo": HANDS, "11k": HANDS, "hd": ("dorsal",), "market1501": ("body",), "folder": ()}
# A number that everybody reads alike: YAML also takes 010 for 8 and 1:30 for 90, Python 2024_01 for 202401.
DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
NOUNS = {"body": "person."}  # by aspect, what sentences end with; else HAND
HAND = "hand."
# Kinds of `train` that take head_lr, ten times as much for ViTs, where encoder_lr is null. Norms' weights lie near 1,
# others near 0.02. With lora-4 an entry of W moves 2 / sqrt(width) as fast as by itself, a fourteenth in ViT-B's 768.
FEW = ("norms", "lora")
SCORE = "external is for features that another program made; `clipreid score FEATURES --as NAME` makes such a run"
JOINED = "several aspects in one run need protocol common, which has one split of people for all"
FEATURES = re.compile(r"features [0-9a-f]{16}")  # what such a run has as pretrained: the beginning of their SHA-256
BURST_GAP = 10  # image numbers; 99.5 % of one hand's neighbours in 11k Hands lie within it


class Params(BaseModel):
    """One run's settings. See ``params/base.yaml`` for the meaning and unit of every key."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    experiment: str | None = Field(None, pattern=r"^[\w][\w.+-]*$")
    dataset: Literal["demo", "11k", "hd", "market1501", "folder"] = "demo"
    data_root: str | None = None
    allow_missing: bool = False
    burst_gap: Count = BURST_GAP
    aspect: str = Field("dorsal_r", pattern=r"^[\w][\w.+ -]*$")
    protocol: Literal["own", "mba", "common", "cross_session", "given"] = "own"
    validation: Literal["none", "identity_disjoint", "published"] = "none"
    draws: Count = 10
    draw_seed: int = 0

    model: str = "embedded"
    pretrained: str | None = None
    activation: Literal["gelu", "quick_gelu"] | None = None
    normalisation: Literal["clip", "imagenet", "inception"] | None = None
    image_size: str | None = Field(None, pattern=r"^[1-9]\d*(x[1-9]\d*)?$")
    resize: Literal["squash", "crop"] = "squash"
    test_resize: Literal["bicubic", "bilinear"] = "bicubic"
    positions: Literal["bicubic", "bilinear"] = "bicubic"
    patch_stride: Count | None = None
    last_stride: Annotated[int, Field(ge=1, le=2)] | None = None
    side_info: Literal["none", "camera"] = "none"

    variant: Literal[
        "frozen",
        "classifier",
        "clipid",
        "clipid_no_text",
        "inversion",
        "promptsg",
        "tip_adapter",
        "external",
    ] = "clipid"
    mode: Literal["full", "prompt_learn", "img_encoder_finetune"] = "full"
    epochs: Count | None = None
    lr: Rate | None = None
    prompt_dim: Count | None = None
    num_prompts: Annotated[int, Field(ge=1, le=32)] = 4
    batch_size: Annotated[int, Field(ge=4)] | None = None
    resume_prompt: str | None = None
    output_dir: str = "train_logs/"
    save_dir: str = "saved_models/"

    prompt_form: Literal["learned", "shared", "fixed"] = "learned"
    noun: str | None = Field(None, pattern=r"^[A-Za-z]+( [A-Za-z]+)*\.?$")
    prompt_loss: Literal["supervised", "infonce"] = "supervised"
    prompt_logits: Literal["cosine", "dot"] = "cosine"
    prompt_epochs: Count | None = None
    prompt_lr: Rate | None = None
    encoder_epochs: Count | None = None
    train: str = Field("all", pattern=r"^(all|norms|(last|lora)-[1-9]\d*)$")
    encoder_lr: Rate | None = None
    head_lr: Rate | None = None
    schedule: Literal["clip_reid", "clip_handid"] = "clip_reid"
    bias_factor: Rate | None = None
    sampler: Literal["every_image", "published", "shuffled"] = "every_image"
    images_per_identity: Annotated[int, Field(ge=2)] = 4
    flip_train: bool = False
    padding: Literal["edge", "black", "enlarge"] = "edge"
    erasing: Literal["mean", "noise", "none"] = "mean"
    id_weight: Weight | None = None
    triplet_weight: Weight = 1.0
    triplet_margin: Weight = 0.3
    text_weight: Weight = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    text_logits: Literal["cosine", "dot"] = "cosine"
    weight_decay: Weight | None = None
    accumulate: Count = 1
    checkpointing: bool = False
    precision: Literal["auto", "float32", "tf32", "bf16", "fp16"] = "auto"

    seed: int = 0
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    top_k: Count = 8
    photograph: str | None = None
    gallery_root: str | None = None
    flip_test: bool = False
    test_features: Literal["before_neck", "after_neck"] = "before_neck"
    rerank_k1: Count = 20
    rerank_k2: Count = 6
    gallery_images: Count = 1
    query_images: Count = 1
    outputs_root: str = "outputs"

    demo_people: Annotated[int, Field(ge=4)] = 100
    demo_images: Annotated[int, Field(ge=2)] = 9
    demo_sessions: Count = 3
    demo_difficulty: Weight = 1.0
    demo_seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _read_older_words(cls, values: dict) -> dict:
        for (loss, logits), word in OLDER_WORDS.items():
            if values.get("prompt_loss") == word != loss:
                return {**values, "prompt_loss": loss, "prompt_logits": values.get("prompt_logits", logits)}
        return values

    @model_validator(mode="before")
    @classmethod
    def _refuse_stray_booleans(cls, values: dict) -> dict:
        # YAML reads a bare no, off, yes as a boolean, and pydantic would quietly take it for 0 or 1.
        for key, value in values.items():
            if isinstance(value, bool) and key not in ("allow_missing", "checkpointing", "flip_train", "flip_test"):
                raise ValueError(f"{key}|is {str(value).lower()}; a word such as no or on is to be written in quotes")
        return values

    @model_validator(mode="before")
    @classmethod
    def _refuse_odd_numbers(cls, values: dict) -> dict:
        for key, value in values.items():
            if odd := describe_odd_number(key, value):
                raise ValueError(f"{key}|{odd}")
        return values

    @model_validator(mode="before")
    @classmethod
    def _order_aspects(cls, values: dict) -> dict:
        # Aspects that are joined stand in the data set's own order, so that they make one run id.
        known, mine = ASPECTS.get(str(values.get("dataset", "demo")), ()), str(values.get("aspect", "")).split("+")
        if len(mine) > 1 and set(mine) <= set(known):
            return {**values, "aspect": "+".join(sorted(mine, key=known.index))}
        return values

    @model_validator(mode="after")
    def _check_together(self) -> "Params":
        known, mine = ASPECTS[self.dataset], self.aspect.split("+")
        for aspect in mine if known else ():
            if aspect not in known:
                told = f"allowed: {', '.join(known)}, or several joined by +"
                raise ValueError(f"aspect|{self.dataset} has no {aspect!r}; {told}")
        if known and len({*mine}) < len(mine):
            raise ValueError(f"aspect|{self.aspect}: joins one aspect twice; name each once")
        if known and len(mine) > 1 and self.protocol != "common":
            raise ValueError(f"aspect|{self.aspect}: {JOINED}")
        said = self.variant == "clipid" and self.prompt_form == "learned"
        if known and len(mine) > 1 and said and self.noun not in (None, HAND):
            raise ValueError("noun|learned sentences of several aspects say which aspect and no noun; leave it null")
        if self.variant == EXTERNAL and not FEATURES.fullmatch(self.pretrained or ""):
            raise ValueError(f"variant|{SCORE}")
        for key in ("epochs", "lr"):
            if self.mode == "full" and getattr(self, key) is not None:
                raise ValueError(
                    f"{key}|belongs to mode {PROMPT_LEARN} or {ENCODER_FINETUNE}, which train one stage; in mode "
                    f"full write prompt_{key} (stage 2a) or encoder_{key} (stages 1 and 2b)"
                )
        if self.model.startswith(TIMM) and self.variant in SPEAK:
            raise ValueError(f"variant|{self.model} has no text tower for {self.variant}; use {', '.join(SILENT)}")
        if self.mode == PROMPT_LEARN and self.variant != "clipid":
            raise ValueError(f"mode|variant {self.variant} learns no prompts; prompt_learn goes with clipid")
        if self.mode == ENCODER_FINETUNE and self.variant in TRAIN_NOTHING:
            raise ValueError(f"mode|variant {self.variant} trains nothing; use mode full")
        needs_prompts = self.mode == ENCODER_FINETUNE and self.variant == "clipid"
        if needs_prompts and not self.resume_prompt:
            raise ValueError(
                "resume_prompt|mode img_encoder_finetune starts from learned prompts: give the "
                "prompts.safetensors of a prompt_learn run, or use mode full"
            )
        if self.test_features == "after_neck" and not (self.trains_encoder and self.variant != "clipid"):
            raise ValueError(
                f"test_features|{self.variant}, mode {self.mode}, has no heads to pass, or is compared with texts too; "
                "after_neck goes with classifier, clipid_no_text, inversion and promptsg"
            )
        if self.variant == "promptsg" and self.prompt_form == "shared":
            raise ValueError(
                "prompt_form|promptsg takes learned (a word made of each image) or fixed (no word, its control)"
            )
        if self.side_info != "none" and not self.trains_encoder:
            raise ValueError(f"side_info|{self.variant}, mode {self.mode}, trains no image encoder to use it; use none")
        if self.train != "all" and not self.trains_encoder:
            raise ValueError(f"train|{self.variant}, mode {self.mode}, trains no image encoder; use all")
        if self.image_size and max(map(int, self.image_size.split("x"))) > 4096:
            raise ValueError(f"image_size|{self.image_size} is too large; at most 4096 pixels a side")
        if self.resume_prompt and not needs_prompts:
            raise ValueError("resume_prompt|only variant clipid with mode img_encoder_finetune reads it")
        if self.dataset == "demo" and self.demo_sessions > self.demo_images:
            raise ValueError(
                f"demo_sessions|{self.demo_sessions} sessions cannot share {self.demo_images} images (demo_images)"
            )
        batch = self.batch_size or recipe_of(self.model).batch_size
        if batch < 2 * self.images_per_identity:
            raise ValueError(
                f"batch_size|{batch} holds fewer than two identities of images_per_identity="
                f"{self.images_per_identity}; the triplet loss needs at least {2 * self.images_per_identity}"
            )
        return self

    def resolved(self) -> "Params":
        """Return the same run with every null that stands for a default replaced by its number."""
        mine = self.model_dump()
        if stage := {PROMPT_LEARN: "prompt", ENCODER_FINETUNE: "encoder"}.get(self.mode):
            for key in ("epochs", "lr"):
                mine[f"{stage}_{key}"] = mine[key] or mine[f"{stage}_{key}"]
        if self.train.startswith(FEW) and mine["encoder_lr"] is None:
            mine["encoder_lr"] = mine["head_lr"] or recipe_of(self.model).head_lr
        for key, value in vars(recipe_of(self.model)).items():
            if key in mine and mine[key] is None:
                mine[key] = value
        mine["noun"] = self.noun or (NOUNS.get(self.aspect, HAND) if self.variant in SPEAK else HAND)
        if self.trains_encoder:  # nothing else computes in another format than float32
            mine["precision"] = resolve_precision(self.precision, self.device)
        mine["experiment"] = self.experiment or f"{self.dataset}-{self.model.replace('/', '_')}"
        return Params.model_construct(**mine)

    def changed(self) -> dict:
        """Return the keys that make this run out of the defaults and its model's recipe: what a notebook is told."""
        deciding = {
            key: getattr(self, key)
            for key in ("dataset", "aspect", "model", "variant", "mode", "epochs", "lr", "train")
        }
        if self.train.startswith(FEW):  # the encoder's usual rate is then the heads'
            deciding["head_lr"] = self.head_lr
        usual = dict(Params.model_construct(**deciding).resolved())
        default = {key: field.default for key, field in Params.model_fields.items()}
        return {key: value for key, value in self if value != default[key] and (key in deciding or value != usual[key])}

    @property
    def run_id(self) -> str:
        """Readable name plus a hash of every key that changes the run's numbers."""
        mine = self.resolved()
        hashed = digest(mine, set(Params.model_fields) - NOT_IN_ID, **mine.parents)
        return f"{mine.experiment}-{mine.aspect}-{mine.variant}-s{mine.seed}-{hashed}"

    @property
    def folder(self) -> Path:
        """Where the run's folder is, or will be."""
        return project_path(self.outputs_root) / "runs" / self.run_id

    @property
    def survey_folder(self) -> Path:
        """Where the folder is, or will be, that notebook 01 shares between all runs on the same data and protocol."""
        return project_path(self.outputs_root) / "data" / self.data_id

    @property
    def data_folder(self) -> Path:
        """Where the data set lies that the run reads, unless it is the demo's."""
        return project_path(self.data_root or f"data/{self.dataset}")

    @property
    def parents(self) -> dict[str, str]:
        """Hashes of the weights, their config and the prompts that a run starts from; a name that is no local file."""
        paths = {"weights": self.weights or self.pretrained, "prompts": self.resume_prompt}
        if self.weights and (beside := Path(self.weights).with_name(WEIGHTS_CONFIG)).is_file():
            paths["config"] = str(beside)
        return {name: _content(path) for name, path in paths.items() if path}

    @property
    def data_id(self) -> str:
        """Name of the (data set, aspect, protocol) that notebook 01 describes, shared by many runs."""
        keep = {key for key in DATA_KEYS if self.dataset == "demo" or not key.startswith("demo_")}
        root = str(project_path(self.data_root)) if self.data_root and self.dataset != "demo" else None
        return f"{self.dataset}-{self.aspect}-{digest(self, keep - NOT_IN_ID, root=root)}"

    def data_only(self) -> "Params":
        """Return the same data and protocol with everything else at its default: what notebook 01 stands on."""
        return Params(**{key: getattr(self, key) for key in DATA_KEYS})

    @property
    def weights(self) -> str | None:
        """The local weights file this run starts from; None where open_clip is to find or make the weights."""
        if self.pretrained is None:
            return str(SHIPPED / "embedded_clip.safetensors") if self.model == EMBEDDED else None
        path = project_path(self.pretrained)
        return str(path) if os.path.isfile(path) else None

    @property
    def notebooks(self) -> tuple[str, ...]:
        """The numbered notebooks this run needs after 01, in order."""
        trained = {PROMPTS: self.learns_prompts, ENCODER: self.trains_encoder}
        return tuple(name for name in NOTEBOOKS[1:] if trained.get(name, True))

    @property
    def learns_prompts(self) -> bool:
        """Whether stage 2a is part of this run."""
        return self.variant == "clipid" and self.mode != ENCODER_FINETUNE

    @property
    def trains_encoder(self) -> bool:
        """Whether stage 1 or 2b is part of this run."""
        return self.variant not in TRAIN_NOTHING and self.mode != PROMPT_LEARN

    @property
    def composes(self) -> str:
        """PromptSG's sentence: ``word`` with a word made of each image, ``fixed`` without; ``none`` for others."""
        if self.variant != "promptsg":
            return "none"
        return "fixed" if self.prompt_form == "fixed" else "word"

    @property
    def stage(self) -> str:
        """The last stage this run trains, as the leaderboard names it."""
        if self.variant == EXTERNAL:
            return EXTERNAL
        if self.variant in TRAIN_NOTHING:
            return "frozen"
        if self.mode == PROMPT_LEARN:
            return PROMPT_LEARN
        return "classifier" if self.variant == "classifier" else ENCODER_FINETUNE


def allowed_words(key: str) -> tuple[str, ...]:
    """Return the words that a key may hold."""
    return get_args(Params.model_fields[key].annotation)


_SHAPES = {key: said.get("anyOf", [said]) for key, said in Params.model_json_schema()["properties"].items()}
_KINDS = {key: {shape.get("type") for shape in shapes} for key, shapes in _SHAPES.items()}
TEXT = {key for key, kinds in _KINDS.items() if "string" in kinds}  # keys that keep what was written
# Keys that hold paths, which may look like anything; other text is one of some words or has a pattern.
PATHS = {key for key in TEXT if not any({"pattern", "enum"} & shape.keys() for shape in _SHAPES[key])} - {"model"}
NUMBERS = {key for key, kinds in _KINDS.items() if kinds & {"integer", "number"}}
# Keys of which one run takes one value and a grid no other: runs are not told apart by them.
ONE_VALUE = NOT_IN_ID - {"experiment", "pretrained", "resume_prompt"}


def describe_odd_number(key: str, value: object) -> str | None:
    """Say what is wrong with text that stands for a number and is no plain decimal; None where nothing is."""
    if key not in NUMBERS or not isinstance(value, str) or DECIMAL.fullmatch(value):
        return None
    return f"write a plain decimal number, such as 4 or 1.0e-4 (or several: [0, 1, 2]), got {value!r}"


def digest(params: Params, keep: set[str], **more: str | None) -> str:
    """Hash the named keys of some params, and more facts, into eight letters."""
    kept = {key: value for key, value in params.model_dump().items() if key in keep} | more
    usual = {key: Params.model_fields[key].default for key in LATER}
    usual |= {"noun": HAND, "bias_factor": recipe_of(params.model).bias_factor}
    kept = {key: value for key, value in kept.items() if key not in LATER or value != usual[key]}
    if logits := kept.pop("prompt_logits", None):  # hashed as version 0.1.0 named both, so that its runs are found
        kept["prompt_loss"] = OLDER_WORDS.get((kept["prompt_loss"], logits), f"{kept['prompt_loss']} {logits}")
    if params.dataset != "demo" and "demo_difficulty" in kept:  # as it was hashed while 0.6 was the default
        kept["demo_difficulty"] = 0.6
    if kept.get("precision") == "float32":  # as it was hashed while auto stood there
        kept["precision"] = "auto"
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def _content(path: str) -> str:
    file = project_path(path)
    return file_sha(file) if os.path.isfile(file) else path


def project_path(path: str) -> Path:
    """Turn a path from params into an absolute one; relative paths start at the project's top folder."""
    return (ROOT / Path(path).expanduser()).resolve()


def refuse_unknown_key(key: str, where: str, otherwise: str | None = None) -> None:
    """Refuse a key that the schema has not, written ``where`` the message says.

    Raises:
        UserError: naming the nearest key; where none is near, it says ``otherwise`` or lists them all.
    """
    if key not in Params.model_fields:
        near = difflib.get_close_matches(str(key), Params.model_fields, n=1)
        others = otherwise or f"known keys: {', '.join(Params.model_fields)}"
        hint = f"did you mean {near[0]!r}?" if near else others
        raise UserError(f"{where}: unknown key {key!r}; {hint}")


def name_source(source: str | dict[str, str], key: str) -> str:
    """Say where a key was written: one name for all keys, or the key's own."""
    return source if isinstance(source, str) else source.get(key, "params")


def validate_params(values: dict, source: str | dict[str, str] = "params") -> Params:
    """Check one flat dictionary of scalars against the schema.

    Args:
        values: key to value, as YAML or papermill delivers them (``"1e-4"`` counts as the number).
        source: where the values came from, as one name or per key, for messages.

    Raises:
        UserError: an unknown key (the nearest is offered), a wrong type or value, keys that contradict.
    """
    for key, value in values.items():
        refuse_unknown_key(key, name_source(source, key))
        if isinstance(value, (list, tuple)):
            raise UserError(
                f"{name_source(source, key)}: {key}: holds the list {list(value)}; one run takes one value "
                f"(`clipreid run` expands lists, papermill takes `-p {key} VALUE`)"
            )
    try:
        return Params(**values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            key = str(first["loc"][0])
            like = WRITTEN.get(key, "") if first["type"] == "string_pattern_mismatch" else ""
            message = f"{like or message[0].lower() + message[1:]}, got {first['input']!r}"
        else:
            key, _, message = message.partition("|")
        raise UserError(f"{name_source(source, key)}: {key}: {message}") from None
