"""Sections `model`, `train` and `precision`: what a training is."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from m2det.config.values import Fraction, Images, Section, Text, ZeroOrAtLeast, plain, setting, shown
from m2det.errors import InputError


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
