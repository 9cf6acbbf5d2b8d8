"""Look at files: what one is (`info`), how two masks agree (`score`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import MaskloopError
from maskloop.core.image import Image
from maskloop.core.job import Job

if TYPE_CHECKING:
    from maskloop.core.mask import Mask


def info(path: Path | str, *, job: Job | None = None) -> dict[str, Any]:  # Any: plain JSON values
    """Return what a file or DICOM folder is, as JSON-ready values.

    Parameters
    ----------
    path : Path or str
        Anything that `load` or `load_mask` reads.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    dict
        ``path``, ``kind`` (``"volume"``, ``"picture"``, ``"mask"``, ``"dicom series"`` or
        ``"coco"``), ``format``, ``shape`` of the spatial axes, ``spacing_mm`` (None where the grid
        is in pixels), ``orientation`` (letters of the array axes), ``affine`` (array index to
        RAS+ mm, or to pixels), ``unit``, ``dtype``, ``range``, ``frames``, ``channels``,
        ``labels`` (id, name, colour, category, voxels; None for images), ``notes``. A COCO file
        also has ``images``, ``annotations`` and ``categories``, and grid keys only if it holds one
        image. A file without a label table is called a mask where its values look like labels:
        whole numbers from 0 in large flat regions.

    Raises
    ------
    MaskloopError
        As for `load`.
    """
    from maskloop.loop.load import format_of, load, load_mask

    path, job = Path(path), job or Job()
    chosen = format_of(path)
    common = {"path": str(path), "format": chosen.name}
    if chosen.read_image is None:
        return {**common, **_coco(path, job), "notes": list(job.notes)}
    image = load(path, job=job)
    mask = None
    if chosen.read_mask is not None and (image.has_channels or _looks_like_labels(image)):
        try:
            mask = load_mask(path, job=job)
        except MaskloopError:
            mask = None
    if (
        mask is not None
        and image.has_channels
        and not _looks_like_labels(
            Image(mask.data, mask.geometry, path, has_time=mask.data.ndim > mask.geometry.ndim)
        )
    ):
        mask = None
    if mask is not None:
        kind = "mask"
    elif chosen.name == "dicom":
        kind = "dicom series"
    else:
        kind = "volume" if image.geometry.ndim == 3 else "picture"
    notes = list(dict.fromkeys(job.notes))
    return {**common, "kind": kind, **_grid(image, mask), "notes": notes}


def _grid(image: Image, mask: Mask | None) -> dict[str, Any]:  # Any: plain JSON values
    data = image.data if mask is None else mask.data
    grid = image.geometry if mask is None else mask.geometry
    is_mm = grid.unit == "mm"
    return {
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing) if is_mm else None,
        "orientation": grid.orientation if is_mm else "",
        "affine": grid.affine.tolist(),
        "unit": grid.unit,
        "dtype": str(image.data.dtype),
        "range": _range(image.data),
        "frames": image.frames if mask is None else data.size // math.prod(grid.shape),
        "channels": image.channels if mask is None else 1,
        "labels": None if mask is None else _rows(mask),
    }


def _range(data: npt.NDArray[Any]) -> list[float | int | None]:
    ends = (data.min(), data.max())
    if data.dtype.kind == "f":
        return [float(e) if np.isfinite(e) else None for e in ends]
    return [int(e) for e in ends]


def _rows(mask: Mask) -> list[dict[str, Any]]:  # Any: plain JSON values
    from maskloop.formats.base import voxel_counts

    counts = voxel_counts(mask.data)
    return [
        {
            "id": row.id,
            "name": row.name,
            "colour": row.colour,
            "category": row.category,
            "voxels": counts.get(row.id, 0),
        }
        for row in mask.labels.values()
    ]


def _looks_like_labels(image: Image) -> bool:
    """Whether values are whole numbers from 0 in flat regions, or a label table lies with them."""
    from maskloop.formats.base import read_sidecar

    data = image.data
    if image.source is not None and read_sidecar(image.source) is not None:
        return True
    if data.dtype.kind == "f" and not bool((data == np.rint(data)).all()):
        return False
    if data.dtype.kind not in "buif" or data.min() < 0 or data.max() > 65535:
        return False
    flat = np.ascontiguousarray(data).reshape(-1, data.shape[-1])
    inside = flat[:, :-1] != 0
    labelled = int(np.count_nonzero(inside))
    if not labelled:
        return data.dtype.kind in "bu" and not data.any()
    same = int(np.count_nonzero(inside & (flat[:, 1:] == flat[:, :-1])))
    return (
        same >= 0.6 * labelled
        and len(np.unique(flat[flat != 0][:: max(1, labelled // 10**6)])) < 0.02 * data.size
    )


def _coco(path: Path, job: Job) -> dict[str, Any]:  # Any: plain JSON values
    from maskloop.loop.load import load_mask

    content = _json(path)
    images = [i for i in content.get("images", ()) if isinstance(i, Mapping)]
    found: dict[str, Any] = {
        "kind": "coco",
        "images": [{k: i.get(k) for k in ("id", "file_name", "height", "width")} for i in images],
        "annotations": len(content.get("annotations", ())),
        "categories": {str(c.get("id")): c.get("name") for c in content.get("categories", ())},
    }
    if len(images) != 1:
        return {**found, "shape": None, "spacing_mm": None, "labels": None}
    mask = load_mask(path, job=job)
    grid = mask.geometry
    return {
        **found,
        "shape": list(grid.shape),
        "spacing_mm": None,
        "orientation": "",
        "affine": grid.affine.tolist(),
        "unit": grid.unit,
        "dtype": str(mask.data.dtype),
        "range": _range(mask.data),
        "frames": 1,
        "channels": 1,
        "labels": _rows(mask),
    }


def _json(path: Path) -> dict[str, Any]:  # Any: plain JSON values
    from maskloop.formats import coco

    return coco.parse(path)
