"""One run's params, and what follows from them: nulls replaced by numbers, the run's id, its folders and weights."""

import os
from pathlib import Path

from pydantic import model_validator

from clipreid_lib.base.accelerator import resolve_precision
from clipreid_lib.params.contradictions import refuse_contradictions
from clipreid_lib.params.recipes import EMBEDDED, SHIPPED, WEIGHTS_CONFIG, recipe_of
from clipreid_lib.params.run_ids import DATA_KEYS, NOT_IN_ID, digest, hash_content
from clipreid_lib.params.schema import ENCODER_FINETUNE, HAND, NOUNS, PROMPT_LEARN, SPEAK, Keys, project_path

# Kinds of `train` that take head_lr, ten times as much for ViTs, where encoder_lr is null. Norms' weights lie near 1,
# others near 0.02. With lora-4 an entry of W moves 2 / sqrt(width) as fast as by itself, a fourteenth in ViT-B's 768.
FEW = ("norms", "lora")


class Params(Keys):
    """One run's settings: keys of :class:`clipreid_lib.params.schema.Keys` that go together."""

    @model_validator(mode="after")
    def _check_together(self) -> "Params":
        refuse_contradictions(self)
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
        return {name: hash_content(path) for name, path in paths.items() if path}

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
