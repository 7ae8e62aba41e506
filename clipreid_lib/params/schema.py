"""Every key of params with its type and default. ``params/base.yaml`` explains them; a test holds the two together."""

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

# In version 0.1.0 one key said what prompt_loss and prompt_logits say now.
OLDER_WORDS = {("supervised", "cosine"): "cosine", ("supervised", "dot"): "supcon", ("infonce", "cosine"): "infonce"}
# Data sets and the aspects they have; nothing where the data itself decides (clipreid_lib/data).
HANDS = ("dorsal_r", "dorsal_l", "palmar_r", "palmar_l")
ASPECTS = {"demo": HANDS, "11k": HANDS, "hd": ("dorsal",), "market1501": ("body",), "folder": ()}
# A number that everybody reads alike: YAML also takes 010 for 8 and 1:30 for 90, Python 2024_01 for 202401.
DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
NOUNS = {"body": "person."}  # by aspect, what sentences end with; else HAND
HAND = "hand."
BURST_GAP = 10  # image numbers; 99.5 % of one hand's neighbours in 11k Hands lie within it


class Keys(BaseModel):
    """The keys of one run, each checked by itself. See ``params/base.yaml`` for their meaning and unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    experiment: str | None = Field(None, pattern=r"^[\w][\w.+-]*$", max_length=100)
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
    return get_args(Keys.model_fields[key].annotation)


_SHAPES = {key: said.get("anyOf", [said]) for key, said in Keys.model_json_schema()["properties"].items()}
_KINDS = {key: {shape.get("type") for shape in shapes} for key, shapes in _SHAPES.items()}
TEXT = {key for key, kinds in _KINDS.items() if "string" in kinds}  # keys that keep what was written
# Keys that hold paths, which may look like anything; other text is one of some words or has a pattern.
PATHS = {key for key in TEXT if not any({"pattern", "enum"} & shape.keys() for shape in _SHAPES[key])} - {"model"}
NUMBERS = {key for key, kinds in _KINDS.items() if kinds & {"integer", "number"}}


def describe_odd_number(key: str, value: object) -> str | None:
    """Say what is wrong with text that stands for a number and is no plain decimal; None where nothing is."""
    if key not in NUMBERS or not isinstance(value, str) or DECIMAL.fullmatch(value):
        return None
    return f"write a plain decimal number, such as 4 or 1.0e-4 (or several: [0, 1, 2]), got {value!r}"


def project_path(path: str) -> Path:
    """Turn a path from params into an absolute one; relative paths start at the project's top folder."""
    return (ROOT / Path(path).expanduser()).resolve()
