"""What a file is that cannot be decoded as an image, by its first bytes."""

from __future__ import annotations

# how files begin that lie in place of images
KINDS = {
    b"version https://git-lfs": "is a pointer of Git LFS in place of the image; run `git lfs pull` where it comes from",
    b"<": "is HTML or XML, perhaps an error page that was saved; download the image again",
    b"{": "is JSON, no image; download the image again",
    b"%PDF": "is a PDF document; save its picture as JPEG or PNG",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"\x1f\x8b": "is compressed by gzip; unpack it",
}
BRANDS = {b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1", b"avif", b"avis"}  # of HEIF, ISO/IEC 23008-12


def describe_no_image(data: bytes) -> str:
    """Return what a file is, and what to do, to follow its name."""
    if not data:
        return "cannot be decoded: it is empty; replace it"
    if data[4:8] == b"ftyp" and data[8:12] in BRANDS:
        return "cannot be decoded: it is HEIC or AVIF, whatever its suffix; save it as JPEG or PNG"
    kind = next((kind for magic, kind in KINDS.items() if data.lstrip().startswith(magic)), "")
    return f"cannot be decoded: it {kind}" if kind else "cannot be decoded: it is damaged or no image; replace it"
