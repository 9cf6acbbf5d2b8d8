"""Measure every object of a mask, and write the numbers as JSON or as a table."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import VerificationError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.mask import Mask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from maskloop.ops.measure import By, Measured
    from maskloop.ops.objects import Row

Entry = dict[str, Any]  # Any: plain JSON values

_COLUMNS = (
    "frame", "id", "label", "name", "category", "score", "volume_mm3", "area_mm2", "area_px",
    "long_axis_mm", "short_axis_mm", "long_axis_px", "short_axis_px", "mean", "sd", "min", "max",
    "slices", "added_mm3", "removed_mm3", "status",
)  # fmt: skip


def measure(
    mask: Mask | Path | str,
    *,
    image: Image | Path | str | None = None,
    entry: str | int | None = None,
    by: By = "pieces",
    job: Job | None = None,
) -> Entry:
    """Return the measures of every object of a mask, as JSON-ready values.

    Every number is defined in ``docs/reference/measures.md``.

    Parameters
    ----------
    mask : Mask, Path or str
        A mask, a file that `load_masks` reads, or a case folder ``NAME.maskloop``. Where regions
        overlap in a file, all are measured.
    image : Image, Path or str, optional
        The image the mask lies on, for the statistics of its values; none are made of colours.
    entry : str or int, optional
        As for `load_mask`.
    by : {"pieces", "labels"}
        Whether each connected piece of a label is an object (26-neighbourhood; 8 in 2D), or the
        label as a whole.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    dict
        ``objects``, a list with the keys that `entry_of` describes; with a time axis, those of
        every frame, numbered on, with ``frame`` counted from 0.

    Raises
    ------
    MaskloopError
        As for `load_mask`.
    GeometryError
        If the mask does not lie on the image's grid.
    """
    from maskloop.ops.measure import measure as measured

    job = job or Job()
    pixels = _image(image, job)
    objects: list[Entry] = []
    for found in _masks(mask, pixels, entry, job):
        if pixels is not None:
            found.require_on(pixels)
        has_time = found.data.ndim > found.geometry.ndim
        values = _values(pixels, job, has_time=has_time)
        frames: Sequence[int | None] = range(len(found.data)) if has_time else (None,)
        for frame in job.track(frames, "measure"):
            data = found.data if frame is None else found.data[frame]
            shown = values if values is None or frame is None else values.frame(frame)
            for row in measured(replace(found, data=data), shown, by=by):
                made = entry_of(replace(row, id=len(objects) + 1), found)
                objects.append(made if frame is None else {**made, "frame": frame})
    return {"objects": objects}


def entry_of(row: Measured, mask: Mask) -> Entry:
    """Return one object's measures as JSON-ready values.

    Returns
    -------
    dict
        ``id`` (number of the object), ``label`` (its id in the mask), ``name``, ``category``
        (class of an object) and ``score`` (the label's),
        ``volume_mm3``, ``long_axis_mm``, ``short_axis_mm``, ``mean``, ``sd``, ``min``, ``max``,
        ``slices``, ``voxels``, ``area_mm2``, ``area_px``, ``long_axis_px``, ``short_axis_px``,
        ``slice``, ``box``, ``long_axis`` and ``short_axis`` (both ends in array order); None for
        what does not exist.
    """
    grid = mask.geometry
    label = mask.labels.get(row.label)
    is_mm = grid.unit == "mm"
    lengths = (row.long_axis.length, row.short_axis.length)
    long_mm, short_mm = lengths if is_mm else (None, None)
    long_px, short_px = (None, None) if is_mm else lengths
    return {
        "id": row.id,
        "label": row.label,
        "name": label.name if label is not None else f"label {row.label}",
        "category": label.category if label is not None else None,
        "score": label.score if label is not None else None,
        "volume_mm3": row.size if is_mm and grid.ndim == 3 else None,
        "long_axis_mm": long_mm,
        "short_axis_mm": short_mm,
        "mean": row.mean,
        "sd": row.sd,
        "min": row.low,
        "max": row.high,
        "slices": row.slices,
        "voxels": row.voxels,
        "area_mm2": row.size if is_mm and grid.ndim == 2 else None,
        "area_px": row.size if not is_mm and grid.ndim == 2 else None,
        "long_axis_px": long_px,
        "short_axis_px": short_px,
        "slice": row.slice,
        "box": [[part.start, part.stop] for part in row.box],
        "long_axis": [list(row.long_axis.start), list(row.long_axis.stop)],
        "short_axis": [list(row.short_axis.start), list(row.short_axis.stop)],
    }


def live_entry_of(row: Row, mask: Mask) -> Entry:
    """Return one row of the live table: as `entry_of`, and what became of the draft.

    Adds ``added_mm3`` and ``removed_mm3`` (None outside volumes in mm), ``added`` and ``removed``
    in the grid's own unit, and ``status``.
    """
    is_volume = mask.geometry.unit == "mm" and mask.geometry.ndim == 3
    return {
        **entry_of(row.measured, mask),
        "added_mm3": row.added if is_volume else None,
        "removed_mm3": row.removed if is_volume else None,
        "added": row.added,
        "removed": row.removed,
        "status": row.status,
    }


def columns_of(objects: Sequence[Mapping[str, Any]]) -> list[str]:  # Any: JSON values
    """Return the keys that a person wants to see in a table: those of which any object has one."""
    return [key for key in _COLUMNS if any(made.get(key) is not None for made in objects)]


def to_json(objects: Sequence[Mapping[str, Any]], path: Path | str) -> Path:  # Any: JSON values
    """Write entries as ``{"objects": [...]}``; the file is there whole or not at all."""
    text = json.dumps({"objects": list(objects)}, indent=1, allow_nan=False) + "\n"
    return _written(Path(path), text)


def to_csv(objects: Sequence[Mapping[str, Any]], path: Path | str) -> Path:  # Any: JSON values
    """Write entries as a table with a line an object; empty where a number does not exist.

    Places (``box``, ``long_axis``, ``short_axis``) are written as JSON in one cell.
    """
    columns = list(dict.fromkeys(key for made in objects for key in made)) or list(_COLUMNS)
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    for made in objects:
        table.writerow({key: _cell(value) for key, value in made.items()})
    return _written(Path(path), text.getvalue())


def _image(image: Image | Path | str | None, job: Job) -> Image | None:
    if image is None or isinstance(image, Image):
        return image
    from maskloop.loop.load import load

    return load(image, job=job)


def _masks(
    mask: Mask | Path | str, image: Image | None, entry: str | int | None, job: Job
) -> list[Mask]:
    if isinstance(mask, Mask):
        return [mask]
    path = Path(mask)
    if (path / "case.json").is_file():
        from maskloop.desk.cases import replay

        return [replay(path, job=job)]
    from maskloop.loop.load import load_mask, load_masks

    if entry is not None:
        return [load_mask(path, image=image, entry=entry, job=job)]
    return load_masks(path, image=image, job=job)


def _values(image: Image | None, job: Job, *, has_time: bool) -> Image | None:
    """Return the image where its values can be measured; else say why they are left out."""
    if image is None:
        return None
    why = ""
    if image.has_channels:
        why = f"the image has {image.channels} channels"
    elif image.has_time != has_time:
        why = "one of mask and image has a time axis and the other has none"
    if not why:
        return image
    job.say(f"{why}: its values are left out")
    return None


def _cell(value: Any) -> str | int | float:  # Any: plain JSON values
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list) else value


def _written(path: Path, text: str) -> Path:
    """Write a text beside its place, read it back and put it there."""
    from maskloop.formats.swap import Swap

    with Swap(path, path.suffix) as swap:
        made = swap.file(path)
        made.write_bytes(text.encode())
        if made.read_bytes() != text.encode():
            msg = f"expected {path.name} to read back as it was written; check the disk"
            raise VerificationError(msg)
        swap.commit()
    return path
