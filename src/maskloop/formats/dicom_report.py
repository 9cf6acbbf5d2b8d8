"""The intake report: what a DICOM folder holds, row by row, without a word of identity."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.geometry import Geometry
from maskloop.formats.dicom_codecs import name_of, why_not
from maskloop.formats.dicom_pixels import exact_dtype
from maskloop.formats.dicom_stack import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.formats.dicom_series import Row
    from maskloop.formats.dicom_stack import Stack

_Json = dict[str, Any]  # Any: plain JSON values
_PLANES = ("sagittal", "coronal", "axial")
_SHOWN = 12


def problems_of(row: Row, stack: Stack) -> list[Problem]:
    """Return everything that keeps a row from being loaded, decoders included."""
    missing = [
        Problem("no decoder", f"expected pixels that can be decoded, got {reason}", (), False)
        for reason in _reasons(row)
    ]
    return stack.problems + missing


def _reasons(row: Row) -> list[str]:
    """Return why pixels of a row cannot be decoded, each reason once."""
    kinds = {(one.syntax, one.words.get("bits_stored")): one for one in row.planes}
    return sorted({reason for one in kinds.values() if (reason := why_not(one))})


def row_report(row: Row, number: int, root: Path) -> _Json:
    """Return one row of the report on the folder `root`."""
    first = row.planes[0]
    names = sorted({name for one in row.planes for name in one.filled})
    is_stated = any(one.texts.get("is_deidentified", "").upper() == "YES" for one in row.planes)
    common: _Json = {
        "row": number,
        "number": row.number,
        "uid": row.uid,
        "modality": row.modality,
        "folder": _folder(row, root),
        "what": row.kind,
        "told_apart_by": list(row.words),
        "deidentified": _deidentified(is_stated, len(names)),
        "identifying": names,
        "transfer_syntax": ", ".join(sorted({name_of(one.syntax) for one in row.planes})),
    }
    if not row.is_image:
        return {**common, "files": len(row.planes), "loads": False, "problems": []}
    stack = row.stack()
    problems = problems_of(row, stack)
    reasons = _reasons(row)
    grid = grid_of(stack)
    bits = first.words.get("bits_stored") or first.words.get("bits", 0)
    return {
        **common,
        "what": _what(row, stack),
        "files": len({one.path for one in row.planes} | set(row.copies)),
        "slices": len(row.planes),
        "shape": [len(row.planes), *first.shape],
        "spacing_mm": _spacing(stack),
        "orientation": grid.orientation if grid is not None else "",
        "tilt_degrees": round(stack.tilt_degrees, 3),
        "steps": _steps(stack),
        "missing": {
            "count": stack.missing,
            "where": stack.gaps_in_words,
        },
        "duplicates": len(row.copies),
        "bits": bits,
        "can_decode": not reasons,
        "why_not": reasons[0] if reasons else "",
        "is_burned_in": any(
            one.texts.get("is_burned_in", "").upper() == "YES" for one in row.planes
        ),
        "problems": [
            {"name": p.name, "words": p.words, "choices": list(p.choices)} for p in problems
        ],
        "notes": [*stack.notes, *filter(None, [stack.tilt_note])],
        "loads": not problems,
    }


def _folder(row: Row, root: Path) -> str:
    """Return the folder below `root` that holds all files of a row; empty for `root` itself."""
    shared = os.path.commonpath([one.path.parent for one in row.planes])
    within = os.path.relpath(shared, root if root.is_dir() else root.parent)
    return "" if within == "." else within


def grid_of(stack: Stack) -> Geometry | None:
    """Return the grid on which the planes would load as they are, problems of steps aside."""
    count = len(stack.planes)
    if not stack.heights.size or stack.usual <= 0:
        return None
    if count > 1 and stack.heights[-1] - stack.heights[0] < 1e-3:
        return None
    return Geometry((count, *stack.planes[0].shape), stack.affine(count), "mm")


def grid_keys(row: Row) -> _Json:
    """Return the keys that `info` has for a volume, without reading its pixels."""
    stack = row.stack()
    grid = grid_of(stack)
    if grid is None or problems_of(row, stack):
        return {}
    return {
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing),
        "orientation": grid.orientation,
        "affine": grid.affine.tolist(),
        "unit": "mm",
        "dtype": exact_dtype(stack.planes),
        "range": None,
        "frames": 1,
        "channels": 1,
        "labels": None,
    }


def line_of(row: Row, number: int) -> str:
    """Return a row in one line, for a message that lists rows."""
    rows, columns = row.planes[0].shape
    told = f", {', '.join(row.words)}" if row.words else ""
    return (
        f"row {number}: {' '.join(filter(None, ['series', row.number or 'without number']))} "
        f"({row.modality or 'no modality'}, {len(row.planes)} slices of {columns}x{rows}{told})"
    )


def intake_text(found: _Json) -> str:
    """Return an intake report, as `inspect` gives it, in lines for people."""
    rows = found["series"]
    count = sum(row["files"] for row in rows)
    held = f"{len(rows)} row{'s' * (len(rows) != 1)} from {count} file{'s' * (count != 1)}"
    lines = [f"{found['kind']}: {held}, {len(found['left_out'])} left out"]
    heads = Counter(map(_head, rows))
    for alike in _runs(rows):
        lines += ["", *_row_lines(alike[0], is_alone=heads[_head(alike[0])] == 1)]
        if len(alike) > 1:
            first, last = alike[1]["row"], alike[-1]["row"]
            ends = ", ".join(alike[1]["told_apart_by"]), ", ".join(alike[-1]["told_apart_by"])
            lines.append(f"rows {first} to {last}: alike, {ends[0]} to {ends[1]}")
    if found["left_out"]:
        lines += ["", "left out"]
        reasons = Counter(entry["why"] for entry in found["left_out"])
        for reason, times in reasons.most_common():
            names = [entry["file"] for entry in found["left_out"] if entry["why"] == reason]
            more = f" and {times - 3} more" if times > 3 else ""
            lines.append(f"  {reason}: {', '.join(names[:3])}{more}")
    lines += [f"note: {note}" for note in found["notes"]]
    return "\n".join(lines)


def _runs(rows: list[_Json]) -> list[list[_Json]]:
    """Return rows one by one, but long runs that differ in what told them apart together."""

    def rest(row: _Json) -> _Json:
        return {k: v for k, v in row.items() if k not in ("row", "told_apart_by")}

    runs: list[list[_Json]] = []
    for row in rows:
        if runs and row["told_apart_by"] and rest(runs[-1][0]) == rest(row):
            runs[-1].append(row)
        else:
            runs.append([row])
    return [part for run in runs for part in ([run] if len(run) > 4 else [[r] for r in run])]


def _head(row: _Json) -> str:
    name = " ".join(filter(None, (row["modality"], row["number"] and f"series {row['number']}")))
    told = f", {', '.join(row['told_apart_by'])}" if row["told_apart_by"] else ""
    return f"{name or 'no number'}: {row['what']}{told}"


def _row_lines(row: _Json, *, is_alone: bool) -> list[str]:
    """Return the lines of a row; one that reads like another says where its files lie."""
    lines = [f"row {row['row']}  {_head(row)}"]
    if not is_alone:
        lines.append(f"  series      {row['uid'] or 'without UID'}, in {row['folder'] or '.'}")
    if "slices" not in row:
        return [*lines, f"  files       {row['files']}"]
    depth, height, width = row["shape"]
    spacing = row["spacing_mm"]
    size = " x ".join(f"{step:.4g}" for step in spacing) + " mm" if spacing else "not known"
    lines.append(
        f"  slices      {depth} of {width}x{height}, {row['bits']} bits, {row['transfer_syntax']}"
    )
    lines.append(f"  spacing     {size} (z y x, from positions), axes {row['orientation'] or '?'}")
    if row["steps"] and row["steps"]["max"] - row["steps"]["min"] > 0.005:
        steps = row["steps"]
        ends = f"{steps['min']:.4g} to {steps['max']:.4g}"
        lines.append(f"  steps       {ends}, usually {steps['usual']:.4g} mm along the normal")
    if row["missing"]["count"]:
        where = row["missing"]["where"]
        more = " ..." if len(where) > _SHOWN else ""
        lines.append(f"  missing     {row['missing']['count']}: {'; '.join(where[:_SHOWN])}{more}")
    if row["duplicates"]:
        lines.append(f"  duplicates  {row['duplicates']} (identical; one of each is used)")
    names = ", ".join(row["identifying"])
    joint = ": " if row["deidentified"].startswith("no") else "; filled: "
    lines.append(f"  identity    de-identified: {row['deidentified']}{joint * bool(names)}{names}")
    if row["is_burned_in"]:
        lines.append("  identity    the header says that the pixels show text of the person")
    lines += [f"  note        {note}" for note in row["notes"]]
    lines += [f"  problem     {problem['words']}" for problem in row["problems"]]
    lines.append(f"  loads       {_loads(row)}")
    return lines


def _loads(row: _Json) -> str:
    if row["loads"]:
        return "yes"
    flags = [problem["choices"] for problem in row["problems"]]
    if all(flags):
        return f"with {' '.join(dict.fromkeys(choices[0] for choices in flags))}"
    return "no"


def _deidentified(is_stated: bool, count: int) -> str:
    if is_stated:
        return "yes: stated"
    if count:
        return f"no: {count} identifying {'field is' if count == 1 else 'fields are'} filled"
    return "not stated"


def _what(row: Row, stack: Stack) -> str:
    first = row.planes[0]
    of = first.words.get("of", 0)
    if first.is_tile:
        return f"mosaic of {of} slices"
    if of:
        files = len({one.path for one in row.planes})
        within = f"{of} frames" if files == 1 else f"{files} files of {of} frames"
        return f"enhanced {row.modality or 'image'}, {within}"
    if "LOCALIZER" in first.kinds:
        return "localizer"
    if first.frames > 1:
        return f"{first.frames} frames in one file"
    if not stack.heights.size:
        return "pictures without a place"
    direction = _direction(stack)
    if len(row.planes) == 1:
        return f"single {direction} slice"
    derived = "derived " if "MPR" in first.texts.get("kind", "") else ""
    return f"{derived}{direction} volume"


def _direction(stack: Stack) -> str:
    normal = np.abs(stack.normal)
    nearest = int(normal.argmax())
    if normal[nearest] < np.cos(np.deg2rad(40)):
        return "oblique"
    return _PLANES[nearest]


def _spacing(stack: Stack) -> list[float] | None:
    spacing = stack.planes[0].numbers("spacing")
    if not stack.heights.size or len(spacing) != 2 or stack.usual <= 0:
        return None
    return [round(float(n), 6) for n in (_between(stack), *spacing)]


def _between(stack: Stack) -> float:
    """Return the usual distance from a plane to the next, along the stack's own (tilted) axis."""
    return stack.usual / float(np.cos(np.deg2rad(stack.tilt_degrees)))


def _steps(stack: Stack) -> dict[str, float] | None:
    if stack.steps.size == 0:
        return None
    ends = stack.steps.min(), stack.steps.max(), stack.usual
    return dict(zip(("min", "max", "usual"), (round(float(n), 4) for n in ends), strict=True))
