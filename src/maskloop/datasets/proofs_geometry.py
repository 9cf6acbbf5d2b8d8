"""Prove where COCO annotations lie: run lengths, polygons, areas and boxes of all, in one go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import numpy.typing as npt

from maskloop.datasets import proofs_runs
from maskloop.datasets.proofs import shown
from maskloop.datasets.proofs_file import is_whole, key_of

if TYPE_CHECKING:
    from maskloop.core.geometry import Box
    from maskloop.core.job import Job
    from maskloop.datasets.base import Severity
    from maskloop.datasets.proofs import Findings
    from maskloop.datasets.proofs_file import CocoFile, Entry, Shot

_BATCH = 1 << 20  # characters or numbers of run lengths decoded together
_OUTSIDE = 1.0  # pixels by which a corner may leave the picture
_LONGEST = 10_000_000  # pixels of a polygon's line: nobody draws more, and filling would not end
_MOST_FILLED = 1 << 28  # pixels of a polygon's box that are filled to count them
_ALPHABET = frozenset(range(48, 112))
_NUMBERS = frozenset({int, float})
_Packed = tuple["Entry", "Shot", bytes]
_Listed = tuple["Entry", "Shot", npt.NDArray[np.int64]]
Points = npt.NDArray[np.float64]


def check_geometry(file: CocoFile, findings: Findings, job: Job) -> None:
    """Prove the mask, the area and the box of every annotation."""
    packed: list[_Packed] = []
    listed: list[_Listed] = []
    weight = 0
    masks: dict[tuple[object, ...], object] = {}
    for annotation in job.track(file.annotations, "look at masks"):
        shot = file.images.get(key_of(annotation.get("image_id")))
        segment = annotation.get("segmentation")
        if not segment or not isinstance(segment, (dict, list)):
            words = f"expected run lengths or polygons, got {shown(segment)}"
            findings.add("G1", words, file.where(annotation))
            continue
        if shot is None:
            continue
        if isinstance(segment, list):
            drawn = _check_polygon(file, annotation, shot, findings)
            _note_twin(file, annotation, drawn, masks, findings)
            continue
        counts = checked_counts(file, annotation, shot, findings)
        if counts is None:
            continue
        if isinstance(counts, bytes):
            packed.append((annotation, shot, counts))
            _note_twin(file, annotation, counts, masks, findings)
            weight += len(counts)
        else:
            listed.append((annotation, shot, counts))
            weight += counts.size
        if weight > _BATCH:
            _check_runs(file, packed, listed, findings)
            packed, listed, weight = [], [], 0
    _check_runs(file, packed, listed, findings)


def _note_twin(
    file: CocoFile,
    annotation: Entry,
    counts: bytes,
    masks: dict[tuple[object, ...], object],
    findings: Findings,
) -> None:
    if not counts:
        return
    key = (annotation.get("image_id"), key_of(annotation.get("category_id")), counts)
    other = masks.setdefault(key, annotation.get("id"))
    if other is not annotation.get("id") and other != annotation.get("id"):
        words = f"expected a mask of its own, got that of annotation {shown(other)}"
        findings.add("G8", words, file.where(annotation))


def checked_counts(
    file: CocoFile, annotation: Entry, shot: Shot, findings: Findings | None = None
) -> bytes | npt.NDArray[np.int64] | None:
    """Return an annotation's counts, compressed or plain; None, and told, where they are none."""
    segment = annotation["segmentation"]
    code, words = "", ""
    size, counts = segment.get("size"), segment.get("counts")
    found: bytes | npt.NDArray[np.int64] | None = None
    if size != shot.size:
        is_turned = size == shot.size[::-1]
        why = ": width stands first" if is_turned else ""
        code, words = "G2", f"expected size {shot.size}, got {shown(size)}{why}"
    elif isinstance(counts, str):
        found = counts.encode("utf-8", "surrogatepass")
        if counts.startswith(("b'", 'b"')):
            code, words = "G3", f"expected counts as text, got str(bytes): {shown(counts)}"
        elif not counts or not _ALPHABET.issuperset(found):
            code, words = "G3", f"expected counts in COCO's alphabet, got {shown(counts)}"
    elif isinstance(counts, list) and counts and all(map(is_whole, counts)):
        found = np.asarray(counts) if max(counts) < 2**40 > -min(counts) else None
        if found is None or bool((found < 0).any()):
            code, words = "G3", f"expected run lengths of at least 0, got {shown(counts)}"
    else:
        code, words = "G3", f"expected counts as text or whole numbers, got {shown(counts)}"
    if not code:
        return found
    if findings is not None:
        findings.add(code, words, file.where(annotation))
    return None


