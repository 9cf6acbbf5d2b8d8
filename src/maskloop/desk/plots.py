"""Plots of what a dataset holds, as SVG files that any browser shows."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from maskloop.desk.statistics import Statistics

_LEFT, _WIDTH, _RIGHT = 190, 560, 110  # of names, of the plot, of numbers behind it
_TOP, _ROW, _BOTTOM = 44, 22, 46
_INK, _FAINT, _FILL = "#333333", "#d8d8d8", "#4477aa"
# Told apart with every common colour blindness (Paul Tol's bright scheme).
_SPLITS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")


def write_plots(found: Statistics, folder: Path | str) -> list[Path]:
    """Write plots of classes, pixels, sizes, counts and splits into a folder, made if absent.

    Returns
    -------
    list of Path
        ``classes.svg``, ``pixels.svg``, ``sizes.svg``, ``counts.svg``, and ``splits.svg`` where
        the dataset has splits.
    """
    rows = found.rows()
    names = [row["class"] for row in rows]
    colours = [_colour(found, name) for name in names]
    drawn = {
        "classes": _bars("Objects of each class", names, [r["objects"] for r in rows], colours),
        "pixels": _bars(
            "Share of all pixels" if found.unit == "px" else "Share of all voxels",
            names,
            [r["share"] for r in rows],
            colours,
            words=lambda v: f"{v:.2%}",
        ),
        "sizes": _spreads(f"Sizes of objects ({_unit(found)})", names, rows, colours),
        "counts": _histogram("Objects in an item", found.counts()),
    }
    if found.splits:
        drawn["splits"] = _stacks(found)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = []
        for name, text in drawn.items():
            path = folder / f"{name}.svg"
            path.write_text(text, encoding="utf-8")
            made.append(path)
    except OSError as error:
        msg = (
            f"expected to write plots in {str(folder)!r}, but the system answered "
            f"{error.strerror!r}; check the folder and the disk"
        )
        raise StorageError(msg) from error
    return made


def _unit(found: Statistics) -> str:
    return {"mm2": "mm²", "mm3": "mm³"}.get(found.unit, found.unit)


def _colour(found: Statistics, name: str) -> str:
    row = next((row for row in found.dataset.scheme.values() if row.name == name), None)
    return row.colour if row is not None and row.colour else _FILL


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    width = _LEFT + _WIDTH + _RIGHT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" '
        f'viewBox="0 0 {width} {height:.0f}" font-family="sans-serif" font-size="12" '
        f'fill="{_INK}">'
    )
    back = f'<rect width="{width}" height="{height:.0f}" fill="#ffffff"/>'
    words = f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>'
    return "\n".join([head, f"<title>{escape(title)}</title>", back, words, *parts, "</svg>\n"])


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" '
        f'fill="{escape(colour)}" stroke="#00000033"/>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _name(name: str, y: float) -> str:
    shown = name if len(name) <= 27 else f"{name[:26]}…"
    return _text(_LEFT - 8, y, shown, "end")


def _bars(
    title: str,
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    *,
    words: Callable[[float], str] = lambda v: f"{v:,.0f}",
) -> str:
    most = max([*values, 0]) or 1
    parts = []
    for number, (name, value, colour) in enumerate(zip(names, values, colours, strict=True)):
        y, length = _TOP + number * _ROW, value / most * _WIDTH
        parts += [
            _name(name, y + 14),
            _rect(_LEFT, y + 3, length, _ROW - 7, colour),
            _text(_LEFT + length + 6, y + 14, words(value)),
        ]
    return _svg(title, _TOP + len(names) * _ROW + 16, parts)


def _spreads(
    title: str,
    names: Sequence[str],
    rows: Sequence[dict[str, dict[str, float | None]]],
    colours: Sequence[str],
) -> str:
    """Draw a line from the least to the most, thick from p5 to p95, with a tick at the median."""
    known = [row["size"] for row in rows]
    ends = [v for size in known for v in (size["min"], size["max"]) if v]
    low = math.floor(math.log10(min(ends, default=1)))
    high = max(math.ceil(math.log10(max(ends, default=10))), low + 1)

    def place(value: float) -> float:
        return _LEFT + (math.log10(value) - low) / (high - low) * _WIDTH

    bottom = _TOP + len(names) * _ROW
    parts = []
    for power in range(low, high + 1):
        x = place(10.0**power)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom + 4}" stroke="{_FAINT}"/>')
        parts.append(_text(x, bottom + 20, _number(10.0**power), "middle"))
    parts.append(
        _text(_LEFT, bottom + 38, "thin: all; thick: 5th to 95th percentile; tick: median")
    )
    for number, (name, size, colour) in enumerate(zip(names, known, colours, strict=True)):
        y = _TOP + number * _ROW
        parts.append(_name(name, y + 14))
        least, p5, median, p95, most = (size[k] for k in ("min", "p5", "median", "p95", "max"))
        if not (least and p5 and median and p95 and most):
            continue
        x, end = place(least), place(most)
        parts += [
            f'<path d="M{x:.1f} {y + 10}H{end:.1f}" stroke="{_INK}"/>',
            _rect(place(p5), y + 5, place(p95) - place(p5), _ROW - 12, colour),
            f'<path d="M{place(median):.1f} {y + 2}V{y + 18}" stroke="{_INK}" stroke-width="2"/>',
            _text(_LEFT + _WIDTH + 8, y + 14, _number(median)),
        ]
    return _svg(title, bottom + _BOTTOM, parts)


def _histogram(title: str, counts: npt.NDArray[np.int64]) -> str:
    """Draw how many items hold so many objects, in at most 30 bars of whole numbers."""
    most = int(counts.max(initial=0))
    step = max(1, math.ceil((most + 1) / 30))
    bars = np.bincount(counts // step, minlength=most // step + 1)
    height, base = 200.0, _TOP + 220.0
    width = _WIDTH / len(bars)
    parts = [f'<path d="M{_LEFT} {base}H{_LEFT + _WIDTH}" stroke="{_INK}"/>']
    every = max(1, math.ceil(len(bars) / 10))
    for number, count in enumerate(bars.tolist()):
        x, tall = _LEFT + number * width, height * count / max(int(bars.max()), 1)
        parts.append(_rect(x + 1, base - tall, width - 2, tall, _FILL))
        if count:
            parts.append(_text(x + width / 2, base - tall - 4, f"{count:,}", "middle"))
        if number % every == 0:
            first, last = number * step, number * step + step - 1
            words = f"{first}" if step == 1 else f"{first}–{last}"  # noqa: RUF001  a range
            parts.append(_text(x + width / 2, base + 16, words, "middle"))
    parts.append(_text(_LEFT - 8, base - height, "items", "end"))
    parts.append(_text(_LEFT + _WIDTH / 2, base + 36, "objects in the item", "middle"))
    return _svg(title, base + 50, parts)


def _stacks(found: Statistics) -> str:
    """Draw, for each class, which share of its objects lies in which split."""
    rows = found.split_rows()
    parts = []
    x = float(_LEFT)
    for number, row in enumerate(rows):
        parts.append(_rect(x, _TOP - 6, 12, 12, _SPLITS[number % len(_SPLITS)]))
        words = f"{row['split']} ({row['items']:,} items)"
        parts.append(_text(x + 18, _TOP + 5, words))
        x += 40 + 7 * len(words)
    top = _TOP + 20
    for line, name in enumerate(found.classes):
        y, x = top + line * _ROW, float(_LEFT)
        parts.append(_name(name, y + 14))
        total = sum(row["classes"][name] for row in rows)
        for number, row in enumerate(rows):
            width = _WIDTH * row["classes"][name] / total if total else 0.0
            parts.append(_rect(x, y + 3, width, _ROW - 7, _SPLITS[number % len(_SPLITS)]))
            x += width
        parts.append(_text(_LEFT + _WIDTH + 6, y + 14, f"{total:,}"))
    return _svg("Objects of each class by split", top + len(found.classes) * _ROW + 16, parts)
