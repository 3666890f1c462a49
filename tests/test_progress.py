"""What a job says of its progress: lines by the clock, and a file that is whole whenever somebody reads it."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from m2det.data.packed.lmdb_writer import write_images
from m2det.progress import FILE_SECONDS, FIRST_LINE, NEXT_LINE, VARIABLE, ImageProgress


class Clock:
    """The clock of the progress: it goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("m2det.progress.time.perf_counter", clock)
    return clock


def line_times(clock: Clock, lap: float, laps: int) -> list[float]:
    """Return the seconds from the start to each line of a job that handles an image every `lap` seconds."""
    start, times = clock.now, []
    with ImageProgress("packing train", laps, write=lambda _: times.append(clock.now - start)) as progress:
        for _ in range(laps):
            clock.now += lap
            progress.advance()
    return times


@pytest.mark.parametrize("lap", [0.01, 1.0, 7.0, 29.0])
def test_a_line_comes_within_half_a_minute_and_then_every_minute(clock, lap):
    first, *others = line_times(clock, lap, int(300 / lap))
    assert first <= FIRST_LINE
    gaps = [b - a for a, b in zip([first, *others], others, strict=False)]
    assert all(NEXT_LINE / 2 < gap <= NEXT_LINE for gap in gaps) and sum(gaps) > 200


def test_a_line_says_share_speed_and_remaining_time(clock):
    lines: list[str] = []
    with ImageProgress("packing train", 1000, 400, write=lines.append) as progress:
        for _ in range(7):
            clock.now += 5.0
            progress.advance(10)
    assert lines == ["packing train: 460/1000 images 46% 2.00 img/s eta 4:30"]


def test_one_process_counts_for_all(clock, tmp_path, monkeypatch):
    """Of 10 images 4 processes have 3, 3, 2 and 2: the count ends at 10, not at 12."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "progress.json"))
    contents = []
    with ImageProgress("detecting", 10, stage="evaluate") as progress:
        for _ in progress.track(range(3), 4):
            contents.append(read(tmp_path)["done"] if contents else 0)
            clock.now += FILE_SECONDS
    assert [*contents, read(tmp_path)["done"]] == [0, 4, 8, 10]


def test_the_file_has_what_a_page_shows(clock, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "progress.json"))
    with ImageProgress("packing train", 100, stage="pack") as progress:
        for _ in range(40):
            clock.now += 0.5
            progress.advance()
        assert read(tmp_path) == {
            "stage": "pack",
            "doing": "packing train",
            "done": 31,  # of second 15.5: the file is not written with every image
            "total": 100,
            "unit": "images",
            "img_s": 2.0,
            "eta_s": 34,
        }
        progress.advance(60)
    assert read(tmp_path)["done"] == 100, "the end, however soon it comes"
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_a_disk_that_takes_no_file_is_told_once_and_ends_nothing(clock, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "gone"
    monkeypatch.setenv(VARIABLE, str(folder / "progress.json"))
    with ImageProgress("packing train", 100, stage="pack") as progress:
        for image in range(100):
            clock.now += FILE_SECONDS
            progress.advance()
            if image == 50:
                folder.mkdir()
    [message] = caplog.messages
    assert re.match(rf"warning: {folder}/progress.json cannot be written .*No such file", message)
    assert read(folder)["done"] == 100, "once there is room it goes on"


def test_a_reader_always_finds_a_whole_file(tmp_path, monkeypatch):
    """While it is replaced as often as the disk can."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "progress.json"))
    monkeypatch.setattr("m2det.progress.FILE_SECONDS", 0.0)
    ended, read_ones = Event(), []

    def look() -> None:
        while not ended.is_set():
            read_ones.append(read(tmp_path)["done"])

    with ImageProgress("packing train", 300, stage="pack") as progress, ThreadPoolExecutor(1) as pool:
        progress.advance()
        reader = pool.submit(look)
        for _ in range(299):
            progress.advance()
        ended.set()
        reader.result()
    assert len(read_ones) > 10 and read_ones == sorted(read_ones)


def test_packing_reports_each_image_and_goes_on_from_those_of_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "progress.json"))
    for name in ("FIRST_LINE", "NEXT_LINE", "FILE_SECONDS"):
        monkeypatch.setattr(f"m2det.progress.{name}", 0.0)
    monkeypatch.setattr("m2det.data.packed.lmdb_writer.RECORDS_PER_COMMIT", 2)

    def encode(index: int) -> bytes:
        if index == 3 and not interrupted:
            interrupted.append(index)
            raise KeyboardInterrupt
        return b"image"

    interrupted: list[int] = []
    monkeypatch.setattr("m2det.data.packed.lmdb_writer.RECORDS_PER_CHUNK", 1)
    with pytest.raises(KeyboardInterrupt):
        write_images(tmp_path / "train.lmdb", [5] * 5, encode, 1)
    write_images(tmp_path / "train.lmdb", [5] * 5, encode, 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "eta" in line]
    shares = [re.match(r"packing train: (\d)/5 images (\d+)% [\d.]+ img/s eta 0:00", line).groups() for line in lines]
    assert shares[-3:] == [("3", "60"), ("4", "80"), ("5", "100")]
    assert (read(tmp_path)["stage"], read(tmp_path)["done"]) == ("pack", 5)


def read(folder: Path) -> dict[str, object]:
    return json.loads((folder / "progress.json").read_text())
