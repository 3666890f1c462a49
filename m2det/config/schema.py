"""The typed form of params.yaml: one class per section, every key required, unknown keys refused."""

from __future__ import annotations

import re
import reprlib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from m2det.errors import InputError
from m2det.files.yaml_file import read_yaml
from m2det.text import printable

# Ranges are those that hold on any machine and that no honest setting leaves; what this machine bears, the stages say.
MOST_SENTENCES = 5  # of one file's faults


def _plain(text: str) -> str:
    if printable(text) != text:
        raise ValueError(f"takes printable characters only, got {_shown(text)}")
    if "${" in text or text == "???":
        raise ValueError(f"takes no '${{' and no '???', for which DVC writes other values; got {_shown(text)}")
    return text


def _path(text: str) -> str:
    if len(text.encode()) > 2000 or any(len(part.encode()) > 255 for part in text.split("/")):
        raise ValueError("a path has at most 2,000 bytes, 255 of them between two slashes")
    return text


def _address(text: str) -> str:
    try:
        parts = urlsplit(text)
        host = parts.port != 0 and parts.scheme in ("http", "https") and parts.hostname
    except ValueError:  # brackets, or a port that is no number
        host = None
    if not host or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f"takes an address that begins with http:// or https://, not {_shown(text)}")
    return text


def file_of_address(url: str) -> str:
    """The name under which the address's file is kept."""
    return urlsplit(url).path.rpartition("/")[2]


def _source_of_weights(text: str) -> str:
    if "://" in text and file_of_address(_address(text)) in ("", ".", ".."):
        raise ValueError(f"takes the address of a file, not {_shown(text)}")
    return text


def _zero_or_at_least(least: float) -> AfterValidator:
    def check(value: float) -> float:
        if 0 < value < least:
            raise ValueError(f"takes 0 or at least {least:g}, not {value:g}")
        return value

    return AfterValidator(check)


Text = Annotated[str, Field(max_length=1000), AfterValidator(_plain)]
File = Annotated[Text, AfterValidator(_path)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Images = Annotated[int, Field(ge=1, le=65_536)]  # of a batch
Steps = Annotated[int, Field(ge=1, le=10**9)]


class Section(BaseModel):
    # strict: YAML has types of its own, and "3" for 3 is a mistake that should not pass
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Source(Section):
    """One annotation file in COCO format and the folder of its images, relative to data.root."""

    annotations: File
    images: File


Sources = Annotated[list[Source], Field(max_length=100)]


class DataParams(Section):
    source: Literal["digits", "coco", "coco2014", "coco2014-download", "voc"]
    root: File
    outside: bool
    mirror: Annotated[Text, AfterValidator(_address)]
    train: Sources
    val: Sources

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
    side: Annotated[int, Field(ge=0, le=65_500), _zero_or_at_least(16)]  # 65,500: of m2det/data/packed/encoding.py
    quality: Annotated[int, Field(ge=1, le=100)]


class WeightsParams(Section):
    source: Annotated[File, Field(min_length=1), AfterValidator(_source_of_weights)]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{64})?$")]
    images: Literal["bgr255", "rgb1"]
    checkpoint: File
    min_match: Fraction

    @model_validator(mode="after")
    def _checkpoint_fits(self) -> WeightsParams:
        if (self.source == "checkpoint") != bool(self.checkpoint):
            raise ValueError("source 'checkpoint' and weights.checkpoint (a file) belong together: set both or neither")
        return self


def _override(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= 100:
        return _plain(value)
    numbers = value if isinstance(value, list) else [value]
    plain = all(isinstance(n, int | float) and -(2**31) <= n <= 2**31 for n in numbers)  # a bool is an int
    if not plain or len(numbers) > 100:
        raise ValueError(f"takes true, false, a number, a text or a list of numbers, not {_shown(value)}")
    return value


Name = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]


class ModelParams(Section):
    name: Annotated[Text, Field(min_length=1, max_length=100)]
    sfam: bool
    # which fields there are and what they take, m2det/model/config.py knows
    overrides: Annotated[dict[Name, Annotated[Any, AfterValidator(_override)]], Field(max_length=20)]

    @property
    def all_overrides(self) -> dict[str, Any]:
        """What build_model takes beside the name."""
        return {"sfam": self.sfam, **self.overrides}


class RunParams(Section):
    """How a training is run; nothing in it shapes the result but the order of sums."""

    device: Literal["auto", "cpu", "cuda", "npu"]
    processes: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]
    oversubscribe: bool
    workers: Annotated[int, Field(ge=0, le=256)]
    compile: bool
    log_every: Steps
    save_every: Steps
    stop_grace: Annotated[int, Field(ge=1, le=3600)]


