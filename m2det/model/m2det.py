"""The network: backbone, multi-level feature pyramid, heads (Zhao et al. 2019, figure 2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from m2det.errors import InputError
from m2det.model.config import ANCHORS_PER_CELL, MAX_CLASSES, M2DetConfig, ResNetConfig, VGGConfig, get_config
from m2det.model.mlfpn import SFAM, TUM, BasicConv, SharedConv, repeat, upsample_nearest_to
from m2det.model.resnet import ResNet
from m2det.model.vgg import VGG


class M2Det(nn.Module):
    """The network of figure 2; `config` is its configuration.

    Attributes have the original's names and order (unet = TUM, leach = the 1x1 convolution of FFMv2), so that state
    dicts are interchangeable.
    """

    def __init__(self, config: M2DetConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        planes, channels = config.planes, config.planes * config.levels
        shallow, deep = config.fused
        for i in range(config.levels):
            inputs = planes // 2 + (planes if i > 0 else 0)
            self.add_module(f"unet{i + 1}", TUM(inputs, planes, config.scales, config.smooth))
        self.base = build_backbone(config.backbone)
        self.reduce = BasicConv(self.base.shallow_channels, shallow, 3, 1, 1)
        self.up_reduce = BasicConv(self.base.deep_channels, deep, 1)
        self.Norm = nn.BatchNorm2d(channels)
        make_leach = partial(SharedConv, calls=config.levels) if config.shared else BasicConv
        self.leach = repeat(config.levels, config.shared, lambda: make_leach(shallow + deep, planes // 2, 1))
        self.loc = nn.ModuleList(nn.Conv2d(channels, ANCHORS_PER_CELL * 4, 3, padding=1) for _ in range(config.scales))
        self.conf = nn.ModuleList(
            nn.Conv2d(channels, ANCHORS_PER_CELL * (num_classes + 1), 3, padding=1) for _ in range(config.scales)
        )
        self.sfam_module = SFAM(channels, config.scales, config.shared) if config.sfam else nn.Identity()
        self._init_weights()

    def _init_weights(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, BasicConv):
                nn.init.kaiming_normal_(module.conv.weight, mode="fan_out")
                module.set_momentum(self.config.bn_momentum)
            elif name.startswith(("loc.", "conf.")) and isinstance(module, nn.Conv2d):
                assert module.bias is not None
                nn.init.zeros_(module.bias)  # the weights keep torch's initialization, as in the original

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return `loc` [B,P,4] (boxes encoded against the priors) and `conf` [B,P,C+1] (logits, background first).

        Args:
            images: float32 [B,3,S,S] BGR with the mean subtracted.
        """
        base = self.ffm_v1(*self.base(images))
        pyramids: list[list[Tensor]] = []
        for level, leach in enumerate(self.leach):
            if level == 0 or not self.config.shared:
                thinned = leach(base)
            # a view, so that the first TUM's gradients are added up first, as they are where it is a captured graph
            x = self.ffm_v2(thinned, pyramids[-1][-1]) if pyramids else thinned.view_as(thinned)
            pyramids.append(self.get_submodule(f"unet{level + 1}")(x))  # a TUM
        # one map per scale from all levels, largest scale first
        maps = [torch.cat(same_scale, dim=1) for same_scale in zip(*pyramids, strict=True)][::-1]
        maps = self.sfam_module(maps)
        maps[0] = self.Norm(maps[0])
        return {"loc": _predict(self.loc, maps, 4), "conf": _predict(self.conf, maps, self.num_classes + 1)}

    @contextmanager
    def in_forward_order(self) -> Iterator[None]:
        """Register the parts in the order in which forward uses them, while inside.

        DDP expects gradients in the reverse of the order in which it finds the parameters. In the original's order it
        would hold back those of the TUMs until those of the backbone, which come last, are there.
        """
        original = dict(self._modules)
        tums = [name for name in original if name.startswith("unet")]
        used = ["base", "reduce", "up_reduce", "leach", *tums]
        self._set_order([*used, *(name for name in original if name not in used)])
        try:
            yield
        finally:
            self._set_order(list(original))

    def _set_order(self, names: list[str]) -> None:
        parts = dict(self._modules)
        self._modules.clear()
        self._modules.update({name: parts[name] for name in names})

    def ffm_v1(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """FFMv1 (section 3.1, figure 4a): fuse the backbone's two maps into the base feature [B,768,S/8,S/8]."""
        shallow = self.reduce(shallow)
        return torch.cat([shallow, upsample_nearest_to(self.up_reduce(deep), shallow.shape[2:])], dim=1)

    def ffm_v2(self, thinned: Tensor, largest: Tensor) -> Tensor:
        """FFMv2 (section 3.1, figure 4b): concatenate the thinned base feature and the last TUM's largest map."""
        return torch.cat([thinned, largest], dim=1)


def first_names(model: nn.Module) -> dict[str, str]:
    """Map each key of the state dict to the first key of the same tensor: a shared layer has several keys."""
    first: dict[int, str] = {}
    return {key: first.setdefault(id(tensor), key) for key, tensor in model.state_dict(keep_vars=True).items()}


def _predict(heads: nn.ModuleList, maps: list[Tensor], width: int) -> Tensor:
    """Apply one convolution per map -> [B,P,width], in the priors' order: map, row, column, anchor."""
    outputs = [head(x).permute(0, 2, 3, 1).flatten(1) for head, x in zip(heads, maps, strict=True)]
    return torch.cat(outputs, dim=1).unflatten(1, (-1, width))


def build_backbone(config: VGGConfig | ResNetConfig) -> VGG | ResNet:
    """Return a backbone with He-initialized weights, from torch's global random generator."""
    backbone = VGG(config) if isinstance(config, VGGConfig) else ResNet(config)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return backbone


def build_model(name_or_config: str | M2DetConfig, num_classes: int, **overrides: Any) -> M2Det:
    """Return a network with random weights from torch's global generator.

    Args:
        name_or_config: As for get_config.
        num_classes: Number of foreground classes.
        **overrides: Fields of M2DetConfig, such as sfam=True.

    Raises:
        InputError: The name is unknown, or a setting or the number of classes does not work.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise InputError(f"a model of {num_classes} classes? it takes 1 to {MAX_CLASSES}")
    return M2Det(get_config(name_or_config, **overrides), num_classes)
