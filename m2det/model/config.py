"""The typed description of a network, and the named ones."""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import Any

from m2det.errors import InputError

MOST_CLASSES = 2**15 - 1  # as in the packed data, whose labels are int16
# what a network may be: far beyond what anybody trains, and small enough that a description costs nothing to check
BOUNDS = {"size": (16, 4096), "planes": (2, 2048), "levels": (2, 32), "scales": (3, 9)}  # 9: what works out at 4096 px
MOST_CHANNELS = 8192  # of `fused`
ANCHORS_PER_CELL = 6  # two squares and the ratios 2, 1/2, 3, 1/3 (SSD, section 2.2)


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    """A plain VGG: the channels of each convolution, block by block, a pooling between blocks.

    `fc` are the channels of conv6 (dilated) and conv7, which stand where VGG has its fully connected layers.
    The feature maps taken are the last of block 4 (stride 8) and conv7 (stride 16).
    """

    blocks: tuple[tuple[int, ...], ...]
    fc: int
    batch_norm: bool = False

    def shallow_side(self, size: int) -> int:
        return ceil(size // 2 // 2 / 2)  # three poolings, the third one rounding up as in SSD


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A ResNet (He et al. 2016, table 1): blocks per layer, bottlenecks or basic blocks.

    The feature maps taken are those of layer2 (stride 8) and layer4 (stride 16, because layer3 keeps its input's).
    """

    layers: tuple[int, ...]
    bottleneck: bool

    def shallow_side(self, size: int) -> int:
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
    """Everything that shapes a network except its classes.

    size: side of the square input in pixels.
    planes: channels of each TUM's outputs; levels: number of TUMs (2 or more); scales: maps per TUM (3 or more).
    fused: channels of the shallow and the deep backbone map in the base feature.
    sfam: scale-wise feature aggregation (paper, section 3.3); the original's configurations leave it off.
    smooth: 1x1 convolutions behind each TUM's top-down path.
    shared: one leach layer for all levels and one pair of SFAM layers for all scales, as in the original's code
        and in every checkpoint of it; False makes each its own, as the paper's figures draw them.
    bn_momentum: of the running statistics in the pyramid; the original's 0.01 wants thousands of steps.
    sizes: prior sizes as rising fractions of `size`, one more than scales; empty for the original's (`prior_sizes`).
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
        for key, (least, most) in BOUNDS.items():
            if not least <= getattr(self, key) <= most:
                raise InputError(
                    f"{self.name}: {key} is {shortened(getattr(self, key))}, but it takes {least} to {most}"
                )
        if self.planes % 2:
            raise InputError(f"{self.name}: planes is {self.planes}, but it takes an even number")
        if len(self.fused) != 2 or not all(type(n) is int and 0 < n <= MOST_CHANNELS for n in self.fused):
            raise InputError(
                f"{self.name}: fused is {shortened(self.fused)}, but it takes two numbers of channels, at most "
                f"{MOST_CHANNELS}"
            )
        numbers = all(type(s) in (int, float) and 0 < s <= 2 for s in self.sizes)
        rising = numbers and all(a < b for a, b in pairwise(self.sizes))
        if self.sizes and not (rising and len(self.sizes) == self.scales + 1):
            raise InputError(
                f"{self.name}: sizes is {shortened(self.sizes)}, but it takes {self.scales + 1} rising numbers above "
                "0, 2 at most"
            )
        if not 0 < self.bn_momentum <= 1:
            raise InputError(f"{self.name}: bn_momentum is {self.bn_momentum}, but it takes one above 0, 1 at most")
        if not self._works_at(self.size):
            least, most = BOUNDS["size"]
            around = (range(self.size - 1, least - 1, -1), range(self.size + 1, most + 1))
            nearest = [str(next(filter(self._works_at, sizes), "")) for sizes in around]
            raise InputError(
                f"{self.name}: a pyramid of {self.scales} scales does not work out at {self.size} px (maps "
                f"{self._feature_sizes(self.size)}); the nearest size that does is {' or '.join(filter(None, nearest))}"
            )

    def _works_at(self, size: int) -> bool:
        sides = self._feature_sizes(size)
        return sides[0] % 2 == 0 and sides[-1] >= 1  # even: the deep map has half its side

    def _feature_sizes(self, size: int) -> tuple[int, ...]:
        sizes = [self.backbone.shallow_side(size)]
        for _ in range(self.scales - 2):
            sizes.append(ceil(sizes[-1] / 2))  # 3x3, stride 2, padding 1
        return (*sizes, sizes[-1] - 2)  # 3x3, no padding

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Side of the prediction maps in cells, largest first."""
        return self._feature_sizes(self.size)

    @property
    def steps(self) -> tuple[int, ...]:
        """Pixels between neighbouring priors, per map, rounded up (the original types 8, 16, ..., 107, 320)."""
        if self.size == 704 and self.scales == 6:
            return (8, 16, 32, 64, 117, 176)  # as the original types it: one rounded down
        return tuple(ceil(self.size / side) for side in self.feature_sizes)

    @property
    def prior_sizes(self) -> tuple[float, ...]:
        """`sizes`, or the original's: for other input sizes those of 512 px, for other scales evenly spread."""
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
    # with batch normalisation, because `digits` starts from random weights and plain VGG hardly does
    backbone=VGGConfig(blocks=((16,), (32,), (64, 64), (96, 96), (96,)), fc=128, batch_norm=True),
    planes=64,
    levels=2,
    scales=4,
    fused=(64, 128),
    sfam=True,
    bn_momentum=0.1,
    # against the cells' distance (1/12, 1/6, 1/3 of the side) large enough that some prior always fits
    sizes=(0.2, 0.32, 0.5, 0.7, 1.0),
)


def get_config(name_or_config: str | M2DetConfig, **overrides: Any) -> M2DetConfig:
    """The named configuration, or the given one, with `overrides` such as sfam=True put in.

    Names are m2det-tiny and m2det{size}-{backbone}, such as m2det512-vgg16 or m2det320-resnet101.
    Raises InputError for a name, a size or an override that does not work.
    """
    for key, value in overrides.items():
        if key not in M2DetConfig.__dataclass_fields__ or key == "name":
            raise InputError(f"no setting of a model is called {shortened(key)}")
        kind = type(getattr(TINY, key)) if key != "backbone" else VGGConfig | ResNetConfig
        overrides[key] = tuple(value) if isinstance(value, list) else value
        if not isinstance(overrides[key], kind) or (kind is int and isinstance(value, bool)):
            raise InputError(
                f"the model's {key} is {shortened(value)}, but it takes a value like {getattr(TINY, key)!r}"
            )
    if isinstance(name_or_config, M2DetConfig):
        return replace(name_or_config, **overrides)
    if name_or_config == TINY.name:
        return replace(TINY, **overrides)
    parts = re.fullmatch(r"m2det([0-9]{1,6})-(\w+)", name_or_config)
    if not parts or parts[2] not in BACKBONES:
        raise InputError(
            f"no model is called {shortened(name_or_config)}; there are {TINY.name} and m2detSIZE-BACKBONE, SIZE in "
            f"pixels (320, 512, 704, 800 are the original's), BACKBONE one of {', '.join(BACKBONES)}"
        )
    return M2DetConfig(**{"name": name_or_config, "size": int(parts[1]), "backbone": BACKBONES[parts[2]], **overrides})


def shortened(value: Any) -> str:
    """As Python writes it, the middle of a long one left out: for a sentence."""
    return reprlib.repr(value)
