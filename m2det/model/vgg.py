"""VGG16 with convolutions for its fully connected layers ("reduced fc": Liu et al. 2016, SSD, section 3)."""

from __future__ import annotations

from torch import Tensor, nn

from m2det.model.config import VGGConfig


class VGG(nn.ModuleList):
    """A flat list of layers, numbered as in the original, so that vgg16_reducedfc.pth loads unchanged."""

    def __init__(self, config: VGGConfig) -> None:
        super().__init__()
        channels = 3
        for i, block in enumerate(config.blocks):
            if i > 0:
                # the third pooling rounds up: 75 -> 38 in SSD300
                self.append(nn.MaxPool2d(2, 2, ceil_mode=i == 3))
            for width in block:
                self._append_conv(channels, width, 3, 1, config.batch_norm)
                channels = width
            if i == 3:
                self.shallow_index = len(self) - 1
                self.shallow_channels = channels
        self.append(nn.MaxPool2d(3, 1, padding=1))
        self._append_conv(channels, config.fc, 3, 6, config.batch_norm)
        self._append_conv(config.fc, config.fc, 1, 1, config.batch_norm)
        self.deep_channels = config.fc

    def _append_conv(self, inputs: int, outputs: int, kernel: int, dilation: int, batch_norm: bool) -> None:
        padding = dilation * (kernel // 2)
        self.append(nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=not batch_norm))
        if batch_norm:
            self.append(nn.BatchNorm2d(outputs))
        self.append(nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B,3,S,S] to conv4_3 [B,512,S/8,S/8] and conv7 [B,1024,S/16,S/16]."""
        for i, layer in enumerate(self):
            x = layer(x)
            if i == self.shallow_index:
                shallow = x
        return shallow, x
