"""The typed form of params.yaml: each key's default, range, unit and description, once.

Every key is required in a file and unknown ones are refused: the defaults are what recipes differ from.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from m2det.config.values import (
    File,
    Fraction,
    Images,
    Section,
    Steps,
    Text,
    ZeroOrAtLeast,
    address,
    class_entries,
    plain,
    rendezvous_address,
    setting,
    shown,
    source_of_weights,
)
from m2det.errors import InputError


class Source(Section):
    """One annotation file in COCO format and the folder of its images, relative to data.root."""

    annotations: File
    images: File


Sources = Annotated[list[Source], Field(max_length=100)]
Classes = Annotated[list[Text | dict[Text, list[Text]]], Field(max_length=1000), AfterValidator(class_entries)]


class DataParams(Section):
    """Where images and annotations come from."""

    source: Literal["auto", "digits", "coco", "yolo", "voc", "coco2014", "coco2014-download"] = setting(
        "coco2014",
        "auto (your data under data.root, of the format that its files have), coco, yolo or voc (the same, of that "
        "format), digits (made here), coco2014 (COCO 2014 under data.root), or coco2014-download (fetches it into "
        "data.root)",
    )
    root: File = setting(
        "",
        "folder that data.train and data.val are relative to, itself relative to this file; excluded from DVC's hashes",
    )
    outside: bool = setting(
        False, "allow images outside of their folder: through links, .. or absolute names in annotations"
    )
    orientation: Literal["ask", "exif", "stored"] = setting(
        "ask",
        "pixels that boxes are of, in images that EXIF turns, where the annotated size does not tell: exif (as shown), "
        "stored (as in the file), or ask (stop and say which images)",
    )
    mirror: Annotated[Text, AfterValidator(address)] = setting(
        "http://images.cocodataset.org",
        "host that coco2014-download fetches from, official or a mirror of its layout; excluded from DVC's hashes",
    )
    train: Sources = setting(
        [], "for coco, optional for auto: list of {annotations: FILE.json, images: FOLDER} to train on"
    )
    val: Sources = setting([], "as data.train, to validate on; optional")
    test: Sources = setting(
        [],
        "as data.train, to detect on with evaluate.split: test; for all sources but digits; annotations may be absent, "
        "as in COCO's image_info_test-dev2017.json",
    )
    val_share: Annotated[float, Field(ge=0, le=0.9)] = setting(
        0.2, "share of your images to validate on where no others are given for that; 0 wants them given"
    )
    classes: Classes = setting(
        [],
        "classes to train on, others are left out: a list of names, and of {new name: [names]} to rename or merge; "
        "empty takes all as they are",
    )

    @model_validator(mode="after")
    def _sources_fit(self) -> DataParams:
        if self.source == "coco" and not self.train:
            raise ValueError("source 'coco' needs at least one entry in data.train; source 'auto' looks for the files")
        if self.val and not self.train:
            raise ValueError("data.val is given without data.train: give both, or neither")
        if self.train and not (self.val or self.val_share):
            raise ValueError("no validation images are given in data.val, and data.val_share is 0: give one of them")
        if self.source not in ("auto", "coco") and (self.train or self.val):
            raise ValueError(f"source {self.source!r} knows its own files: leave data.train and data.val empty")
        if self.source == "digits" and self.test:
            raise ValueError("source 'digits' has no test images: leave data.test empty")
        if self.source != "digits" and not self.root:
            raise ValueError(f"source {self.source!r} needs data.root, the folder with your annotations and images")
        return self


class PackParams(Section):
    """How the packed cache keeps images."""

    verify: Literal["auto", "decode", "header"] = setting(
        "auto",
        "decode (decode every image once), header (read markers and sizes only), or auto (decode splits of "
        "fewer than 20,000 images)",
    )
    on_bad_image: Literal["stop", "skip"] = setting(
        "stop",
        "what to do about images that are missing, damaged or not as annotated: stop (all are named), or skip (leave "
        "them out; the cache's manifest lists them)",
    )
    images: Literal["original", "jpeg", "raw"] = setting(
        "original",
        "how training images are kept: original (the files' bytes), jpeg (encoded again) or raw (pixels); the "
        "latter two load faster for more disk or less detail",
    )
    side: Annotated[int, Field(ge=0, le=65_500), AfterValidator(ZeroOrAtLeast(16))] = setting(
        640, "longest side that jpeg and raw keep; 0 keeps any (COCO's images have 640)", "px"
    )
    quality: Annotated[int, Field(ge=1, le=100)] = setting(90, "JPEG quality, for pack.images: jpeg")


class WeightsParams(Section):
    """What training starts from."""

    source: Annotated[File, Field(min_length=1), AfterValidator(source_of_weights)] = setting(
        "vgg16_reducedfc",
        "backbone to start from: random, a file, a URL (with weights.sha256), vgg16_reducedfc or torchvision (their "
        "official URLs; torchvision has ResNets); or checkpoint (a whole model)",
    )
    sha256: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{64})?$")] = setting(
        "", "SHA-256 of that file, 64 hexadecimal digits; empty accepts any file, but none from a URL"
    )
    images: Literal["auto", "bgr255", "rgb1"] = setting(
        "auto",
        "what the backbone was trained on: bgr255 (Caffe's VGG: BGR, 0 to 255, mean subtracted, as here), rgb1 "
        "(torchvision: RGB, 0 to 1, normalized; the first layers are adapted), or auto (by the file's name: rgb1 for "
        "torchvision's ResNets)",
    )
    checkpoint: File = setting("", "for checkpoint: a model.safetensors, or a .pth of the original")
    min_match: Fraction = setting(0.5, "for checkpoint: share of the model's values that the file must supply")

    @model_validator(mode="after")
    def _checkpoint_fits(self) -> WeightsParams:
        if (self.source == "checkpoint") != bool(self.checkpoint):
            raise ValueError("source 'checkpoint' and weights.checkpoint (a file) belong together: set both or neither")
        return self


def _override(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= 100:
        return plain(value)
    numbers = value if isinstance(value, list) else [value]
    numeric = all(isinstance(n, int | float) and -(2**31) <= n <= 2**31 for n in numbers)  # a bool is an int
    if not numeric or len(numbers) > 100:
        raise ValueError(f"takes true, false, a number, a text or a list of numbers, not {shown(value)}")
    return value


Name = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]


class ModelParams(Section):
    """The network."""

    name: Annotated[Text, Field(min_length=1, max_length=100)] = setting(
        "m2det512-vgg16",
        "m2det-tiny, or m2detSIZE-BACKBONE with SIZE 320, 512, 704 or 800 and BACKBONE vgg16 or resnet18 to resnet152",
    )
    sfam: bool = setting(
        False, "scale-wise feature aggregation (paper, section 3.3); the ModelZoo baseline trains without"
    )
    overrides: Annotated[dict[Name, Annotated[Any, AfterValidator(_override)]], Field(max_length=20)] = setting(
        {}, "other fields of M2DetConfig (m2det/model/config.py), such as {levels: 4}"
    )

    @property
    def all_overrides(self) -> dict[str, Any]:
        """What build_model takes beside the name."""
        return {"sfam": self.sfam, **self.overrides}


class RunParams(Section):
    """How a training is run: in no dependency of a stage but the measurements of speed."""

    device: Literal["auto", "cpu", "cuda", "npu"] = setting(
        "auto", "auto (an accelerator if there is one), cpu, cuda or npu"
    )
    processes: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = setting(
        1,
        "training processes of each machine, one per device; auto takes all devices, or a CPU's cores, that "
        "share a step's microbatches evenly",
    )
    nodes: Annotated[int, Field(ge=1, le=1024)] = setting(
        1, "machines that compute together, with run.processes each; on the others run `m2det join`"
    )
    rendezvous: Annotated[str, AfterValidator(rendezvous_address)] = setting(
        "", "HOST:PORT of this machine for the other nodes, in a network that you trust; the next port is used, too"
    )
    join_timeout: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] = setting(
        600, "seconds to wait for the other nodes", "seconds"
    )
    oversubscribe: bool = setting(
        False, "on a CPU, allow more than 4 processes or 2 workers per core (8 of each are always allowed)"
    )
    workers: Annotated[int, Field(ge=0, le=256)] = setting(
        8, "data-loading processes of each training process; 0 loads in the training process"
    )
    compile: bool = setting(
        False, "compile the network with torch.compile (cpu and cuda): minutes of preparation, then faster steps"
    )
    graph: bool = setting(
        False,
        "capture the backbone and the TUMs as graphs (cuda; npu from Atlas A2 on): few launches from the host, more "
        "memory",
    )
    deterministic: bool = setting(
        False, "equal bits from equal runs on cuda and npu, too, at some speed; a CPU's runs have them anyway"
    )
    log_every: Steps = setting(100, "steps between log lines", "steps")
    save_every: Steps = setting(
        500, "steps between checkpoints within an epoch; the end of an epoch always writes one", "steps"
    )
    stop_grace: Annotated[int, Field(ge=1, le=3600)] = setting(
        60, "seconds from a signal to stop until processes are killed", "seconds"
    )

    @model_validator(mode="after")
    def _nodes_can_meet(self) -> RunParams:
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError(
                f"run.nodes is {self.nodes}: set run.rendezvous to HOST:PORT, by which the others reach this machine"
            )
        return self


class TrainParams(Section):
    """What a training is, beside its epochs, its random seed and its network."""

    batch_size: Images = setting(16, "images of a step, all processes together", "images")
    microbatch: Images = setting(16, "images that share batch-norm statistics and one loss divisor", "images")
    max_steps: Annotated[int, Field(ge=0, le=10**9)] = setting(
        0, "steps after which training ends; 0 trains all epochs", "steps"
    )
    optimizer: Literal["sgd", "adamw"] = setting("sgd", "sgd (the original's) or adamw")
    lr: Annotated[float, Field(ge=1e-8, le=10)] = setting(
        0.001, "learning rate (lr) for steps of train.lr_batch_size images"
    )
    lr_batch_size: Annotated[int, Field(ge=1, le=10**8)] = setting(
        16, "images of a step that train.lr is meant for; another train.batch_size scales lr in proportion", "images"
    )
    schedule: Literal["steps", "cosine"] = setting(
        "steps", "after the warm-up: steps (the original's) or cosine (down to 0)"
    )
    gammas: Annotated[list[Annotated[float, Field(ge=1e-6, le=1000)]], Field(max_length=101)] = setting(
        [1.0, 0.5, 0.1, 0.01, 0.001],
        "for steps: factor of lr in each interval between milestones, so one more than milestones",
    )
    warmup: Fraction = setting(0.03125, "fraction of epochs over which lr rises linearly from 1e-6", "epochs")
    milestones: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(max_length=100)] = setting(
        [0.5625, 0.6875, 0.8125, 0.9375],
        "for steps: rising fractions of epochs, where the next interval begins",
        "epochs",
    )
    momentum: Annotated[float, Field(ge=0, le=0.999)] = setting(0.9, "momentum of sgd")
    weight_decay: Fraction = setting(0.0005, "L2 penalty (original: 0.0005; few images want more)")
    weight_decay_norm_bias: bool = setting(True, "decay batch-norm parameters and biases, too, as the original does")
    max_grad_norm: Annotated[float, Field(ge=0, le=1e6), AfterValidator(ZeroOrAtLeast(1e-6))] = setting(
        0.0,
        "maximum gradient norm; 0 does not clip (original). Tiny microbatches at 320 px need it: batch norm "
        "over two values inflates gradients",
    )
    ema_decay: Annotated[float, Field(ge=0, le=0.999999)] = setting(
        0.0, "decay per step of a moving average of the weights; 0 keeps none"
    )
    objective: Literal["multibox", "aligned"] = setting(
        "multibox",
        "multibox (the original's: fixed matching, smooth L1) or aligned (each box takes the priors that predict it "
        "best, GIoU, soft labels)",
    )
    label_smoothing: Annotated[float, Field(ge=0, le=0.9)] = setting(
        0.0, "for multibox: share of a label's probability spread over all classes (original: 0)"
    )
    loss_normalization: Literal["local", "global"] = setting(
        "local",
        "divide the loss by the positive priors of each microbatch (local, the original's) or of the step (global)",
    )
    sync_bn: bool = setting(False, "batch-norm statistics over the microbatches of all processes (cuda and npu)")
    freeze_backbone: bool = setting(False, "do not train the backbone")
    freeze_bn_stats: bool = setting(False, "do not update batch norm's running statistics")
    crop_probability: Annotated[float, Field(ge=0, le=0.99)] = setting(
        0.857143, "probability of training on a crop of an image (original: 6/7)"
    )
    expand_probability: Fraction = setting(0.6, "probability of zooming out into a larger canvas (original: 0.6)")
    hflip: bool = setting(True, "flip half of the images horizontally; off for digits: a mirrored 2 is no 2")
    evaluate_every: Annotated[int, Field(ge=1, le=100_000)] = setting(
        10, "epochs between evaluations on data.val", "epochs"
    )
    keep: Literal["final", "best"] = setting("final", "weights to keep: final, or best (by AP on data.val)")
    patience: Annotated[int, Field(ge=0, le=100_000)] = setting(
        0,
        "evaluations in a row without a better AP after which training ends, for keep: best; 0 trains all epochs",
        "evaluations",
    )

    def accumulation(self, processes: int) -> int:
        """Return how many microbatches each process computes one after the other in a step.

        Raises:
            InputError: batch_size is no multiple of microbatch x processes; names the nearest values that are.
        """
        together = self.microbatch * processes
        if self.batch_size % together:
            below, above = self.batch_size // together * together, -(-self.batch_size // together) * together
            sizes = f"{below} or {above}" if below else f"{above}"
            fitting = self.processes_at_most(processes)
            raise InputError(
                f"train.batch_size is {self.batch_size} images of a step, which {processes} processes with "
                f"microbatches of {self.microbatch} do not divide: set train.batch_size to {sizes}, or "
                f"run.processes (of all nodes together) to {fitting}, or lower train.microbatch"
            )
        return self.batch_size // together

    def processes_at_most(self, limit: int, nodes: int = 1) -> int:
        """Return the highest number of processes per node, up to the limit, that share a step's microbatches evenly.

        It is 1 where that many nodes cannot share them, which `accumulation` refuses.
        """
        shared = self.microbatch * nodes
        return max((n for n in range(1, limit + 1) if self.batch_size % (shared * n) == 0), default=1)

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
        if self.patience and self.keep != "best":
            raise ValueError(
                f"train.patience is {self.patience}, which ends a training some evaluations after its best one, but "
                f"train.keep is {self.keep!r}: set train.keep to 'best', or train.patience to 0"
            )
        if self.objective == "aligned" and self.label_smoothing:
            raise ValueError(
                "train.label_smoothing is for the objective multibox, since aligned makes soft labels of its own: "
                "set it to 0"
            )
        if len(self.gammas) != len(self.milestones) + 1:
            raise ValueError(
                f"train.gammas needs one entry more than train.milestones "
                f"({len(self.milestones) + 1}, not {len(self.gammas)}): one per interval between milestones"
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
    """Number formats of the training's computations."""

    opt_level: Literal["O0", "O1"] = setting(
        "O1", "O0 (float32) or O1 (autocast: the network in low precision, the rest in float32)"
    )
    loss_scale: Annotated[float, Field(ge=2**-14, le=2**24)] | Literal["dynamic"] = setting(
        32.0, "loss scale: static (ModelZoo baseline: 32), or dynamic (halved by an overflow, whose step is skipped)"
    )
    dtype: Literal["auto", "float16", "bfloat16"] = setting(
        "auto", "low-precision dtype: float16, bfloat16, or auto (what the device computes fast)"
    )
    backend: Literal["native", "apex"] = setting(
        "native", "native, or apex (Ascend's, to repeat old runs; not tested on a device)"
    )

    @field_validator("opt_level", mode="before")
    @classmethod
    def _level_is_offered(cls, level: Any) -> Any:
        if isinstance(level, str) and level in REFUSED_LEVELS:
            raise ValueError(f"{level!r} is not offered: {REFUSED_LEVELS[level]}; use 'O1'")
        return level