def _check_runs(
    file: CocoFile, packed: list[_Packed], listed: list[_Listed], findings: Findings
) -> None:
    """Prove totals, areas and boxes of annotations whose counts look sound."""
    lengths, damaged = proofs_runs.uncompressed([counts for *_, counts in packed])
    firsts = np.cumsum([0, *(plain.size for *_, plain in listed)])
    both = proofs_runs.Lengths(
        np.concatenate([lengths.values, *(plain for *_, plain in listed)]),
        np.concatenate([lengths.firsts, lengths.values.size + firsts[1:]]),
    )
    owners = [(a, s) for a, s, _ in packed] + [(a, s) for a, s, _ in listed]
    found = proofs_runs.measured(both, np.array([s.height for _, s in owners], np.int64))
    is_damaged = set(damaged)
    rows = zip(found.areas.tolist(), found.boxes.tolist(), found.totals.tolist(), strict=True)
    for number, ((annotation, shot), (area, box, total)) in enumerate(
        zip(owners, rows, strict=True)
    ):
        size = shot.height * shot.width
        if number in is_damaged or found.has_negative[number] or total != size:
            got = "counts that break off" if number in is_damaged else f"{total} in all"
            if found.has_negative[number]:
                got = "a negative length"
            words = f"expected run lengths that add up to {size} pixels, got {got}"
            findings.add("G3", words, file.where(annotation))
        elif not area:
            findings.add("G5", "expected at least one pixel, got none", file.where(annotation))
        else:
            _check_measures(file, annotation, area, box, findings)


def _check_measures(
    file: CocoFile, annotation: Entry, area: int, box: list[int], findings: Findings
) -> None:
    """Prove area and box of run lengths; crowds of COCO itself are told only as warnings."""
    is_crowd = bool(annotation.get("iscrowd"))
    grade: Severity | None = "warning" if is_crowd else None
    stated = annotation.get("area")
    if not is_number(stated) or abs(stated - area) > 0.5:
        words = f"expected area {area}, got {shown(stated)}"
        findings.add("G6", words, file.where(annotation), severity=grade)
    # COCO's own crowds have boxes from first to last pixel, one short of it.
    slack = 1.01 if is_crowd else 0.5
    check_box(file.where(annotation), annotation.get("bbox"), box, findings, slack, grade)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]  # checked


def check_box(
    where: str,
    stated: object,
    box: list[int] | list[float],
    findings: Findings,
    slack: float,
    severity: Severity | None = None,
    code: str = "G7",
) -> None:
    """Prove a box; the words say which common mistake it looks like."""
    if isinstance(stated, list) and len(stated) == 4 and all(map(is_number, stated)):
        if all(abs(a - b) <= slack for a, b in zip(stated, box, strict=True)):
            return
        x, y, width, height = box
        mistakes = {
            "two corners": [x, y, x + width, y + height],
            "height before width": [x, y, height, width],
            "y before x": [y, x, height, width],
            "one short, from first to last pixel": [x, y, width - 1, height - 1],
            "its centre and size": [x + width / 2, y + height / 2, width, height],
        }
        why = next(
            (
                f": {name}"
                for name, wrong in mistakes.items()
                if all(abs(a - b) <= slack for a, b in zip(stated, wrong, strict=True))
            ),
            "",
        )
    else:
        why = ""
    got = [round(float(n), 2) for n in box]
    findings.add(code, f"expected bbox {got}, got {shown(stated)}{why}", where, severity=severity)


def _check_polygon(file: CocoFile, annotation: Entry, shot: Shot, findings: Findings) -> bytes:
    """Prove rings, area and box of polygons; return the rings as bytes, none where damaged."""
    rings, words = rings_of(annotation["segmentation"], shot)
    if words:
        findings.add("G4", words, file.where(annotation))
        return b""
    corners = np.concatenate(rings)
    low, high = corners.min(axis=0), corners.max(axis=0)
    drawn = sum(_area(ring) for ring in rings)
    stated = annotation.get("area")
    is_close = is_number(stated) and abs(stated - drawn) <= max(0.5, 0.01 * drawn)
    if not is_close or drawn < 4:
        _check_filled(file, annotation, shot, rings, drawn, findings)
    if not _holds(annotation.get("bbox"), low, high) and not _is_filled_box(
        annotation.get("bbox"), rings, shot
    ):
        box = [*low.tolist(), *(high - low).tolist()]
        check_box(file.where(annotation), annotation.get("bbox"), box, findings, 0.5)
    return corners.tobytes()


def _holds(stated: object, low: Points, high: Points) -> bool:
    """Whether a box lies round corners, or round the pixels that they touch or fill."""
    if not (isinstance(stated, list) and len(stated) == 4 and all(map(is_number, stated))):
        return False
    x, y, width, height = stated
    out = np.array([low[0] - x, low[1] - y, x + width - high[0], y + height - high[1]])
    # A box from first to last pixel is short by a whole pixel: that much is never right.
    return bool((out > -0.99).all() and (out < 1.01).all())


