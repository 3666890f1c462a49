"""An HTML page in one file: no script, and no request to anywhere, which its policy forbids to browsers, too."""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from m2det.text import page_safe, shortened

QUALITY = 80  # of photographs as JPEG
MAX_CELL = 60  # characters of a text in a table

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5c6675; --line: #dfe3e8; --blue: #2f6fb3; --red: #c8473c }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1120px; padding: 16px; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6em; line-height: 1.25; margin: .4em 0 }
h2 { font-size: 1.25em; margin: 2em 0 .5em; border-bottom: 1px solid var(--line) }
p { margin: .5em 0; max-width: 75ch }
.soft, figcaption, dd { color: var(--soft) }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)) }
.tiles { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); margin: 1em 0 }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px }
.tile b { display: block; font-size: 1.5em; line-height: 1.2 }
.tile span { color: var(--soft); font-size: .85em }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .92em; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600; overflow-wrap: normal }
td { overflow-wrap: normal } td:first-child { min-width: 9em; overflow-wrap: break-word }
td .soft { display: block; font-size: .92em }
.bar { display: block; height: 5px; border-radius: 2px; background: var(--blue) }
.red { background: var(--red) }
figure { margin: 0 }
img { max-width: 100%; height: auto; display: block }
.large { overflow-x: auto } .large img { min-width: 600px }
.pair { display: flex; flex-wrap: wrap; gap: 4px }
.pair img { flex: 1 1 220px; min-width: 0; max-width: 320px }
figcaption { font-size: .88em; padding: 4px 0 10px }
details { margin: .6em 0 } summary { cursor: pointer }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Markup, as against text, which `escaped` makes safe."""


def escaped(text: object) -> Html:
    """Return what to put into a page: text without markup, control characters and overlong parts; Html as it is."""
    return text if isinstance(text, Html) else Html(html.escape(page_safe(shortened(str(text)))))


def cut(text: str) -> str:
    """Return the beginning of a name, as long as a table bears."""
    return text if len(text) <= MAX_CELL else text[:MAX_CELL] + "..."


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """Return a table of texts or Html, which scrolls where the screen is too narrow; an empty header is left out."""
    head = "<tr>" + "".join(f"<th>{escaped(name)}</th>" for name in header) + "</tr>" if header else ""
    body = "\n".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return Html(f'<div class="wide"><table>{head}\n{body}</table></div>')


def bar(share: float, text: str, colour: str = "") -> Html:
    """Return a text over a bar of a share in [0,1]; colour is empty or red."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}"
    return Html(f'{escaped(text)}<span class="bar {colour}" style="width:{width}%"></span>')


def tiles(values: Iterable[tuple[str, str]]) -> Html:
    """Return large numbers, as (value, what it is)."""
    each = (f'<div class="tile"><b>{escaped(value)}</b><span>{escaped(name)}</span></div>' for value, name in values)
    return Html(f'<div class="tiles">{"".join(each)}</div>')


def figure(png: bytes, text: str, large: bool = False) -> Html:
    """Return a PNG, with a text for those who do not see it; a large one scrolls on a phone."""
    start = '<figure class="large">' if large else "<figure>"
    return Html(f'{start}<img alt="{escaped(text)}" src="data:image/png;base64,{b64encode(png).decode()}"></figure>')


def explained(name: str, explanation: str) -> Html:
    """Return a name over what it means."""
    return Html(f'{escaped(name)}<span class="soft">{escaped(explanation)}</span>')


def code(text: str) -> Html:
    """Return what is typed."""
    return Html(f"<code>{escaped(text)}</code>")


def photographs(images: Sequence[NDArray[np.uint8]], caption: str) -> Html:
    """Return images, uint8 [H,W,3] BGR, beside or on a phone below each other, with a caption."""
    parts = []
    for image in images:
        data = b64encode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()).decode()
        parts.append(f'<img alt="" src="data:image/jpeg;base64,{data}">')
    pair = f'<div class="pair">{"".join(parts)}</div>'
    return Html(f"<figure>{pair}<figcaption>{escaped(caption)}</figcaption></figure>")


def grid(parts: Iterable[Html]) -> Html:
    """Return parts beside each other, on a phone below each other."""
    return Html(f'<div class="grid">{"".join(parts)}</div>')


def details(summary: str, content: Html) -> Html:
    """Return content that a click unfolds."""
    return Html(f"<details><summary>{escaped(summary)}</summary>{content}</details>")


def paragraph(*sentences: object) -> Html:
    """Return sentences as a paragraph."""
    return Html(f"<p>{' '.join(map(escaped, sentences))}</p>")


def page(title: str, sections: Iterable[tuple[str, Sequence[Html]]]) -> str:
    """Return a page of sections, each with its title, which is empty for the first, and its parts."""
    body = []
    for name, parts in sections:
        heading = f"<h2>{escaped(name)}</h2>" if name else ""
        body.append("\n".join([f"<section>{heading}", *parts, "</section>"]))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escaped(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
