"""The typed description of a network, and the named ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from m2det.errors import InputError

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


@dataclass(frozen=True, kw_only=True)
class M2DetConfig:
    """Everything that shapes a network except its classes.

    size: side of the square input in pixels.
    planes: channels of each TUM's outputs; levels: number of TUMs; scales: maps per TUM (at least 3).
    sfam: scale-wise feature aggregation (paper, section 3.3); the original's configurations leave it off.
    smooth: 1x1 convolutions behind each TUM's top-down path.
    bn_momentum: of the running statistics in the pyramid; the original's 0.01 wants thousands of steps.
    size_pattern: prior sizes as fractions of `size`, one more than scales.
    """

    name: str
    size: int
    backbone: VGGConfig
    planes: int = 256
    levels: int = 8
    scales: int = 6
    sfam: bool = False
    smooth: bool = True
    bn_momentum: float = 0.01
    size_pattern: tuple[float, ...] = (0.06, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)

    def __post_init__(self) -> None:
        if len(self.size_pattern) != self.scales + 1:
            raise InputError(f"{self.name}: size_pattern needs {self.scales + 1} entries, one more than scales")
        sizes = self.feature_sizes
        if sizes[0] % 2 or sizes[-1] < 1:
            raise InputError(
                f"{self.name}: a pyramid of {self.scales} scales does not work out at {self.size} px "
                f"(maps {sizes}); choose a size divisible by 64, or fewer scales"
            )

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Side of the prediction maps in cells, largest first."""
        side = ceil(self.size // 2 // 2 / 2)  # three poolings, the third one rounding up as in SSD
        sizes = [side]
        for _ in range(self.scales - 2):
            side = (side + 1) // 2  # 3x3, stride 2, padding 1
            sizes.append(side)
        return (*sizes, side - 2)  # 3x3, no padding

    @property
    def steps(self) -> tuple[int, ...]:
        """Pixels between neighbouring priors, per map (the original types 8, 16, ..., 107, 320)."""
        return tuple(ceil(self.size / side) for side in self.feature_sizes)


VGG16 = VGGConfig(blocks=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), fc=1024)
# Batch normalisation, because `digits` starts from random weights and plain VGG hardly does.
VGG_SLIM = VGGConfig(blocks=((16,), (32,), (64, 64), (96, 96), (96,)), fc=128, batch_norm=True)

CONFIGS = {
    config.name: config
    for config in (
        M2DetConfig(name="m2det512-vgg16", size=512, backbone=VGG16),
        M2DetConfig(
            name="m2det320-vgg16",
            size=320,
            backbone=VGG16,
            size_pattern=(0.08, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        ),
        M2DetConfig(
            name="m2det-tiny",
            size=96,
            backbone=VGG_SLIM,
            planes=64,
            levels=2,
            scales=4,
            sfam=True,
            bn_momentum=0.1,
            # against the cells' distance (1/12, 1/6, 1/3 of the side) large enough that some prior always fits
            size_pattern=(0.2, 0.32, 0.5, 0.7, 1.0),
        ),
    )
}


def get_config(name_or_config: str | M2DetConfig, **overrides: Any) -> M2DetConfig:
    """The named configuration, or the given one, with `overrides` such as sfam=True put in.

    Raises InputError for a name that does not exist or an override that a configuration does not have.
    """
    if isinstance(name_or_config, str):
        if name_or_config not in CONFIGS:
            raise InputError(f"no model is called {name_or_config!r}; there are {', '.join(CONFIGS)}")
        config = CONFIGS[name_or_config]
    else:
        config = name_or_config
    unknown = set(overrides) - set(config.__dataclass_fields__)
    if unknown:
        raise InputError(f"{config.name}: no setting is called {', '.join(sorted(unknown))}")
    return replace(config, **overrides)
