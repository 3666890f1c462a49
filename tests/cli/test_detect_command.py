"""`m2det detect`: what it takes, what it writes, and what is left when a picture is broken or Ctrl-C comes."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from m2det.cli.main import main
from m2det.detect.video import open_video
from tests.conftest import ROOT
from tests.tiny_model import CLASSES, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def photos(tmp_path):
    """Return a folder with a.jpg, b.png and deep/c.jpg."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "deep/c.jpg"):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (60, 90, 3), np.uint8))
    return folder


@pytest.fixture
def detect(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words, score="0.05"):
        options = ["--weights", str(model), "--device", "cpu", "--score", score]
        return main(["detect", *map(str, words), *options])

    return run


def entries(path=Path("detected/detections.json")):
    return json.loads(path.read_text())


def test_a_broken_picture_is_named_and_the_others_are_done(detect, photos, capsys):
    (photos / "aa.jpg").write_bytes(b"\xff\xd8 broken")
    assert detect(photos, "--json=detected/detections.json") == 1
    output = capsys.readouterr()
    assert "skipped:" in output.err and "error: 1 of 3 images could not be read, the first: " in output.err
    assert {entry["file_name"] for entry in entries()} == {"a.jpg", "b.png"}
    assert sorted(path.name for path in Path("detected").iterdir()) == ["a.jpg", "b.jpg", "detections.json"]
    assert output.out.splitlines()[-1].startswith("2 images, ")


def test_a_strip_of_pixels_takes_little_memory(detect, tmp_path):
    cv2.imwrite(str(tmp_path / "strip.png"), np.zeros((1, 4000, 3), np.uint8))
    assert detect(tmp_path / "strip.png") == 0
    assert cv2.imread("detected/strip.jpg").shape[1] <= 16_000


def test_stdout_takes_json_alone(detect, photos, capsys):
    assert detect(photos, "--no-pictures", "--json=-") == 0
    output = capsys.readouterr()
    assert len({entry["image_id"] for entry in json.loads(output.out)}) == 2
    assert "2 images, " in output.err and not Path("detected").exists()


def test_json_never_takes_a_picture_for_its_file(photos, capsys):
    with pytest.raises(SystemExit):
        main(["detect", "--json", str(photos / "a.jpg"), "--weights", "m"])
    assert "put --json last" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["recursive", "pattern", "stdin", "deep pattern"])
def test_folders_patterns_and_lists(detect, photos, monkeypatch, given):
    if given == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"photos/a.jpg\nphotos/deep/c.jpg\n")))
    words = {"recursive": [photos, "--recursive"], "pattern": ["photos/*.jpg"], "stdin": ["-"]}
    assert detect(*words.get(given, ["photos/**/*.jpg"])) == 0
    drawn = sorted(str(path) for path in Path("detected").rglob("*.jpg"))
    expected = {
        "recursive": ["detected/a.jpg", "detected/b.jpg", "detected/deep/c.jpg"],
        "pattern": ["detected/a.jpg"],
    }
    assert drawn == expected.get(given, ["detected/a.jpg", "detected/c.jpg"])


def test_earlier_results_are_not_searched(detect, photos, monkeypatch):
    monkeypatch.chdir(photos)
    for _ in range(2):
        assert detect(".", "--recursive") == 0
    assert len(list(Path("detected").rglob("*.jpg"))) == 3


def test_yolo_labels_and_crops(detect, photos):
    assert detect(photos, "--txt", "--crops", "--no-pictures", "--json=found.json") == 0
    found = [entry for entry in entries(Path("found.json")) if entry["file_name"] == "a.jpg"]
    lines = [line.split() for line in Path("detected/labels/a.txt").read_text().splitlines()]
    assert len(lines) == len(found) > 0
    for (label, *numbers), entry in zip(lines, found, strict=True):
        x, y, w, h, score = map(float, numbers)
        box = [(x - w / 2) * 90, (y - h / 2) * 60, w * 90, h * 60]
        np.testing.assert_allclose([*box, score], [*entry["bbox"], entry["score"]], atol=0.02)
        assert int(label) == entry["category_id"] - 1
    name = CLASSES[found[0]["category_id"] - 1]
    assert cv2.imread(f"detected/crops/{name}/a_1.jpg") is not None
    assert len(list(Path("detected/crops").rglob("a_*.jpg"))) == len(found)


def test_classes_and_counts(detect, photos):
    assert detect(photos / "a.jpg", "--classes", "3", "--max", "2", "--json=found.json") == 0
    found = entries(Path("found.json"))
    assert 0 < len(found) <= 2 and {entry["category_id"] for entry in found} == {4}
    assert detect(photos / "a.jpg", "--classes", "cat") == 1


