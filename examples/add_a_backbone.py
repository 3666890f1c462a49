"""Add a backbone and build M2Det on it: `python examples/add_a_backbone.py`.

A backbone of the VGG or ResNet family is one entry in BACKBONES: its name then works wherever a model's name does. For
another family, write a module with `shallow_channels`, `deep_channels` and a forward that returns the two feature
maps (strides 8 and 16), and a branch for its config in `build_backbone` (m2det/model/m2det.py).
"""

import torch

from m2det.model import build_model, prior_boxes
from m2det.model.config import BACKBONES, VGGConfig

BACKBONES["vgg11"] = VGGConfig(  # Simonyan and Zisserman 2015, table 1, column A, with batch normalization
    blocks=((64,), (128,), (256, 256), (512, 512), (512, 512)), fc=1024, batch_norm=True
)

name = "m2det320-vgg11"
model = build_model(name, num_classes=80, levels=2, planes=64).eval()
images = torch.zeros(1, 3, model.config.size, model.config.size)
with torch.no_grad():
    shallow, deep = model.base(images)
    outputs = model(images)

print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
print(f"backbone maps {tuple(shallow.shape)} and {tuple(deep.shape)}")
print(f"loc {tuple(outputs['loc'].shape)}, conf {tuple(outputs['conf'].shape)}, priors {len(prior_boxes(name))}")
