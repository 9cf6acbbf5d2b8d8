"""Run lengths and polygons as COCO files hold them, and the regions they stand for.

Runs count pixels down the columns: pixel (y, x) of a picture of `height` rows has number
``x * height + y``. An array of runs has shape (n, 2): first number, one past the last.

References
----------
.. [1] T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; run lengths and
   polygon filling as in the COCO API's C reference (maskApi), which the results equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from maskloop.core.geometry import Box

Runs = npt.NDArray[np.int64]
_STRIP = 16
_SUBPIXELS = 5  # COCO draws polygons on a grid five times finer


@dataclass(frozen=True, slots=True)
class Outline:
    """The pixels of one id: compressed run lengths, how many, and the box round them.

    Parameters
    ----------
    id : int
        The label id.
    counts : str
        Compressed run lengths of the whole picture.
    area : int
        Number of pixels.
    box : tuple of int
        ``(x, y, width, height)`` in pixels; pixel (0, 0) alone has box (0, 0, 1, 1).
    """

    id: int
    counts: str
    area: int
    box: tuple[int, int, int, int]


def encode(ids: npt.NDArray[Any]) -> list[Outline]:
    """Return the outline of every id above 0 in one pass over a label picture.

    Parameters
    ----------
    ids : array of unsigned int, shape (y, x)
        Label ids.

    Returns
    -------
    list of Outline
        Ascending by id; ``counts`` equal those of ``pycocotools.mask.encode`` byte for byte.
    """
    starts, stops, values = _column_runs(ids)
    order = np.argsort(values, kind="stable")
    return _outlined(starts[order], stops[order], values[order], ids.shape)


def encode_regions(
    parts: Sequence[tuple[Box, npt.NDArray[np.bool_]]], shape: tuple[int, int]
) -> list[Outline]:
    """Return the outline of each region of a picture; regions may overlap.

    Parameters
    ----------
    parts : sequence of (box, bool array)
        Where a region lies, and the region inside its box; none may be empty.
    shape : tuple of int
        ``(height, width)`` of the picture.

    Returns
    -------
    list of Outline
        In order; ids count from 1.
    """
    runs = [_runs_of(box, region, shape[0]) for box, region in parts]
    if not runs:
        return []
    values = np.repeat(np.arange(1, len(runs) + 1), [len(one) for one in runs])
    together = np.concatenate(runs)
    return _outlined(together[:, 0], together[:, 1], values, shape)


def decode(counts: Sequence[str | bytes | Sequence[int]], size: int) -> list[Runs]:
    """Return the runs of each object from its compressed or plain run lengths.

    Parameters
    ----------
    counts : sequence of str, bytes or list of int
        One entry an object.
    size : int
        Pixels of the picture; every object's run lengths must add up to it.

    Raises
    ------
    FormatError
        If run lengths are no whole numbers, hold a foreign character or a negative length, or
        add up to another total.
    """
    texts = [_letters(c) if isinstance(c, (str, bytes)) else c for c in counts]
    unpacked = iter(_uncompressed([t for t in texts if isinstance(t, bytes)]))
    parts = [next(unpacked) if isinstance(t, bytes) else _plain(t) for t in texts]
    if not parts:
        return []
    lengths = np.concatenate(parts)
    sizes = np.array([part.size for part in parts])
    owners = np.repeat(np.arange(sizes.size), sizes)
    # A length above the size could make the sum wrap round to the right total.
    odd = owners[(lengths < 0) | (lengths > size)]
    sums = np.concatenate(([0], np.cumsum(lengths)))
    bounds = np.concatenate(([0], np.cumsum(sizes)))
    before = sums[bounds[:-1]]
    wrong = odd if odd.size else np.flatnonzero(sums[bounds[1:]] - before != size)
    if wrong.size:
        number = int(wrong[0])
        msg = (
            f"expected run lengths of at least 0 that add up to {size} pixels, got "
            f"{sum(parts[number].tolist())} in object {number}; the file was written for another "
            "picture or is damaged"
        )
        raise FormatError(msg)
    places = np.arange(lengths.size) - np.repeat(bounds[:-1], sizes)
    at = np.flatnonzero((places & 1) & (lengths > 0))
    starts = sums[at] - before[owners[at]]
    runs = np.stack([starts, starts + lengths[at]], axis=1)
    cuts = np.searchsorted(at, bounds).tolist()
    return [runs[begin:end] for begin, end in pairwise(cuts)]


def _letters(text: str | bytes) -> bytes:
    """Return compressed run lengths as bytes; also where Python's text for bytes was stored."""
    found = text.encode("latin-1", "replace") if isinstance(text, str) else text
    if found[:2] == b"b'" and found[-1:] == b"'":
        return found[2:-1].replace(b"\\\\", b"\\")
    return found


