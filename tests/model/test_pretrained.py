"""Backbone weights are verified before anything trains on them."""

import hashlib
import http.server
import threading

import cv2
import pytest
import torch
from torch import nn

from m2det import download
from m2det.config import Params, load_params
from m2det.data.sources.digits import photographs
from m2det.errors import InputError
from m2det.files.tensors import load_tensors, save_tensors
from m2det.model import build_model, get_config, published
from m2det.model.model_file import load_trained
from m2det.model.preprocess import mean_bgr, subtract_mean
from m2det.model.pretrained import convert_first_layers, fetch, load_backbone, load_initial, random_backbone
from m2det.model.published import images_of
from m2det.model.vgg import VGG
from tasks.weights import weights
from tests.conftest import ROOT
from tests.golden.reference import keys
from tests.tiny_model import write_tiny_model


@pytest.fixture
def server(tmp_path):
    """A local HTTP server over a folder; yields (folder, address)."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/short":  # promises more than it sends
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b"x" * 10)
            else:
                super().do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        # shutdown() waits for one interval
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_download_is_verified_and_kept(server, tmp_path):
    folder, address = server
    content = b"weights" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "w.pth").write_bytes(content)
    target = tmp_path / "models" / "w.pth"
    assert fetch(f"{address}/w.pth", sha256, target) == sha256
    (folder / "w.pth").unlink()
    assert fetch(f"{address}/w.pth", sha256, target) == sha256, "what is there is not fetched again"
    assert [p.name for p in target.parent.iterdir()] == ["w.pth"]


@pytest.mark.parametrize("path", ["w.pth", "short", "absent.pth"])
def test_a_bad_download_is_not_taken_and_says_where_to_put_the_file(server, tmp_path, path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    folder, address = server
    (folder / "w.pth").write_bytes(b"something else")
    target = tmp_path / "w.pth"
    with pytest.raises(InputError, match=r"put it at .*w\.pth"):
        fetch(f"{address}/{path}", "0" * 64, target)
    assert not target.exists()


def test_no_network_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/w.pth", "0" * 64, tmp_path / "w.pth")


def test_a_file_by_hand_loads_and_a_wrong_one_is_named(tmp_path):
    backbone = random_backbone("m2det-tiny", 3)
    torch.save(backbone.state_dict(), tmp_path / "own.pth")
    loaded = load_backbone("m2det-tiny", tmp_path / "own.pth")
    for key, value in backbone.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    with pytest.raises(InputError, match="does not fit the backbone of m2det320-vgg16"):
        load_backbone("m2det320-vgg16", tmp_path / "own.pth")
    torch.save({"code": print}, tmp_path / "code.pth")
    with pytest.raises(InputError, match="cannot be loaded as plain tensors"):
        load_backbone("m2det-tiny", tmp_path / "code.pth")
    with pytest.raises(InputError, match="no such file"):
        load_backbone("m2det-tiny", tmp_path / "none.pth")


def plain_vgg16():
    """The tensors of a VGG16 classifier in torchvision's layout, small numbers that tell positions apart."""
    vgg = VGG(get_config("m2det512-vgg16").backbone).state_dict()
    convolutions = {key: value for key, value in vgg.items() if int(key.split(".")[0]) < 29}
    state = {f"features.{key}": value for key, value in convolutions.items()}
    state["classifier.0.weight"] = torch.arange(4096 * 49, dtype=torch.float32).view(4096, 1, 49).expand(-1, 512, -1)
    state["classifier.0.weight"] = state["classifier.0.weight"].reshape(4096, 512 * 49)
    state["classifier.0.bias"] = torch.arange(4096.0)
    state["classifier.3.weight"] = torch.arange(4096.0)[:, None] * 4096 + torch.arange(4096.0)
    state["classifier.3.bias"] = torch.arange(4096.0)
    return state


