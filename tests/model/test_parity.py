"""The network computes the original's numbers from the original's parameters."""

import re

import numpy as np
import pytest
import torch

from m2det.errors import InputError
from m2det.model import build_model, get_config, load_reference_state_dict, prior_boxes
from tests.golden.reference import arrays, fill, image, keys

CASES = [("m2det512-vgg16", "m2det512_vgg", {}), ("m2det320-vgg16", "m2det320_vgg_sfam", {"sfam": True})]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file", "overrides"), CASES)
def test_forward_equals_the_original(name, file, overrides):
    shapes, expected = keys(file), arrays(f"forward_{file}")
    model = build_model(name, 80, **overrides).eval()
    assert list(model.state_dict()) == list(shapes)
    assert sum(p.numel() for p in model.parameters()) == int(expected["nparams"])
    report = load_reference_state_dict(
        model,
        {"module." + key: torch.from_numpy(np.asarray(fill(key, shape))) for key, shape in shapes.items()},
    )
    assert (report.missing, report.unexpected) == ([], [])
    with torch.inference_mode():
        out = model(torch.from_numpy(image(7, 1, model.config.size)))
    for key in ("loc", "conf"):
        actual = out[key][0].numpy()
        scale = np.abs(expected[key]).max()
        assert np.abs(actual[expected["idx"]] - expected[key]).max() <= 1e-4 * scale
        assert np.abs(actual).mean() == pytest.approx(float(expected[f"{key}_abs"]), rel=1e-4)
    assert out["conf"].shape[1:] == tuple(expected["shape"])


@pytest.mark.parametrize(("name", "file"), [("m2det512-vgg16", "m2det512_vgg"), ("m2det320-vgg16", "m2det320_vgg")])
def test_priors_equal_the_original(name, file):
    expected, priors = arrays(f"priors_{file}"), prior_boxes(name).numpy()
    assert len(priors) == expected["count"]
    assert np.abs(priors[::7] - expected["priors"]).max() <= 1e-6
    np.testing.assert_allclose(priors.sum(0, np.float64), expected["sum"], rtol=1e-6)


def test_one_prediction_per_prior():
    model = build_model("m2det-tiny", 10).eval()
    with torch.inference_mode():
        out = model(torch.zeros(2, 3, 96, 96))
    priors = prior_boxes("m2det-tiny")
    assert out["loc"].shape == (2, len(priors), 4)
    assert out["conf"].shape == (2, len(priors), 11)


def test_leach_is_one_shared_module():
    model = build_model("m2det-tiny", 10)
    assert model.leach[0] is model.leach[1]
    assert model.state_dict()["leach.0.conv.weight"].data_ptr() == model.state_dict()["leach.1.conv.weight"].data_ptr()


def test_a_head_of_the_wrong_size_is_named():
    state = build_model("m2det-tiny", 20).state_dict()
    with pytest.raises(InputError, match=r"conf\.0\.\w+.*the checkpoint has \(126.*the model \(66"):
        load_reference_state_dict(build_model("m2det-tiny", 10), state)


def test_a_checkpoint_without_a_layer_is_refused():
    model = build_model("m2det-tiny", 10)
    state = dict(model.state_dict())
    del state["reduce.conv.weight"]
    with pytest.raises(InputError, match=r"lacks 1 .* reduce\.conv\.weight"):
        load_reference_state_dict(model, state)


def test_layers_that_differ_are_not_loaded_into_a_shared_one():
    separate = build_model("m2det-tiny", 10, shared=False).state_dict()
    with pytest.raises(InputError, match=r"leach\.0\.conv\.weight and leach\.1\.conv\.weight differ: .* shared=False"):
        load_reference_state_dict(build_model("m2det-tiny", 10), separate)
    load_reference_state_dict(build_model("m2det-tiny", 10, shared=False), separate)


def test_what_fits_can_be_loaded_alone():
    model, other = build_model("m2det-tiny", 10), build_model("m2det-tiny", 20).state_dict()
    report = load_reference_state_dict(model, {**other, "more": torch.zeros(1)}, strict=False)
    assert report.unexpected == ["more"] and len(report.matched) + len(report.missing) == len(model.state_dict())
    assert report.missing == sorted(f"conf.{i}.{kind}" for i in range(4) for kind in ("weight", "bias"))
    assert torch.equal(model.state_dict()["reduce.conv.weight"], other["reduce.conv.weight"])


def test_wrong_names_and_sizes_end_in_a_sentence():
    with pytest.raises(InputError, match=r"no model is called 'm2det512'.*resnet101"):
        get_config("m2det512")
    with pytest.raises(
        InputError, match=r"does not work out at 330 px .*41, 21, .* nearest size that does is 323 or 332"
    ):
        get_config("m2det330-vgg16")
    with pytest.raises(InputError, match="scales is 10, but it takes 3 to 9"):
        get_config("m2det4096-vgg16", scales=10)
    for size in (16, 330, 512):  # the most scales: some size has room for them, none beyond the bound is advised
        with pytest.raises(InputError, match=r"the nearest size that does is \d+( or \d+)?$") as error:
            get_config(f"m2det{size}-vgg16", scales=9)
        advised = re.search(r"does is (\d+)(?: or (\d+))?$", str(error.value)).groups()
        for side in filter(None, advised):
            get_config(f"m2det{side}-vgg16", scales=9)
    with pytest.raises(InputError, match="no setting of a model is called 'sfan'"):
        get_config("m2det320-vgg16", sfan=True)
    with pytest.raises(InputError, match="levels is 1, but it takes 2 to 32"):
        get_config("m2det320-vgg16", levels=1)
    with pytest.raises(InputError, match="levels is '4', but it takes a value like 2"):
        get_config("m2det320-vgg16", levels="4")
    with pytest.raises(InputError, match=r"fused is \(64,\), but it takes two"):
        get_config("m2det320-vgg16", fused=[64])
    with pytest.raises(InputError, match="takes 5 rising numbers above 0"):
        get_config("m2det-tiny", sizes=[0.1, -1, 1, 2, 3])


@pytest.mark.parametrize(
    "overrides",
    [
        {"levels": 10_000_000},
        {"scales": 10**9},
        {"planes": 10**6},
        {"size": 10**12},
        {"fused": [10**9, 1]},
        {"fused": [True, 2]},
        {"sizes": [float("nan"), 1, 1, 1, 1]},
        {"sizes": [1.0] * 10**6},
        {"bn_momentum": float("inf")},
        {"levels": 10**4000},
        {"name": "other"},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_settings_without_bounds_end_in_a_short_sentence(overrides):
    """A model file may come from anywhere, and a typing error in params.yaml from oneself."""
    with pytest.raises(InputError) as error:
        get_config("m2det-tiny", **overrides)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("classes", [0, -1, 10**6])
def test_a_number_of_classes_without_bounds_ends_in_a_sentence(classes):
    with pytest.raises(InputError, match="it takes 1 to 32767"):
        build_model("m2det-tiny", classes)


def test_a_name_with_any_number_in_it_ends_in_a_sentence():
    for name in ("m2det" + "9" * 5000 + "-vgg16", "m2det999999-vgg16", "m2det0-vgg16", "m2det\n-vgg16"):
        with pytest.raises(InputError) as error:
            get_config(name)
        assert len(str(error.value).splitlines()) == 1
