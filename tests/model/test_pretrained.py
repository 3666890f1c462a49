"""Backbone weights are verified before anything trains on them."""

import hashlib
import http.server
import threading

import pytest
import torch

from m2det.errors import InputError
from m2det.model.config import get_config
from m2det.model.pretrained import fetch, load_backbone, random_backbone
from m2det.model.vgg import VGG


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
        threading.Thread(target=served.serve_forever, daemon=True).start()
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
def test_a_bad_download_leaves_nothing_and_says_where_to_put_the_file(server, tmp_path, path):
    folder, address = server
    (folder / "w.pth").write_bytes(b"something else")
    target = tmp_path / "w.pth"
    with pytest.raises(InputError, match=r"put it at .*w\.pth"):
        fetch(f"{address}/{path}", "0" * 64, target)
    assert not target.exists()


def test_no_network_says_where_to_put_the_file(tmp_path):
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


def test_equal_seeds_give_equal_backbones():
    first, second, other = (random_backbone("m2det-tiny", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_vgg16_has_the_names_of_vgg16_reducedfc(shared):
    import json

    keys = json.loads((shared / "golden/keys_m2det512_vgg.json").read_text())
    expected = {k.removeprefix("base."): tuple(v) for k, v in keys.items() if k.startswith("base.")}
    vgg = VGG(get_config("m2det512-vgg16").backbone)
    assert {k: tuple(v.shape) for k, v in vgg.state_dict().items()} == expected