def test_results_with_the_ids_of_annotations_are_scored(detect, photos, capsys):
    from m2det.evaluate import coco_metrics

    categories = [{"id": 100 + i, "name": name} for i, name in enumerate(CLASSES)]
    images = [{"id": 77, "file_name": "deep/c.jpg", "width": 90, "height": 60}]
    images.append({"id": 5, "file_name": "b.png", "width": 90, "height": 60})
    truth = {"images": images, "annotations": [], "categories": categories}
    Path("truth.json").write_text(json.dumps(truth))
    words = (photos, "--recursive", "--no-pictures", "--annotations", "truth.json", "--json=found.json")
    assert detect(*words) == 0
    assert "a.jpg is not in the annotations" in capsys.readouterr().err
    found = entries(Path("found.json"))
    assert {entry["image_id"] for entry in found} == {5, 77} and found[0]["category_id"] >= 100
    best = max(found, key=lambda entry: entry["score"])
    box = {key: best[key] for key in ("image_id", "category_id", "bbox")}
    truth["annotations"] = [box | {"id": 1, "area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0}]
    Path("truth.json").write_text(json.dumps(truth))
    assert coco_metrics("truth.json", "found.json")["AP50"] > 0.5


def test_a_model_of_other_classes_than_the_annotations_is_refused(detect, photos, capsys):
    image = {"id": 1, "file_name": "a.jpg", "width": 90, "height": 60}
    truth = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    Path("truth.json").write_text(json.dumps(truth))
    assert detect(photos / "a.jpg", "--annotations", "truth.json", "--json=found.json") == 1
    assert "has no category '0', which the model detects" in capsys.readouterr().err


def write_video(path, frames, rate):
    av = pytest.importorskip("av")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif" if path.suffix == ".gif" else "libx264", rate=rate)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 255, (64, 96, 3), np.uint8)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format=stream.pix_fmt))
            )
        container.mux(stream.encode())


@pytest.mark.parametrize("name", ["clip.mkv", "clip.gif"])
def test_a_video_is_drawn_with_its_frame_rate(detect, tmp_path, name):
    av = pytest.importorskip("av")
    write_video(tmp_path / name, 11, 10)
    assert detect(tmp_path / name, "--json=found.json") == 0
    with av.open("detected/clip.mp4") as container:
        [stream] = container.streams.video
        assert stream.average_rate == 10 and len(list(container.decode(stream))) == 11
    assert {entry["frame"] for entry in entries(Path("found.json"))} == set(range(1, 12))


@pytest.mark.parametrize(("degrees", "mirrored"), [(0, False), (90, False), (180, False), (270, False), (90, True)])
def test_a_film_that_a_telephone_has_turned_is_upright(detect, tmp_path, degrees, mirrored):
    """As players show it: stored 96 x 64, turned counterclockwise and then mirrored by the container's matrix."""
    av = pytest.importorskip("av")
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:32, :48] = 200  # the upper left corner alone is bright
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV writes no display matrix")
        stream.set_display_rotation(degrees, hflip=mirrored)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="bgr24")))
        container.mux(stream.encode())
    shown = np.rot90(stored, degrees // 90)
    shown = shown[:, ::-1] if mirrored else shown
    with open_video(tmp_path / "clip.mp4", is_camera=False) as video:
        for frame in video.frames():
            assert frame.shape == shown.shape and np.abs(frame.astype(int) - shown).mean() < 8
    assert detect(tmp_path / "clip.mp4", score="1") == 0
    with av.open("detected/clip.mp4") as container:
        [drawn, *_] = container.decode(video=0)
        assert (drawn.height, drawn.width) == shown.shape[:2]
        assert np.abs(drawn.to_ndarray(format="bgr24").astype(int) - shown).mean() < 8


def test_a_damaged_video_is_a_sentence(detect, tmp_path, capsys):
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    assert detect(tmp_path / "clip.mp4") == 1
    assert "clip.mp4 cannot be opened as a video" in capsys.readouterr().err


def test_a_camera_that_is_absent_is_a_sentence(detect, capsys):
    assert detect("camera:77") == 1
    assert "there is no /dev/video77" in capsys.readouterr().err


def test_tiles_find_more_small_objects_and_each_once(detect, photos):
    large = cv2.resize(cv2.imread(str(photos / "a.jpg")), (360, 240))
    cv2.imwrite("large.png", large)
    counts = {}
    for tiles in ((), ("--tiles", "96")):
        assert detect("large.png", "--no-pictures", "--json=found.json", "--max", "5000", *tiles) == 0
        counts[len(tiles)] = len(entries(Path("found.json")))
    assert counts[2] > counts[0] > 0


def test_ctrl_c_leaves_whole_results(model, photos, tmp_path):
    for i in range(400):
        os.link(photos / "a.jpg", photos / f"n{i}.jpg")
    words = ["detect", photos, "--weights", model, "--device", "cpu", "--score", "0.05", "--batch", "2", "--json"]
    command = [sys.executable, "-m", "m2det.cli.main", *map(str, words)]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout
        for _ in range(20):
            process.stdout.readline()
        found = json.loads((tmp_path / "detected/detections.json").read_text())  # whole while it grows
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.strip().endswith("interrupted") and time.monotonic() - begun < 10
    later = json.loads((tmp_path / "detected/detections.json").read_text())
    assert 0 < len(found) <= len(later) and len({entry["file_name"] for entry in later}) < 402


def test_ctrl_c_between_an_entry_and_the_end_leaves_whole_results(tmp_path, monkeypatch):
    from m2det.detect.detections import Detections
    from m2det.detect.outputs import CocoResults

    found = Detections(np.array([[1, 1, 9, 9, 0.9, 1]], np.float32), (20, 20), ("a",), (1,))
    results = CocoResults(tmp_path / "found.json", {1: 1})
    results.write(Path("a"), found, {"image_id": 1, "file_name": "a.jpg"})
    with monkeypatch.context() as patch:
        patch.setattr(results, "_end", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            results.write(Path("b"), found, {"image_id": 2, "file_name": "b.jpg"})
    results.close()
    assert [entry["image_id"] for entry in entries(tmp_path / "found.json")] == [1, 2]


def test_what_is_written_has_the_mode_of_the_umask(detect, model, photos):
    assert detect(photos / "a.jpg", "--json=found.json") == 0
    umask = os.umask(0)
    os.umask(umask)
    for path in (model, Path("found.json"), Path("detected/a.jpg")):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


def test_a_broken_video_stops_nothing_and_ids_go_on(detect, tmp_path, photos, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    write_video(tmp_path / "clip.mkv", 3, 10)
    assert detect(photos / "a.jpg", tmp_path / "broken.mp4", tmp_path / "clip.mkv", "--json=found.json") == 1
    assert "skipped:" in capsys.readouterr().err
    found = entries(Path("found.json"))
    assert {(entry["image_id"], entry.get("frame")) for entry in found} == {(1, None), (2, 1), (3, 2), (4, 3)}


def test_a_video_that_ends_early_is_told(detect, tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", 60, 10)
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    content[len(content) // 2 : len(content) * 3 // 4] = bytes(len(content) // 4 + len(content) % 4)[
        : len(content) * 3 // 4 - len(content) // 2
    ]
    (tmp_path / "clip.mp4").write_bytes(content)
    assert detect(tmp_path / "clip.mp4", "--no-pictures") == 1
    assert "clip.mp4 is damaged" in capsys.readouterr().err


def test_ctrl_c_keeps_the_drawn_frames(tmp_path):
    av = pytest.importorskip("av")
    from m2det.detect.detections import Detections
    from m2det.detect.video import writing_video

    frame = Detections(np.zeros((0, 6), np.float32), (96, 64), ("a",), (1,), None, np.zeros((64, 96, 3), np.uint8))
    with pytest.raises(KeyboardInterrupt), writing_video(tmp_path / "a.mp4", 10) as writer:
        for _ in range(5):
            writer.write(frame)
        raise KeyboardInterrupt
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert len(list(container.decode(video=0))) == 5


def test_pictures_of_one_name_are_told_apart_in_the_results(detect, photos, tmp_path):
    for folder in ("x", "y/deep", "z"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "same.jpg").write_bytes((photos / "a.jpg").read_bytes())
    assert detect("x", "y", "z", "--recursive", "--no-pictures", "--json=found.json") == 0
    names = {entry["file_name"] for entry in entries(Path("found.json"))}
    assert names == {"x/same.jpg", "deep/same.jpg", "z/same.jpg"}


def test_with_annotations_no_id_is_given_twice(detect, photos, tmp_path, capsys):
    """Neither to two pictures of one name, nor to a video's frames, which have none."""
    images = [{"id": 1, "file_name": "a.jpg", "width": 90, "height": 60}]
    content = {"images": images, "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES)]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.jpg").write_bytes((photos / "a.jpg").read_bytes())
    options = ("--annotations", tmp_path / "a.json", "--no-pictures", "--json=found.json")
    assert detect(photos / "a.jpg", "x", *options) == 1
    assert "are both a.jpg in the annotations; give one of them" in capsys.readouterr().err
    (tmp_path / "clip.gif").write_bytes(b"GIF89a")
    assert detect(photos / "a.jpg", "clip.gif", *options) == 0
    assert "left out: clip.gif is not in the annotations" in capsys.readouterr().err
    assert {entry["image_id"] for entry in entries(Path("found.json"))} == {1}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["https://host/a.jpg"], "https://host/a.jpg: pictures are not downloaded"),
        ([""], "a name of a picture or folder is empty"),
        (["photos/a.jpg", "--out", "photos/a.jpg"], "photos/a.jpg: file exists; move it, or write elsewhere"),
    ],
)
def test_what_cannot_be_is_a_sentence(detect, photos, capsys, words, sentence):  # noqa: ARG001
    assert detect(*words) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_all_pictures_are_drawn_whatever_reads_the_lines(model, photos, tmp_path):
    words = [sys.executable, "-m", "m2det", "detect", str(photos), "--recursive", "--weights", str(model)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as run:
        run.stdout.close()
        assert run.wait(timeout=120) == 0
    assert len(list((tmp_path / "detected").rglob("*.jpg"))) == 3


def test_labels_of_pictures_of_one_name_are_refused_too(detect, photos, capsys, tmp_path):
    (tmp_path / "b.png").write_bytes((photos / "b.png").read_bytes())
    assert detect(photos, tmp_path / "b.png", "--no-pictures", "--txt") == 1
    assert "would both be drawn as" in capsys.readouterr().err
