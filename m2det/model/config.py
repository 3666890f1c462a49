"""The configuration of a network, and the named configurations."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from reprlib import repr as short_repr
from typing import Any

from m2det.errors import InputError

MAX_CLASSES = 2**15 - 1  # labels in the packed cache are int16
# minimum and maximum: beyond any network in use, and small enough to check a configuration from a file at no cost
BOUNDS = {"size": (16, 4096), "planes": (2, 2048), "levels": (2, 32), "scales": (3, 9)}  # 9: the most at 4096 px
MAX_CHANNELS = 8192  # of `fused`
ANCHORS_PER_CELL = 6  # two squares and the ratios 2, 1/2, 3, 1/3 (SSD, section 2.2)


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """A plain VGG; its feature maps are the last of block 4 (stride 8) and conv7 (stride 16).

    Attributes:
        blocks: Channels of each convolution, block by block, with a pooling between blocks.
        fc: Channels of conv6 (dilated) and conv7, which replace VGG's fully connected layers.
        batch_norm: Whether batch normalization follows each convolution.
    """

    blocks: tuple[tuple[int, ...], ...]
    fc: int
    batch_norm: bool = False

    def shallow_side(self, size: int) -> int:
        """Return the side in cells of the shallow map, for images of `size` pixels."""
        return ceil(size // 2 // 2 / 2)  # three poolings, the third one rounding up as in SSD


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A ResNet (He et al. 2016, table 1) whose layer3 has stride 1.

    Its feature maps are those of layer2 (stride 8) and layer4 (stride 16).

    Attributes:
        layers: Number of blocks of each layer.
        bottleneck: Whether they are bottlenecks; else basic blocks.
    """

    layers: tuple[int, ...]
    bottleneck: bool

    def shallow_side(self, size: int) -> int:
        """Return the side in cells of the shallow map, for images of `size` pixels."""
        return ceil(size / 8)  # three strided layers, each with padding