class TrainParams(Section):
    batch_size: Images
    microbatch: Images
    max_steps: Annotated[int, Field(ge=0, le=10**9)]
    optimizer: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(ge=1e-8, le=10)]
    lr_batch_size: Annotated[int, Field(ge=1, le=10**8)]
    schedule: Literal["steps", "cosine"]
    gammas: Annotated[list[Annotated[float, Field(ge=1e-6, le=1000)]], Field(max_length=101)]
    milestones: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(max_length=100)]
    warmup: Fraction
    momentum: Annotated[float, Field(ge=0, le=0.999)]
    weight_decay: Fraction
    weight_decay_norm_bias: bool
    max_grad_norm: Annotated[float, Field(ge=0, le=1e6), _zero_or_at_least(1e-6)]
    ema_decay: Annotated[float, Field(ge=0, le=0.999999)]
    label_smoothing: Annotated[float, Field(ge=0, le=0.9)]
    loss_normalization: Literal["local", "global"]
    sync_bn: bool
    freeze_backbone: bool
    freeze_bn_stats: bool
    crop_probability: Annotated[float, Field(ge=0, le=0.99)]  # drawn until it fails or a crop fits, which none may
    expand_probability: Fraction
    hflip: bool
    evaluate_every: Annotated[int, Field(ge=1, le=100_000)]
    keep: Literal["final", "best"]

    def accumulation(self, processes: int) -> int:
        """Return how many microbatches each process computes one after the other in a step.

        Raises InputError with the nearest values that work where batch_size is not divided by microbatch x processes.
        """
        together = self.microbatch * processes
        if self.batch_size % together:
            below, above = self.batch_size // together * together, -(-self.batch_size // together) * together
            sizes = f"{below} or {above}" if below else f"{above}"
            fitting = max(n for n in range(1, processes + 1) if self.batch_size % (self.microbatch * n) == 0)
            raise InputError(
                f"train.batch_size is {self.batch_size} images of a step, which {processes} processes with "
                f"microbatches of {self.microbatch} do not divide: set train.batch_size to {sizes}, or "
                f"run.processes to {fitting}, or lower train.microbatch"
            )
        return self.batch_size // together

    @model_validator(mode="after")
    def _steps_fit(self) -> TrainParams:
        if self.batch_size % self.microbatch:
            below, above = (
                n * self.microbatch
                for n in (self.batch_size // self.microbatch, -(-self.batch_size // self.microbatch))
            )
            raise ValueError(
                f"train.batch_size ({self.batch_size}) must be a multiple of train.microbatch ({self.microbatch}), "
                f"such as {below or above}"
            )
        if len(self.gammas) != len(self.milestones) + 1:
            raise ValueError(
                f"train.gammas needs one entry more than train.milestones "
                f"({len(self.milestones) + 1}, not {len(self.gammas)}): one per stretch between milestones"
            )
        if any(a >= b for a, b in pairwise(self.milestones)):
            raise ValueError("train.milestones must rise, each above the one before")
        return self


REFUSED_LEVELS = {
    "O2": "it keeps the network's own weights in half precision beside float32 copies, which gains nothing at this "
    "size; O1 computes in half precision, too",
    "O3": "it trains in half precision alone, which loses small updates",
}


class PrecisionParams(Section):
    opt_level: Literal["O0", "O1"]
    loss_scale: Annotated[float, Field(ge=2**-14, le=2**24)] | Literal["dynamic"]
    dtype: Literal["auto", "float16", "bfloat16"]
    backend: Literal["native", "apex"]

    @field_validator("opt_level", mode="before")
    @classmethod
    def _level_is_offered(cls, level: Any) -> Any:
        if isinstance(level, str) and level in REFUSED_LEVELS:
            raise ValueError(f"{level!r} is not offered: {REFUSED_LEVELS[level]}; use 'O1'")
        return level


class EvaluateParams(Section):
    batch_size: Images
    nms: Literal["hard", "linear", "gaussian"]
    score_threshold: Fraction
    nms_iou: Fraction
    per_class: Annotated[int, Field(ge=1, le=100_000)]
    per_image: Annotated[int, Field(ge=0, le=10**6)]
    scorer: Literal["auto", "hotcoco", "pycocotools"]


class BenchmarkParams(Section):
    batch_size: Images
    warmup: Annotated[int, Field(ge=1, le=10**6)]
    steps: Annotated[int, Field(ge=1, le=10**6)]


class Params(Section):
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    run: RunParams
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


def parameter_keys() -> list[str]:
    """The keys of params.yaml that hold a value, such as epochs and train.lr."""
    keys: list[str] = []
    for name, field in Params.model_fields.items():
        section = field.annotation if isinstance(field.annotation, type) else None
        inner = section.model_fields if section and issubclass(section, Section) else None
        keys += [f"{name}.{key}" for key in inner] if inner else [name]
    return keys


def load_params(path: str | Path) -> Params:
    """Read and check a params.yaml.

    Raises InputError naming the file, every wrong key and what it should be.
    """
    path = Path(path)
    return check_params(read_yaml(path), str(path))


def check_params(raw: dict[str, Any], where: str) -> Params:
    """The parameters that these keys and values are.

    Raises InputError that begins with `where` they come from and names wrong keys and what they should be.
    """
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        faults = list(dict.fromkeys(_sentence(e, raw) for e in error.errors()))
        more = [f"and {len(faults) - MOST_SENTENCES} more"] if len(faults) > MOST_SENTENCES else []
        raise InputError(f"{where}: " + "; ".join(faults[:MOST_SENTENCES] + more)) from error


def _sentence(error: Any, raw: dict[str, Any]) -> str:
    # a union (`processes`) reports each of its members under a name of its own: keep the user's keys only
    keys: list[str] = []
    here: Any = raw
    for part in error["loc"]:
        if not (isinstance(here, dict) and part in here) and not (isinstance(here, list) and isinstance(part, int)):
            break
        keys.append(str(part) if re.fullmatch(r"\w{1,60}", str(part)) else _shown(part))
        here = here[part]
    name = ".".join(keys)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{name}' (remove it, or look for a typo)"
    if error["type"] == "missing":
        return f"key '{'.'.join(str(p) for p in error['loc'])}' is missing"
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, got {_shown(error['input'])}"


def _shown(value: Any) -> str:
    """As Python writes it, shortened, on one line."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 80, 80, 3
