from pathlib import Path

import pytest

from m2det.data.sources.missing import explain_missing


@pytest.mark.parametrize(
    ("named", "there", "words"),
    [
        ("IMG_1.JPG", "img_1.jpg", "1 differ in upper and lower case: 'IMG_1.JPG' is there as 'img_1.jpg'"),
        ("sub\\a.jpg", "sub/a.jpg", "1 differ in slashes"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg", "1 differ in Unicode form"),
        ("a%20b.jpg", "a b.jpg", "1 differ in %-encoding"),
        ("train/a.jpg", "a.jpg", "1 differ in folders before the name ('train/' is too much): 'train/a.jpg'"),
        ("a.jpg", "deep/a.jpg", "1 differ in folders before the name ('deep/' is missing): 'a.jpg'"),
        ("/home/me/a.jpg", "a.jpg", "1 differ in folders before the name ('/home/me/' is too much)"),
        ("a.jpg", "a.png", "1 differ in the suffix: 'a.jpg' is there as 'a.png'"),
    ],
)
def test_what_a_missing_name_differs_in_is_said(tmp_path: Path, named: str, there: str, words: str) -> None:
    for name in (there, "other.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert explain_missing(tmp_path, [named, "nowhere.jpg"]).startswith(words)


def test_nothing_is_guessed(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(b"")
    assert explain_missing(tmp_path, ["a.jpg", "b.jpg"]) == ""
    assert explain_missing(tmp_path / "absent", ["a.jpg"]) == ""