BACKBONES: dict[str, VGGConfig | ResNetConfig] = {
    "vgg16": VGGConfig(blocks=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), fc=1024),
    "resnet18": ResNetConfig(layers=(2, 2, 2, 2), bottleneck=False),
    "resnet34": ResNetConfig(layers=(3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNetConfig(layers=(3, 4, 6, 3), bottleneck=True),
    "resnet101": ResNetConfig(layers=(3, 4, 23, 3), bottleneck=True),
    "resnet152": ResNetConfig(layers=(3, 8, 36, 3), bottleneck=True),
}


@dataclass(frozen=True, kw_only=True)
class M2DetConfig:
    """The architecture of a network, without its classes.

    Attributes:
        name: The configuration's name, for get_config.
        size: Side of the square input in pixels.
        backbone: The backbone's configuration.
        planes: Channels of each TUM's outputs.
        levels: Number of TUMs, 2 or more.
        scales: Feature maps of each TUM, 3 or more.
        fused: Channels of the shallow and the deep backbone map in the base feature.
        sfam: Whether to use scale-wise feature aggregation (paper, section 3.3); off in the original's configurations.
        smooth: Whether 1x1 convolutions follow each TUM's top-down path.
        shared: Whether all levels share one leach layer and all scales one pair of SFAM layers, as in the original's
            code and checkpoints; False gives each its own, as in the paper's figures.
        bn_momentum: Momentum of the running statistics in the pyramid; the original's 0.01 needs thousands of steps.
        sizes: Prior sizes as increasing fractions of `size`, one more than scales; empty for `prior_sizes`' defaults.
    """

    name: str
    size: int
    backbone: VGGConfig | ResNetConfig
    planes: int = 256
    levels: int = 8
    scales: int = 6
    fused: tuple[int, int] = (256, 512)
    sfam: bool = False
    smooth: bool = True
    shared: bool = True
    bn_momentum: float = 0.01
    sizes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for key, (low, high) in BOUNDS.items():
            self._require(key, low <= getattr(self, key) <= high, f"{low} to {high}")
        self._require("planes", self.planes % 2 == 0, "an even number")
        channels = all(type(n) is int and 0 < n <= MAX_CHANNELS for n in self.fused)
        self._require("fused", len(self.fused) == 2 and channels, f"two numbers of channels, at most {MAX_CHANNELS}")
        positive = all(type(s) in (int, float) and 0 < s <= 2 for s in self.sizes)
        increasing = positive and all(a < b for a, b in pairwise(self.sizes))
        complete = increasing and len(self.sizes) == self.scales + 1
        expected = f"{self.scales + 1} rising numbers above 0, 2 at most"
        self._require("sizes", complete or not self.sizes, expected)
        self._require("bn_momentum", 0 < self.bn_momentum <= 1, "a number above 0, 1 at most")
        if not self._supports(self.size):
            low, high = BOUNDS["size"]
            candidates = (range(self.size - 1, low - 1, -1), range(self.size + 1, high + 1))
            nearest = [str(next(filter(self._supports, sizes), "")) for sizes in candidates]
            raise InputError(
                f"{self.name}: a pyramid of {self.scales} scales does not work out at {self.size} px (maps "
                f"{self._feature_sizes(self.size)}); the nearest size that does is {' or '.join(filter(None, nearest))}"
            )

    def _require(self, key: str, valid: bool, expected: str) -> None:
        if not valid:
            raise InputError(f"{self.name}: {key} is {short_repr(getattr(self, key))}, but it takes {expected}")

    def _supports(self, size: int) -> bool:
        sides = self._feature_sizes(size)
        return sides[0] % 2 == 0 and sides[-1] >= 1  # even, since the deep map has half the side

    def _feature_sizes(self, size: int) -> tuple[int, ...]:
        sizes = [self.backbone.shallow_side(size)]
        for _ in range(self.scales - 2):
            sizes.append(ceil(sizes[-1] / 2))  # 3x3, stride 2, padding 1
        return (*sizes, sizes[-1] - 2)  # 3x3, no padding

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Sides of the prediction maps in cells, largest first."""
        return self._feature_sizes(self.size)

    @property
    def steps(self) -> tuple[int, ...]:
        """Distance between neighboring priors in pixels, per map, rounded up (the original: 8, 16, ..., 107, 320)."""
        if self.size == 704 and self.scales == 6:
            return (8, 16, 32, 64, 117, 176)  # the original's list: 117 is rounded down
        return tuple(ceil(self.size / side) for side in self.feature_sizes)

    @property
    def prior_sizes(self) -> tuple[float, ...]:
        """`sizes`, or the original's; for other input sizes those of 512 px, for other scales evenly spaced."""
        if self.sizes:
            return self.sizes
        if self.scales == 6:
            return PRIOR_SIZES.get(self.size, PRIOR_SIZES[512])
        first, last = 0.06, 1.05
        return tuple(first + (last - first) * k / self.scales for k in range(self.scales + 1))


PRIOR_SIZES = {  # the original's configs/m2det{320,512,704,800}_vgg.py, size_pattern
    320: (0.08, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    512: (0.06, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    704: (0.04, 0.11, 0.23, 0.39, 0.58, 0.80, 1.05),
    800: (0.04, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
}

TINY = M2DetConfig(
    name="m2det-tiny",
    size=96,
    # with batch normalization: plain VGG hardly trains from random weights, with which `digits` starts
    backbone=VGGConfig(blocks=((16,), (32,), (64, 64), (96, 96), (96,)), fc=128, batch_norm=True),
    planes=64,
    levels=2,
    scales=4,
    fused=(64, 128),
    sfam=True,
    bn_momentum=0.1,
    # large enough, at a distance of cells of 1/12, 1/6, 1/3 of the side, that each box has a prior that fits
    sizes=(0.2, 0.32, 0.5, 0.7, 1.0),
)


def get_config(name_or_config: str | M2DetConfig, **overrides: Any) -> M2DetConfig:
    """Return a configuration with overrides applied.

    Args:
        name_or_config: m2det-tiny, m2det{size}-{backbone} such as m2det512-vgg16 or m2det320-resnet101, or a
            configuration.
        **overrides: Fields of M2DetConfig, such as sfam=True.

    Raises:
        InputError: The name is unknown, or a size or an override does not work.
    """
    for key, value in overrides.items():
        if key not in M2DetConfig.__dataclass_fields__ or key == "name":
            raise InputError(f"no setting of a model is called {short_repr(key)}")
        expected = type(getattr(TINY, key)) if key != "backbone" else VGGConfig | ResNetConfig
        overrides[key] = tuple(value) if isinstance(value, list) else value
        if not isinstance(overrides[key], expected) or (expected is int and isinstance(value, bool)):
            raise InputError(
                f"the model's {key} is {short_repr(value)}, but it takes a value like {getattr(TINY, key)!r}"
            )
    if isinstance(name_or_config, M2DetConfig):
        return replace(name_or_config, **overrides)
    if name_or_config == TINY.name:
        return replace(TINY, **overrides)
    parts = re.fullmatch(r"m2det([0-9]{1,6})-(\w+)", name_or_config)
    if not parts or parts[2] not in BACKBONES:
        raise InputError(
            f"no model is called {short_repr(name_or_config)}; there are {TINY.name} and m2detSIZE-BACKBONE, SIZE in "
            f"pixels (320, 512, 704, 800 are the original's), BACKBONE one of {', '.join(BACKBONES)}"
        )
    return M2DetConfig(**{"name": name_or_config, "size": int(parts[1]), "backbone": BACKBONES[parts[2]], **overrides})
