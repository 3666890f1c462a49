"""The typed form of params.yaml: one class per section, every key required, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from m2det.errors import InputError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]  # what torch takes
AtLeastOne = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    # strict: YAML has types of its own, and "3" for 3 is a mistake that should not pass
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Source(Section):
    """One annotation file in COCO format and the folder of its images, relative to data.root."""

    annotations: str
    images: str


class DataParams(Section):
    source: Literal["digits", "coco", "coco2014", "coco2014-download", "voc"]
    root: str
    outside: bool
    mirror: Annotated[str, Field(pattern=r"^https?://")]
    train: list[Source]
    val: list[Source]

    @model_validator(mode="after")
    def _sources_fit(self) -> DataParams:
        if self.source == "coco" and not (self.train and self.val):
            raise ValueError("source 'coco' needs at least one entry each in data.train and data.val")
        if self.source != "coco" and (self.train or self.val):
            raise ValueError(f"source {self.source!r} knows its own files: leave data.train and data.val empty")
        if self.source != "digits" and not self.root:
            raise ValueError(f"source {self.source!r} needs data.root, the folder with your annotations and images")
        return self


class PackParams(Section):
    verify: Literal["auto", "decode", "header"]
    images: Literal["original", "jpeg", "raw"]
    side: Count
    quality: Annotated[int, Field(ge=1, le=100)]


class WeightsParams(Section):
    source: str
    sha256: str
    images: Literal["bgr255", "rgb1"]
    checkpoint: str
    least_match: Fraction

    @model_validator(mode="after")
    def _checkpoint_fits(self) -> WeightsParams:
        if (self.source == "checkpoint") != bool(self.checkpoint):
            raise ValueError("source 'checkpoint' and weights.checkpoint (a file) belong together: set both or neither")
        return self


class ModelParams(Section):
    name: str
    sfam: bool
    overrides: dict[str, Any]

    @property
    def all_overrides(self) -> dict[str, Any]:
        """What build_model takes beside the name."""
        return {"sfam": self.sfam, **self.overrides}


class TrainParams(Section):
    batch_size: AtLeastOne
    accumulate: AtLeastOne
    max_steps: Count
    optimizer: Literal["sgd", "adamw"]
    lr: Positive
    lr_batch: AtLeastOne
    schedule: Literal["steps", "cosine"]
    lr_factors: list[Positive]
    milestones: list[Fraction]
    warmup: Fraction
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    decay_norms: bool
    clip_norm: Annotated[float, Field(ge=0)]
    ema: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    normalize: Literal["process", "global"]
    sync_norms: bool
    freeze_backbone: bool
    freeze_norms: bool
    crop_probability: Fraction
    expand_probability: Fraction
    mirror: bool
    workers: Count
    compile: bool
    evaluate_every: AtLeastOne
    log_every: AtLeastOne
    save_every: AtLeastOne
    stop_grace: AtLeastOne
    keep: Literal["final", "best"]

    @model_validator(mode="after")
    def _steps_fit(self) -> TrainParams:
        if len(self.lr_factors) != len(self.milestones) + 1:
            raise ValueError(
                f"train.lr_factors needs one entry more than train.milestones "
                f"({len(self.milestones) + 1}, not {len(self.lr_factors)}): one per stretch between milestones"
            )
        if self.milestones != sorted(self.milestones):
            raise ValueError("train.milestones must rise")
        return self


REFUSED_LEVELS = {
    "O2": "it keeps the network's own weights in half precision beside float32 copies, which gains nothing at this "
    "size; O1 computes in half precision, too",
    "O3": "it trains in half precision alone, which loses small updates",
}


class PrecisionParams(Section):
    opt_level: Literal["O0", "O1"]
    loss_scale: Positive | Literal["dynamic"]
    dtype: Literal["auto", "float16", "bfloat16"]
    backend: Literal["native", "apex"]

    @field_validator("opt_level", mode="before")
    @classmethod
    def _level_is_offered(cls, level: Any) -> Any:
        if level in REFUSED_LEVELS:
            raise ValueError(f"{level!r} is not offered: {REFUSED_LEVELS[level]}; use 'O1'")
        return level


class EvaluateParams(Section):
    batch_size: AtLeastOne
    nms: Literal["hard", "linear", "gaussian"]
    score_threshold: Fraction
    nms_iou: Fraction
    per_class: AtLeastOne
    per_image: Count
    scorer: Literal["auto", "hotcoco", "pycocotools"]


class BenchmarkParams(Section):
    batch_size: AtLeastOne
    warmup: AtLeastOne
    steps: AtLeastOne


class Params(Section):
    epochs: AtLeastOne
    seed: Seed
    device: Literal["auto", "cpu", "cuda", "npu"]
    processes: AtLeastOne | Literal["auto"]
    data: DataParams
    pack: PackParams
    weights: WeightsParams
    model: ModelParams
    train: TrainParams
    precision: PrecisionParams
    evaluate: EvaluateParams
    benchmark: BenchmarkParams

    def section(self, *names: str) -> dict[str, Any]:
        """The named parts as plain values, for fingerprints and cards."""
        everything = self.model_dump(mode="json")
        return {name: everything[name] for name in names}


def dotted(values: dict[str, Any]) -> dict[str, Any]:
    """Sections of params.yaml -> one mapping with keys such as train.lr."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def load_params(path: str | Path) -> Params:
    """Read and check a params.yaml.

    Raises InputError naming the file, every wrong key and what it should be.
    """
    path = Path(path)
    raw = read_yaml(path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{path}: " + "; ".join(_sentence(e, raw) for e in error.errors())) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's keys and values, unchecked. Raises InputError for what is missing, no YAML, or no mapping."""
    if not path.exists():
        raise InputError(f"{path}: no such file; run this in the project's folder, where params.yaml lies")
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        where = str(error).replace("\n", " ")
        raise InputError(f"{path} is not valid YAML: {where}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} must hold keys and values, like the params.yaml the project came with")
    return raw


def _sentence(error: Any, raw: dict[str, Any]) -> str:
    # a union (`processes`) reports each of its members under a name of its own: keep the user's keys only
    keys: list[str] = []
    here: Any = raw
    for part in error["loc"]:
        if not (isinstance(here, dict) and part in here) and not (isinstance(here, list) and isinstance(part, int)):
            break
        keys.append(str(part))
        here = here[part]
    name = ".".join(keys)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{name}' (remove it, or look for a typo)"
    if error["type"] == "missing":
        return f"key '{'.'.join(str(p) for p in error['loc'])}' is missing"
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r}"
