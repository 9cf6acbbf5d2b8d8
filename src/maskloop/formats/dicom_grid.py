"""A regular grid from planes that are none yet: gaps filled, true positions resampled."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import GeometryError

if TYPE_CHECKING:
    from maskloop.core.geometry import Affine
    from maskloop.core.job import Job
    from maskloop.formats.dicom_stack import Stack

_Pixels = npt.NDArray[Any]
_MOST = 10  # times as many computed planes as real ones: more is a stray slice, not a volume


def filled(data: _Pixels, stack: Stack, job: Job) -> tuple[_Pixels, Affine]:
    """Return the planes with interpolated ones in the gaps, and the affine of all of them."""
    missing = dict(stack.gaps)
    out = np.empty((len(data) + stack.missing, *data.shape[1:]), data.dtype)
    at, made = 0, []
    for number, plane in enumerate(data):
        out[at] = plane
        at += 1
        count = missing.get(number, 0)
        for k in range(1, count + 1):
            part = k / (count + 1)
            out[at] = _as(data.dtype, plane * (1 - part) + data[number + 1] * part)
            made.append(stack.heights[number] * (1 - part) + stack.heights[number + 1] * part)
            at += 1
    listed = ", ".join(f"{height:.2f}" for height in made[:12])
    job.say(
        f"{len(made)} missing slices were computed from their neighbours, at {listed}"
        f"{' ...' if len(made) > 12 else ''} mm along the stack: no scanner saw them"
    )
    return out, stack.affine(len(out))


def resampled(data: _Pixels, stack: Stack, job: Job) -> tuple[_Pixels, Affine]:
    """Return the planes on an upright grid of equal steps, and its affine.

    Each plane is first shifted in itself to where it truly lies, then planes are interpolated
    linearly between neighbours. The grid reaches as far as the slices do; where none reaches, it
    holds the lowest value.

    Raises
    ------
    GeometryError
        If the planes are so far apart that nearly all of the result would be computed.
    """
    heights, step = stack.heights, _step(stack)
    depth = float(heights[-1] - heights[0])
    count = math.ceil(depth / step - 1e-3) + 1
    spacing = stack.planes[0].numbers("spacing")
    # Where each plane's corner lies from the first one's, in rows and columns.
    offsets = (stack.places - stack.places[0]) @ np.column_stack([stack.down, stack.right])
    offsets = offsets / np.array(spacing)
    low = np.minimum(np.floor(offsets.min(axis=0) + 1e-6), 0).astype(int)
    high = np.maximum(np.ceil(offsets.max(axis=0) - 1e-6), 0).astype(int)
    shape = tuple(int(n + h - b) for n, h, b in zip(data.shape[1:], high, low, strict=True))
    if count > _MOST * len(data) or math.prod(shape) > 4 * math.prod(data.shape[1:]):
        msg = (
            f"expected slices near one another, got {len(data)} that would make {count} of "
            f"{shape[1]}x{shape[0]}; take stray slices out of the series"
        )
        raise GeometryError(msg)
    out = np.empty((count, *shape), data.dtype)
    lowest = data.min()
    places = np.linspace(heights[0], heights[-1], count)
    before = np.clip(np.searchsorted(heights, places, side="right") - 1, 0, len(data) - 2)
    kept: dict[int, npt.NDArray[np.float32]] = {}
    for number in job.track(range(count), "resample"):
        below = int(before[number])
        kept = {k: v for k, v in kept.items() if k >= below}
        for k in (below, below + 1):
            if k not in kept:
                kept[k] = _shifted(data[k], offsets[k] - low, shape, float(lowest))
        part = float((places[number] - heights[below]) / (heights[below + 1] - heights[below]))
        out[number] = _as(data.dtype, kept[below] * (1 - part) + kept[below + 1] * part)
    affine = stack.affine(count, is_upright=True)
    affine[:, 3] += affine[:, 1] * low[0] + affine[:, 2] * low[1]
    largest = float(np.diff(heights).max())
    job.say(
        f"{len(data)} slices with steps of {np.diff(heights).min():.2f} to {largest:.2f} mm were "
        f"resampled to {count} of {depth / (count - 1):.3f} mm, from their true positions"
    )
    return out, affine


def _step(stack: Stack) -> float:
    """Return the smallest step that is usual: had by a tenth of the slices, or by two."""
    found = Counter(round(float(step), 2) for step in stack.steps)
    enough = min(2, max(found.values()), max(1, stack.steps.size // 10))
    enough = max(enough, math.ceil(0.1 * stack.steps.size))
    usual = [step for step, times in found.items() if times >= enough and step > 0]
    return min(usual, default=stack.usual)


def _shifted(
    plane: _Pixels, offset: npt.NDArray[np.float64], shape: tuple[int, ...], lowest: float
) -> npt.NDArray[np.float32]:
    """Return a plane on the larger canvas, its corner at `offset` (rows, columns), linearly."""
    out = np.full(shape, lowest, np.float32)
    found = plane.astype(np.float32)
    start = []
    for axis in (0, 1):
        whole = math.floor(offset[axis] + 1e-6)
        part = float(offset[axis] - whole)
        if part > 1e-4:
            # Between two canvas rows lies one of the plane: both its neighbours make each row.
            head, tail = [slice(None)] * 2, [slice(None)] * 2
            head[axis], tail[axis] = slice(None, -1), slice(1, None)
            found = found[tuple(head)] * part + found[tuple(tail)] * (1 - part)
            whole += 1
        start.append(whole)
    out[start[0] : start[0] + found.shape[0], start[1] : start[1] + found.shape[1]] = found
    return out


def _as(dtype: np.dtype[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values if dtype.kind == "f" else np.rint(values)
