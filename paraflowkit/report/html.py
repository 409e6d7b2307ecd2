"""Self-contained pages: headings, text, tables and pictures in one HTML file that needs nothing but a browser."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

#: What a browser must not be told by a file's name, since there is none.
_KINDS = {b"\x89PNG": "image/png", b"GIF8": "image/gif", b"\xff\xd8\xff": "image/jpeg"}
#: Numbers as people write them, with a unit or a factor's sign.
_NUMBER = re.compile(r"[-−+~<>≈≤≥×]?\s?(\d[\d.,]*|\.\d+)(e[-+]?\d+)?\s?(%|×|x|s|ms|dB|MiB|GiB)?|inf|∞|nan|[–-]|")
_MARKED, _LONG = '<tr class="marked">', ' class="t"'

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --paper: #fff; --tint: #eef4fb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #3b434c; --paper: #14171b; --tint: #1d2733; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 0 auto; padding: 1rem 1rem 3rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
p { margin: .5rem 0; max-width: 46rem; }
.verdict { background: var(--tint); border-left: 4px solid #2f7dd1; padding: .6rem .9rem; border-radius: 3px; }
.scroll { overflow-x: auto; margin: .7rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: middle; }
th { border-bottom-width: 2px; vertical-align: bottom; font-weight: 600; }
td:first-child, th:first-child { padding-left: .3rem; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.t { min-width: 11rem; max-width: 26rem; }
tr.marked td { background: var(--tint); font-weight: 600; }
figure { margin: .9rem 0; }
figcaption { color: var(--soft); font-size: .92rem; max-width: 46rem; margin-top: .3rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 3px; vertical-align: middle; }
td img { max-width: none; border-radius: 0; }
.sharp { image-rendering: pixelated; }
pre, code { font: .86rem/1.45 ui-monospace, monospace; background: var(--tint); border-radius: 3px; }
pre { padding: .7rem; overflow-x: auto; }
code { padding: .05rem .25rem; }
summary { cursor: pointer; color: var(--soft); }
"""


@dataclass(frozen=True)
class Picture:
    """A picture within a table.

    Attributes:
        data: a PNG, GIF or JPEG file. alt: what it shows, in words. width: in CSS pixels, its own by default.
        sharp: enlarge it without smoothing, so that each of its pixels is seen.
    """

    data: bytes
    alt: str = ""
    width: int | None = None
    sharp: bool = False


#: What a table may hold; None is shown as a dash.
Cell = str | int | float | Picture | None


class Page:
    """A page in the making: every method adds to its end and returns the page. All text is escaped.

    Columns of numbers are right-aligned, be they numbers or text that reads as a number. In paragraphs, verdicts and
    captions, text between backticks is set as code.

    Args:
        title: of the page, and its first heading.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str, level: int = 2) -> Page:
        """A heading of level 2 or 3."""
        return self._add(f"<h{level}>{escape(text)}</h{level}>")

    def paragraph(self, text: str) -> Page:
        """A paragraph."""
        return self._add(f"<p>{_text(text)}</p>")

    def verdict(self, text: str) -> Page:
        """The sentence that a reader must not miss."""
        return self._add(f'<p class="verdict">{_text(text)}</p>')

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "", marked: Collection[int] = ()
    ) -> Page:
        """A table, which scrolls by itself where the screen is narrow.

        Args:
            columns: headings. rows: cells, as many as columns. caption: above it. marked: rows that stand out.

        Raises:
            ValueError: a row has more or fewer cells than there are columns.
        """
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"A row has {len(row)} cells, and there are {len(columns)} columns: {row!r}")
        classes = [' class="n"' if _numeric([row[i] for row in rows]) else "" for i in range(len(columns))]
        made = ["<table>", f"<caption>{_text(caption)}</caption>"] if caption else ["<table>"]
        heads = (f"<th{kind}>{escape(name)}</th>" for name, kind in zip(columns, classes, strict=True))
        made.append(f"<thead><tr>{''.join(heads)}</tr></thead><tbody>")
        for number, row in enumerate(rows):
            cells = (_cell(cell, kind) for cell, kind in zip(row, classes, strict=True))
            made.append((_MARKED if number in marked else "<tr>") + "".join(cells) + "</tr>")
        return self._add('<div class="scroll">' + "".join(made) + "</tbody></table></div>")

    def picture(
        self, data: bytes, caption: str = "", alt: str = "", width: int | None = None, sharp: bool = False
    ) -> Page:
        """A picture with its caption below. Args: as of :class:`Picture`; the caption stands in for ``alt``."""
        below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
        return self._add(f"<figure>{_image(Picture(data, alt or caption, width, sharp))}{below}</figure>")

    def folded(self, title: str, text: str) -> Page:
        """Preformatted text, such as a configuration, that is shown when its title is clicked."""
        return self._add(f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>")

    def to_html(self) -> str:
        """The contents of the file."""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            + "\n".join(self._parts)
            + "\n</body>\n</html>\n"
        )

    def _add(self, part: str) -> Page:
        self._parts.append(part)
        return self


def _text(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _show(cell: str | int | float | None) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _numeric(cells: Sequence[Cell]) -> bool:
    """Whether a column holds numbers: at least one, and nothing else but gaps."""
    shown = [None if isinstance(cell, Picture | bool) else _show(cell) for cell in cells]
    numbers = [text for text in shown if text is not None and _NUMBER.fullmatch(text.strip())]
    return len(numbers) == len(shown) and any(re.search(r"\d", text) for text in numbers)


def _cell(cell: Cell, kind: str) -> str:
    if isinstance(cell, Picture):
        return f"<td>{_image(cell)}</td>"
    shown = _show(cell)
    return f"<td{_LONG if len(shown) > 20 and not kind else kind}>{escape(shown)}</td>"


def _image(picture: Picture) -> str:
    kind = next((name for magic, name in _KINDS.items() if picture.data.startswith(magic)), None)
    if kind is None:
        raise ValueError("A picture must be the contents of a PNG, GIF or JPEG file.")
    width = f' width="{picture.width}"' if picture.width else ""
    sharp = ' class="sharp"' if picture.sharp else ""
    data = b64encode(picture.data).decode()
    return f'<img{sharp}{width} alt="{escape(picture.alt)}" src="data:{kind};base64,{data}">'