def test_a_plain_vgg16_is_subsampled(tmp_path):
    plain = plain_vgg16()
    torch.save(plain, tmp_path / "vgg16.pth")
    state = load_backbone("m2det512-vgg16", tmp_path / "vgg16.pth").state_dict()
    assert torch.equal(state["0.weight"], plain["features.0.weight"])
    assert torch.equal(state["31.bias"], torch.arange(0, 4096, 4.0))
    fc6 = plain["classifier.0.weight"].view(4096, 512, 7, 7)
    assert state["31.weight"].shape == (1024, 512, 3, 3)
    assert state["31.weight"][5, 7, 1, 2] == fc6[20, 7, 3, 6]
    assert state["33.weight"][3, 9, 0, 0] == plain["classifier.3.weight"][12, 36]


def published_resnet(folder):
    """A ResNet-18 with statistics as of a training, in a file named as torchvision names its own; the tensors."""
    backbone = random_backbone("m2det320-resnet18", 0)
    for name, buffer in backbone.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer += torch.rand_like(buffer) - 0.5
    # as the files that the original loads
    state = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, folder / "new.pth")
    sha256 = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    path = folder / f"resnet18-{sha256[:8]}.pth"
    (folder / "new.pth").rename(path)
    return path, backbone.eval()


def test_a_backbone_of_torchvision_sees_what_it_was_trained_on(tmp_path):
    """Features of a photograph equal those of torchvision's way: RGB, in [0,1], minus its mean, over its deviation."""
    path, twin = published_resnet(tmp_path)
    same = load_backbone("m2det320-resnet18", path).state_dict()
    assert all(torch.equal(same[key], value) for key, value in twin.state_dict().items())
    adapted = load_backbone("m2det320-resnet18", path, images_of(path.name, "auto")).eval()
    bgr = torch.from_numpy(cv2.imread(str(photographs()[0]))[:96, :96]).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalized = (bgr.flip(1) / 255 - mean) / std
    with torch.no_grad():
        ours = subtract_mean(bgr, torch.device("cpu"))
        found, wanted = (net.bn1(net.conv1(x)) for net, x in ((adapted, ours), (twin, normalized)))
        inside = (..., slice(2, -2), slice(2, -2))  # 3 pixels of padding at a stride of 2
        torch.testing.assert_close(found[inside], wanted[inside], atol=1e-4, rtol=1e-4)
        border = (found - wanted).abs().max()
        assert 0 < border < 0.05 < wanted.abs().max() / 20, "padding is this project's mean there, not torchvision's"
        for found, wanted in zip(adapted(ours), twin(normalized), strict=True):
            assert (found - wanted).norm() < 0.01 * wanted.norm()


def test_torchvisions_mean_goes_into_a_bias_if_there_is_one():
    twin, adapted = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    state = twin.state_dict()
    convert_first_layers(state, ["weight", "bias"])
    adapted.load_state_dict(state)
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    rgb = torch.rand(1, 3, 8, 8)
    found, wanted = adapted(255 * rgb.flip(1) - mean_bgr()), twin((rgb - mean) / std)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.fixture
