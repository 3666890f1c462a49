"""Every member of the family: sizes, backbones, and the switches of the pyramid."""

import pytest
import torch
import torch.nn.functional as F

from m2det.model import build_model, get_config, prior_boxes
from m2det.model.config import BACKBONES
from m2det.model.resnet import ResNet
from tests.golden.reference import keys


def on_meta(name, classes=80, **overrides):
    with torch.device("meta"):
        return build_model(name, classes, **overrides)


@pytest.mark.parametrize(
    ("name", "file", "overrides"),
    [
        ("m2det320-resnet101", "m2det320_resnet101", {}),
        ("m2det320-resnet50", "m2det320_resnet50_sfam", {"sfam": True}),
        ("m2det320-vgg16", "m2det320_vgg_sfam", {"sfam": True}),
        ("m2det512-vgg16", "m2det512_vgg", {}),
    ],
)
def test_keys_and_shapes_are_the_originals_in_order(name, file, overrides):
    shapes = {key: list(value.shape) for key, value in on_meta(name, **overrides).state_dict().items()}
    assert list(shapes.items()) == list(keys(file).items())


EVERY = [(320, backbone) for backbone in BACKBONES] + [(size, "vgg16") for size in (512, 704, 800)]


@pytest.mark.parametrize(("size", "backbone"), [*EVERY, (704, "resnet50")])
def test_every_size_and_backbone_predicts_once_per_prior(size, backbone):
    model = on_meta(f"m2det{size}-{backbone}", 20).eval()
    out = model(torch.empty(1, 3, size, size, device="meta"))
    priors = prior_boxes(f"m2det{size}-{backbone}")
    assert out["loc"].shape == (1, len(priors), 4) and out["conf"].shape == (1, len(priors), 21)
    assert priors.min() >= 0 and priors.max() <= 1


def test_704_and_800_have_the_originals_steps_and_sizes():
    """configs/m2det704_vgg.py and m2det800_vgg.py of the original."""
    assert get_config("m2det704-vgg16").steps == (8, 16, 32, 64, 117, 176)
    assert get_config("m2det704-vgg16").prior_sizes == (0.04, 0.11, 0.23, 0.39, 0.58, 0.80, 1.05)
    assert get_config("m2det800-vgg16").steps == (8, 16, 32, 62, 115, 160)
    assert len(prior_boxes("m2det800-vgg16")) == 80208


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"levels": 3, "scales": 4, "planes": 32}, marks=pytest.mark.slow),
        {"levels": 2, "scales": 3, "planes": 16, "smooth": False},
        {"levels": 4, "scales": 5, "planes": 16, "sfam": True, "shared": False},
        pytest.param(
            {"levels": 2, "scales": 4, "planes": 16, "sizes": [0.1, 0.2, 0.4, 0.6, 0.9]}, marks=pytest.mark.slow
        ),
    ],
)
def test_any_pyramid_predicts_and_learns(overrides):
    model = build_model("m2det160-vgg16", 5, fused=(16, 32), **overrides)
    out = model(torch.zeros(2, 3, 160, 160))
    assert out["loc"].shape[1] == len(prior_boxes(model.config))
    (out["loc"].sum() + out["conf"].sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_separate_layers_are_the_papers_and_shared_ones_the_originals():
    options = {"levels": 2, "scales": 3, "planes": 16, "sfam": True}
    shared, separate = (build_model("m2det128-vgg16", 5, shared=value, **options) for value in (True, False))
    assert shared.leach[0] is shared.leach[1] and shared.sfam_module.fc1[0] is shared.sfam_module.fc1[2]
    assert separate.leach[0] is not separate.leach[1]
    assert separate.sfam_module.fc1[0] is not separate.sfam_module.fc1[2]
    assert list(shared.state_dict()) == list(separate.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_is_he_et_al_with_the_third_layer_unstrided(name):
    """Against the same network written as formulas over its state dict."""
    torch.manual_seed(0)
    config = BACKBONES[name]
    net = ResNet(config).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    state = net.state_dict()

    def norm(x, key):
        mean, var, weight, bias = (state[f"{key}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    x = torch.randn(1, 3, 64, 64)
    out = F.max_pool2d(F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1")), 3, 2, 1)
    taken = {}
    for layer, stride in ((1, 1), (2, 2), (3, 1), (4, 2)):
        for block in range(config.layers[layer - 1]):
            key, step = f"layer{layer}.{block}", stride if block == 0 else 1
            around = out
            if f"{key}.downsample.0.weight" in state:
                around = norm(F.conv2d(out, state[f"{key}.downsample.0.weight"], stride=step), f"{key}.downsample.1")
            if config.bottleneck:
                out = F.relu(norm(F.conv2d(out, state[f"{key}.conv1.weight"]), f"{key}.bn1"))
                middle = F.conv2d(out, state[f"{key}.conv2.weight"], stride=step, padding=1)
                out = norm(F.conv2d(F.relu(norm(middle, f"{key}.bn2")), state[f"{key}.conv3.weight"]), f"{key}.bn3")
            else:
                first = F.conv2d(out, state[f"{key}.conv1.weight"], stride=step, padding=1)
                out = F.conv2d(F.relu(norm(first, f"{key}.bn1")), state[f"{key}.conv2.weight"], padding=1)
                out = norm(out, f"{key}.bn2")
            out = F.relu(out + around)
        taken[layer] = out
    shallow, deep = net(x)
    assert shallow.shape[2:] == (8, 8) and deep.shape[2:] == (4, 4)
    assert torch.allclose(shallow, taken[2], rtol=1e-4, atol=1e-4)
    assert torch.allclose(deep, taken[4], rtol=1e-4, atol=1e-4 * deep.abs().max().item())