class EvaluateParams(Section):
    """From the network's output to detections and metrics."""

    split: Literal["val", "test"] = setting(
        "val", "images to detect on: val, or test (those of data.test, or the ones called test in your set)"
    )
    batch_size: Images = setting(16, "images of a step", "images")
    nms: Literal["hard", "linear", "gaussian"] = setting(
        "linear", "hard, linear or gaussian (the latter two are soft-NMS; original: linear)"
    )
    score_threshold: Fraction = setting(0.1, "candidates score more than this, before NMS")
    nms_iou: Fraction = setting(0.3, "IoU above which NMS acts (original's effective value: 0.3)")
    per_class: Annotated[int, Field(ge=1, le=100_000)] = setting(
        100, "detections kept per class and image; COCO's scorer counts up to 100 (original: 50)"
    )
    per_image: Annotated[int, Field(ge=0, le=10**6)] = setting(
        0, "detections kept per image; 0 keeps all (the original)"
    )
    scorer: Literal["auto", "hotcoco", "pycocotools"] = setting(
        "auto", "auto, hotcoco or pycocotools; their numbers agree"
    )


class BenchmarkParams(Section):
    """Sizes of the measurements of speed."""

    batch_size: Images = setting(16, "images of a step", "images")
    warmup: Annotated[int, Field(ge=1, le=10**6)] = setting(
        6, "steps before the timed ones (ModelZoo baseline: 6)", "steps"
    )
    steps: Annotated[int, Field(ge=1, le=10**6)] = setting(50, "timed steps", "steps")