def stage(server, tmp_path, monkeypatch):
    """Run the stage `weights` with these settings, in a folder of its own; torchvision's files are the server's."""
    folder, address = server
    path, _ = published_resnet(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr("tasks.weights.main_root", lambda: tmp_path)
    monkeypatch.setattr(published, "TORCHVISION_FOLDER", address)
    monkeypatch.setitem(published.TORCHVISION, "resnet18", path.name)
    (tmp_path / "models").mkdir()

    def run(model="m2det320-resnet18", **settings):
        values = load_params(ROOT / "params.yaml").model_dump()
        values["model"]["name"] = model
        values["weights"] |= {"source": "torchvision"} | settings
        monkeypatch.setattr("tasks.weights.params", lambda: Params.model_validate(values))
        weights()
        return load_tensors(tmp_path / "models/backbone.safetensors")[0]

    return run, path


def test_torchvisions_weights_are_fetched_checked_kept_and_taken_by_hand(stage, tmp_path, caplog):
    """Under another name, a file needs the word that torchvision trained it; that is said."""
    caplog.set_level("INFO")
    run, path = stage
    fetched, kept = run(), tmp_path / "models/downloads" / path.name
    wanted = load_backbone("m2det320-resnet18", path, "rgb1").state_dict()
    assert all(torch.equal(fetched[f"base.{key}"], value) for key, value in wanted.items())
    path.unlink()
    assert run().keys() == fetched.keys(), "kept, so not fetched again"
    by_hand = run(source=str(kept))
    assert all(torch.equal(by_hand[key], value) for key, value in fetched.items())
    assert "is taken as trained on" not in caplog.text
    (tmp_path / "mine.pth").write_bytes(kept.read_bytes())
    renamed = run(source="mine.pth")
    assert not torch.equal(renamed["base.conv1.weight"], fetched["base.conv1.weight"])
    assert "mine.pth is taken as trained on bgr255; if torchvision trained it, set weights.images: rgb1" in caplog.text
    renamed = run(source="mine.pth", images="rgb1")
    assert all(torch.equal(renamed[key], value) for key, value in fetched.items())
    with pytest.raises(InputError, match=r"weights\.images is bgr255, but resnet18-.*\.pth is torchvision's"):
        run(images="bgr255")
    kept.write_bytes(kept.read_bytes()[:-1])
    for settings in ({}, {"source": str(kept)}):
        with pytest.raises(InputError, match=r"has sha256 .*, not \w{8} as its name says"):
            run(**settings)


def test_without_torchvisions_weights_one_sentence_says_what_is_lost(stage, tmp_path):
    run, path = stage
    path.write_bytes(b"another file")
    for damage in ("as its name says", "cannot be fetched"):
        with pytest.raises(InputError, match=rf"{damage}.*put it at .*models/downloads/{path.name}; or: ") as error:
            run()
        assert "weights.source: random needs no file, but more epochs, and ends at a lower AP" in str(error.value)
        path.unlink(missing_ok=True)
    assert not list((tmp_path / "models/downloads").glob("*.pth"))
    with pytest.raises(InputError, match=r"torchvision, which is for resnet18, .* but model.name is m2det-tiny"):
        run(model="m2det-tiny")


def test_another_number_of_classes_starts_with_fresh_heads_only(tmp_path, caplog):
    caplog.set_level("INFO")
    torch.manual_seed(0)
    given = build_model("m2det-tiny", 10).state_dict()
    save_tensors(tmp_path / "start.safetensors", {key: value.clone() for key, value in given.items()}, {})
    model = build_model("m2det-tiny", 3)
    load_initial(model, tmp_path / "start.safetensors", 0.5)
    own = model.state_dict()
    differing = {key for key in own if own[key].shape != given[key].shape}
    assert differing == {f"conf.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    assert all(torch.equal(own[key], given[key]) for key in own.keys() - differing)
    assert "random initialization: conf.0.weight (24, 128, 3, 3) (the checkpoint has (66, 128, 3, 3))" in caplog.text
    with pytest.raises(InputError, match=r"only .* come from the checkpoint, .*conf\.0\.weight"):
        load_initial(build_model("m2det-tiny", 3), tmp_path / "start.safetensors", 0.999)


def test_a_trained_model_file_starts_a_training_too(tmp_path):
    """It holds each shared layer once; the others' names are filled all the same."""
    weights = write_tiny_model(tmp_path)
    model = build_model("m2det-tiny", 10)
    load_initial(model, weights, 1.0)
    own, given = model.state_dict(), load_trained(weights)[0].state_dict()
    assert all(torch.equal(own[key], given[key]) for key in own)


def test_equal_seeds_give_equal_backbones():
    first, second, other = (random_backbone("m2det-tiny", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_vgg16_has_the_names_of_vgg16_reducedfc():
    reference = keys("m2det512_vgg").items()
    expected = {k.removeprefix("base."): tuple(v) for k, v in reference if k.startswith("base.")}
    vgg = VGG(get_config("m2det512-vgg16").backbone)
    assert {k: tuple(v.shape) for k, v in vgg.state_dict().items()} == expected