def _plain(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    try:
        found = np.asarray(lengths)
    except ValueError:  # lists of several lengths
        found = np.zeros(1, dtype=object)
    if not found.size and found.ndim == 1:
        return np.zeros(0, dtype=np.int64)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        msg = f"expected run lengths as whole numbers, got {str(lengths)[:40]}; correct them"
        raise FormatError(msg)
    return found.astype(np.int64)


def fill_polygon(ring: Sequence[float] | npt.NDArray[np.float64], shape: tuple[int, int]) -> Runs:
    """Return the runs inside one closed ring, equal to COCO's own rasteriser.

    Parameters
    ----------
    ring : sequence of float
        ``x0, y0, x1, y1, ...`` in pixels; pixel corners at whole numbers; at least three points.
    shape : tuple of int
        ``(height, width)`` of the picture; what lies outside is cut off.

    Raises
    ------
    FormatError
        If corners lie so far away that no picture of this size can be meant.
    """
    height, width = shape
    points = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
    is_near = bool((np.abs(points) <= 8 * max(shape) + 1024).all())  # not where one is not finite
    if not is_near or np.abs(np.diff(points, axis=0)).max(axis=1).sum() > 2**26:
        msg = (
            f"expected corners in a picture of {width}x{height} pixels, got up to "
            f"{np.abs(points).max():g}; pixel corners are meant, not fractions or millimetres"
        )
        raise FormatError(msg)
    u, v = _fine_boundary(np.trunc(points * _SUBPIXELS + 0.5).astype(np.int64))
    crossing = np.flatnonzero(np.diff(u)) + 1
    before, after = u[crossing - 1], u[crossing]
    x = (np.where(before > after, after, after - 1) + 0.5) / _SUBPIXELS - 0.5
    y = (np.minimum(v[crossing], v[crossing - 1]) + 0.5) / _SUBPIXELS - 0.5
    is_kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    rows = np.ceil(np.clip(y[is_kept], 0, height)).astype(np.int64)
    # Each crossing of a column's centre line switches between outside and inside.
    switches = np.sort(x[is_kept].astype(np.int64) * height + rows)
    if switches.size % 2:
        switches = np.append(switches, height * width)
    runs = switches.reshape(-1, 2)
    return runs[runs[:, 1] > runs[:, 0]]


def painted(
    sets: Sequence[Runs], values: Sequence[int], shape: tuple[int, int], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return a picture with `values` along sets of runs, the later over the earlier.

    Parameters
    ----------
    sets : sequence of Runs
    values : sequence of int
        One a set, above 0.
    shape : tuple of int
        ``(height, width)``.
    dtype
        Unsigned type that holds the values.

    Returns
    -------
    array of `dtype`, shape (y, x)
    """
    height, width = shape
    canvas = _apart(sets, values, height * width, dtype)
    if canvas is None:
        canvas = np.zeros(height * width, dtype=dtype)
        for runs, value in zip(sets, values, strict=True):
            paint(canvas, runs, value)
    picture = np.empty(shape, dtype=dtype)
    columns = canvas.reshape(width, height)
    # In narrow strips, whose rows stay in the cache: five times faster than a plain transpose.
    for left in range(0, width, _STRIP):
        picture[:, left : left + _STRIP] = columns[left : left + _STRIP].T
    return picture


def _apart(
    sets: Sequence[Runs], values: Sequence[int], size: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any] | None:
    """Return a flat picture of runs in one go, or None where some overlap."""
    if not sets:
        return None
    together = np.concatenate(sets)
    order = np.argsort(together[:, 0], kind="stable")
    starts, stops = together[order].T
    gaps = np.append(starts, size) - np.concatenate(([0], stops))
    if int(gaps.min()) < 0:
        return None
    lengths = np.empty(2 * starts.size + 1, dtype=np.int64)
    lengths[::2], lengths[1::2] = gaps, stops - starts
    found = np.zeros(lengths.size, dtype=dtype)
    found[1::2] = np.repeat(np.array(values, dtype=dtype), [len(runs) for runs in sets])[order]
    return np.repeat(found, lengths)


def paint(canvas: npt.NDArray[Any], runs: Runs, value: int) -> None:
    """Write `value` into the flat, column-counted `canvas` along `runs`, in place."""
    for start, stop in runs.tolist():
        canvas[start:stop] = value


def region_of(sets: Sequence[Runs], height: int) -> tuple[Box, npt.NDArray[np.bool_]]:
    """Return where several sets of runs lie together, and the region inside that box.

    Parameters
    ----------
    sets : sequence of Runs
        With one run at least.
    height : int
        Rows of the picture.
    """
    runs = np.concatenate(sets)
    left, right = int(runs[:, 0].min()) // height, (int(runs[:, 1].max()) - 1) // height + 1
    canvas = np.zeros((right - left) * height, dtype=np.uint8)
    paint(canvas, runs - left * height, 1)
    columns = canvas.reshape(right - left, height)
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    region = np.ascontiguousarray(columns[:, top:bottom].T).view(bool)
    return (slice(top, bottom), slice(left, right)), region


def covered(runs: Iterable[Runs]) -> int:
    """Return how many pixels several sets of runs cover together."""
    every = [r for r in runs if r.size]
    if not every:
        return 0
    if len(every) == 1:  # runs of one set never overlap
        return int((every[0][:, 1] - every[0][:, 0]).sum())
    joined = np.concatenate(every)
    joined = joined[np.argsort(joined[:, 0], kind="stable")]
    reach = np.maximum.accumulate(joined[:, 1])
    before = np.concatenate(([0], reach[:-1]))
    return int(np.maximum(joined[:, 1] - np.maximum(joined[:, 0], before), 0).sum())


def _outlined(
    starts: Runs, stops: Runs, values: npt.NDArray[Any], shape: tuple[int, ...]
) -> list[Outline]:
    """Return one outline a value from runs that are ordered by it."""
    if not values.size:
        return []
    height, width = shape
    firsts = np.flatnonzero(np.diff(values, prepend=values[:1] + 1))
    texts = _compressed(starts, stops, firsts, height * width)
    lasts = stops - 1
    left, right = starts // height, lasts // height
    is_one_column = left == right
    top = np.where(is_one_column, starts % height, 0)
    bottom = np.where(is_one_column, lasts % height, height - 1)
    x0, x1 = np.minimum.reduceat(left, firsts), np.maximum.reduceat(right, firsts)
    y0, y1 = np.minimum.reduceat(top, firsts), np.maximum.reduceat(bottom, firsts)
    areas = np.add.reduceat(stops - starts, firsts)
    columns = (values[firsts], areas, x0, y0, x1 - x0 + 1, y1 - y0 + 1)
    rows = zip(*(column.tolist() for column in columns), texts, strict=True)
    return [Outline(i, text, area, (x, y, w, h)) for i, area, x, y, w, h, text in rows]


def _runs_of(box: Box, region: npt.NDArray[np.bool_], height: int) -> Runs:
    """Return the runs of one region in the columns of its picture."""
    rows, columns = box
    edges = np.zeros((region.shape[1], region.shape[0] + 2), dtype=np.int8)
    edges[:, 1:-1] = region.T
    change = np.diff(edges, axis=1)
    x, y = np.nonzero(change == 1)
    starts = (columns.start + x) * height + rows.start + y
    x, y = np.nonzero(change == -1)
    stops = (columns.start + x) * height + rows.start + y
    # A run that ends with its column goes on where the next one begins.
    is_first = np.append(True, starts[1:] != stops[:-1])
    return np.stack([starts[is_first], stops[np.append(is_first[1:], True)]], axis=1)


def _column_runs(ids: npt.NDArray[Any]) -> tuple[Runs, Runs, npt.NDArray[Any]]:
    """Return start, stop and id of every run of one id above 0, down the columns.

    Rows are compared where they lie and only the few changes are re-ordered: transposing the
    picture first costs more than all the rest.
    """
    height, width = ids.shape
    is_new = np.empty(ids.shape, dtype=bool)
    np.not_equal(ids[1:], ids[:-1], out=is_new[1:])
    np.not_equal(ids[0, 1:], ids[-1, :-1], out=is_new[0, 1:])
    is_new[0, 0] = True
    found = np.flatnonzero(is_new)
    rows, columns = np.divmod(found, width)
    numbers = columns * height + rows
    order = np.argsort(numbers)
    starts = numbers[order]
    values = ids.reshape(-1)[found[order]]
    stops = np.append(starts[1:], height * width)
    inside = values != 0
    return starts[inside], stops[inside], values[inside]


def _compressed(starts: Runs, stops: Runs, firsts: Runs, size: int) -> list[str]:
    """Return the compressed run lengths of objects whose runs lie one after the other."""
    lasts = np.append(firsts[1:], starts.size) - 1
    is_first = np.zeros(starts.size, dtype=bool)
    is_first[firsts] = True
    gaps = starts - np.where(is_first, 0, np.concatenate(([0], stops[:-1])))
    has_tail = stops[lasts] < size
    # gap, run, gap, run, ..., and a last gap unless the object ends with the picture
    sizes = 2 * (lasts - firsts + 1) + has_tail
    ends = np.cumsum(sizes)
    begins = ends - sizes
    lengths = np.empty(int(ends[-1]), dtype=np.int64)
    at = np.repeat(begins - 2 * firsts, lasts - firsts + 1) + 2 * np.arange(starts.size)
    lengths[at], lengths[at + 1] = gaps, stops - starts
    lengths[ends[has_tail] - 1] = size - stops[lasts[has_tail]]
    # From the fourth length on, the difference to the last length of the same kind is stored.
    deltas = lengths.copy()
    deltas[2:] -= lengths[:-2]
    for offset in (0, 1, 2):
        fixed = begins[sizes > offset] + offset
        deltas[fixed] = lengths[fixed]
    return _as_text(deltas, begins, ends)


def _as_text(deltas: npt.NDArray[np.int64], begins: Runs, ends: Runs) -> list[str]:
    """Return signed numbers as characters of 5 bits, low bits first; one text a group."""
    most = max(int(deltas.max()), -int(deltas.min()) - 1)
    widest = max(1, -(-(most.bit_length() + 1) // 5))
    shifts = 5 * np.arange(widest)
    chunks = deltas[:, None] >> shifts
    # A chunk is the last one where what remains is only the repeated sign bit.
    rest = deltas[:, None] >> (shifts + 4)
    is_last = (rest == 0) | (rest == -1)
    needed = is_last.argmax(axis=1) + 1
    is_used = np.arange(widest) < needed[:, None]
    is_more = np.arange(widest) < (needed - 1)[:, None]
    letters = ((chunks & 31) + np.where(is_more, 32, 0) + 48).astype(np.uint8)[is_used].tobytes()
    offsets = np.concatenate(([0], np.cumsum(needed)))
    text = letters.decode("ascii")
    cuts = zip(offsets[begins].tolist(), offsets[ends].tolist(), strict=True)
    return [text[a:b] for a, b in cuts]


def _uncompressed(texts: Sequence[bytes]) -> list[npt.NDArray[np.int64]]:
    """Return the run lengths of each compressed text, all texts in one pass."""
    if not texts:
        return []
    letters = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64) - 48
    text_ends = np.cumsum([len(t) for t in texts])
    if letters.size == 0:
        return [np.zeros(0, dtype=np.int64) for _ in texts]
    is_end = (letters & 32) == 0
    if letters.min() < 0 or letters.max() > 63 or not all(is_end[e - 1] for e in text_ends if e):
        msg = (
            "expected compressed run lengths, got other characters; the file is damaged or of "
            "another dialect"
        )
        raise FormatError(msg)
    stops = np.flatnonzero(is_end) + 1
    begins = np.concatenate(([0], stops[:-1]))
    place = np.arange(letters.size) - np.repeat(begins, stops - begins)
    if place.max() > 11:
        msg = "expected run lengths below 2**60, got a longer number; the file is damaged"
        raise FormatError(msg)
    values = np.add.reduceat((letters & 31) << (5 * place), begins)
    is_negative = (letters[stops - 1] & 16) != 0
    values = np.where(is_negative, values - (np.int64(1) << (5 * (stops - begins))), values)
    bounds = np.concatenate(([0], np.searchsorted(stops, text_ends, side="right")))
    sizes = np.diff(bounds)
    place = np.arange(values.size) - np.repeat(bounds[:-1], sizes)
    # From the fourth on, the difference to the last but one is stored.
    for is_kind, counts in (
        (place % 2 == 1, sizes // 2),
        ((place % 2 == 0) & (place > 0), np.maximum(sizes - 1, 0) // 2),
    ):
        sums = np.concatenate(([0], np.cumsum(values[is_kind])))
        firsts = np.cumsum(counts) - counts
        values[is_kind] = sums[1:] - np.repeat(sums[firsts], counts)
    return [values[begin:end] for begin, end in pairwise(bounds.tolist())]


def _fine_boundary(points: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the (u, v) steps along a closed ring on the fine grid.

    Each edge advances by one along its longer axis, always computed from the same end whatever
    the direction, so that neighbours that share an edge share its pixels.
    """
    start, end = points, np.roll(points, -1, axis=0)
    dx, dy = np.abs(end - start).T
    is_flat = dx >= dy
    is_turned = np.where(is_flat, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    low = np.where(is_turned[:, None], end, start)
    high = np.where(is_turned[:, None], start, end)
    steps = np.maximum(dx, dy)
    slope = np.where(is_flat, *(high - low).T[::-1]) / np.maximum(steps, 1)
    counts = steps + 1
    edge = np.repeat(np.arange(len(points)), counts)
    place = np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts)
    t = np.where(is_turned[edge], steps[edge] - place, place)
    main = np.where(is_flat, low[:, 0], low[:, 1])[edge] + t
    other = np.where(is_flat, low[:, 1], low[:, 0])[edge]
    other = np.trunc(other + slope[edge] * t + 0.5).astype(np.int64)
    flat = is_flat[edge]
    return np.where(flat, main, other), np.where(flat, other, main)