def _is_filled_box(stated: object, rings: list[Points], shot: Shot) -> bool:
    """Whether a box is that of the pixels: a tip that is thinner than a pixel fills none."""
    corners = np.concatenate(rings)
    if np.prod(np.ptp(corners, axis=0) + 1) > _MOST_FILLED:
        return False
    found = filled(rings, shot)
    if found is None or not isinstance(stated, list) or not all(map(is_number, stated)):
        return False
    rows, columns = found[0]
    box = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
    return len(stated) == 4 and all(abs(a - b) <= 0.5 for a, b in zip(stated, box, strict=True))


def _check_filled(
    file: CocoFile,
    annotation: Entry,
    shot: Shot,
    rings: list[Points],
    drawn: float,
    findings: Findings,
) -> None:
    """Prove the area against the polygon's pixels where the area between its lines differs."""
    corners = np.concatenate(rings)
    found = None
    if np.prod(np.ptp(corners, axis=0) + 1) <= _MOST_FILLED:
        found = filled(rings, shot)
    pixels = 0 if found is None else int(found[1].sum())
    if not pixels and drawn < 0.5:
        findings.add("G5", "expected at least one pixel, got none", file.where(annotation))
        return
    stated = annotation.get("area")
    if is_number(stated):
        length = sum(float(np.hypot(*(r - np.roll(r, 1, 0)).T).sum()) for r in rings)
        # Tools that count the pixels under the line, too, come to half its length more.
        wanted = (pixels, drawn, drawn + length / 2 + len(rings))
        if any(abs(stated - one) <= max(1.0, 0.085 * one) for one in wanted):
            return
    words = f"expected area {pixels} (pixels) or {drawn:.1f} (between the lines)"
    findings.add("G6", f"{words}, got {shown(stated)}", file.where(annotation))


def _area(ring: Points) -> float:
    x, y = (ring - ring[0]).T  # the first corner is the origin: its two products are none
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:]))) / 2


def rings_of(segment: list[Any], shot: Shot) -> tuple[list[Points], str]:  # Any: JSON values
    """Return the corners of a polygon's rings, or in words what is wrong with them."""
    found: list[Points] = []
    length = 0.0
    if all(is_number(n) for n in segment):
        return [], f"expected a list of rings, got one ring without its list: {shown(segment)}"
    for ring in segment:
        if not isinstance(ring, list) or not _NUMBERS.issuperset(map(type, ring)):
            return [], f"expected rings of numbers, got {shown(ring)}"
        if len(ring) == 4:
            return [], f"expected three corners or more, got four numbers (a box): {shown(ring)}"
        if len(ring) < 6 or len(ring) % 2:
            return [], f"expected pairs of numbers, three or more, got {len(ring)} numbers"
        points = np.asarray(ring, np.float64).reshape(-1, 2)
        over = points - (shot.width, shot.height)
        far = float(max(-points.min(), over.max()))
        if not far <= _OUTSIDE:  # nor what is no number
            size = f"{shot.width} x {shot.height}"
            return [], f"expected corners inside {size}, got one {far:.1f} pixels outside"
        length += float(np.abs(points - np.roll(points, 1, axis=0)).sum())
        found.append(points)
    if length > _LONGEST:
        return [], f"expected a line of at most {_LONGEST:,} pixels, got {length:,.0f}"
    return found, ""


def filled(rings: list[Points], shot: Shot) -> tuple[Box, npt.NDArray[np.bool_]] | None:
    """Return the box and the pixels of united rings, as COCO's own rasteriser fills them."""
    from maskloop.ops import outlines

    runs = [
        outlines.fill_polygon(ring.ravel().tolist(), (shot.height, shot.width)) for ring in rings
    ]
    runs = [one for one in runs if len(one)]
    return outlines.region_of(runs, shot.height) if runs else None


def region_of(
    file: CocoFile, annotation: Entry, shot: Shot
) -> tuple[Box, npt.NDArray[np.bool_]] | None:
    """Return the box and the pixels of one annotation; None where it has none or is damaged."""
    segment = annotation.get("segmentation")
    if isinstance(segment, list) and segment:
        rings, words = rings_of(segment, shot)
        return None if words else filled(rings, shot)
    if not isinstance(segment, dict) or not segment:
        return None
    counts = checked_counts(file, annotation, shot)
    if counts is None:
        return None
    if isinstance(counts, bytes):
        lengths, damaged = proofs_runs.uncompressed([counts])
        if damaged:
            return None
        counts = lengths.values
    if bool((counts < 0).any()) or int(counts.sum()) != shot.height * shot.width:
        return None
    return proofs_runs.region(counts, shot.height)