class Params(Section):
    """All of params.yaml."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = setting(160, "passes over the training images")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = setting(
        49, "random seed of initial weights, order of images and augmentation (ModelZoo baseline: 49)"
    )
    run: RunParams
    data: DataParams
    pack: PackParams
    weights: WeightsParams
    model: ModelParams
    train: TrainParams
    precision: PrecisionParams
    evaluate: EvaluateParams
    benchmark: BenchmarkParams

    @property
    def looks_for_test(self) -> bool:
        """Whether the test images are those that the user's own set calls so, since none are named."""
        return self.evaluate.split == "test" and not self.data.test

    @model_validator(mode="after")
    def _has_test_images(self) -> Params:
        if self.looks_for_test and (self.data.source not in ("auto", "yolo") or self.data.train):
            raise ValueError(
                "evaluate.split is 'test', but data.test is empty: list {annotations: FILE.json, images: FOLDER} "
                "there, in COCO's format"
            )
        return self

    def section(self, *names: str) -> dict[str, Any]:
        """Return the named parts as plain values, for fingerprints and cards."""
        everything = self.model_dump(mode="json")
        return {name: everything[name] for name in names}


def dotted(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of sections in one mapping, by keys such as train.lr."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def settings() -> dict[str, FieldInfo]:
    """Return the fields of params.yaml that hold a value, by keys such as epochs and train.lr, in the file's order."""
    found: dict[str, FieldInfo] = {}
    for name, field in Params.model_fields.items():
        kind = field.annotation
        section = kind.model_fields if isinstance(kind, type) and issubclass(kind, Section) else None
        found |= {f"{name}.{key}": inner for key, inner in section.items()} if section else {name: field}
    return found


def default(field: FieldInfo) -> Any:
    """Return a copy of the value that recipes leave out."""
    assert isinstance(field.json_schema_extra, dict)
    return copy.deepcopy(field.json_schema_extra["default"])


def defaults() -> dict[str, Any]:
    """Return the value of every key, in sections."""
    values: dict[str, Any] = {}
    for key, field in settings().items():
        section, _, name = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = default(field)
    return values


def parameter_keys() -> list[str]:
    """Return the keys of params.yaml that hold a value, such as epochs and train.lr."""
    return list(settings())
