"""Look at files: what one is (`info`), how two masks agree (`score`)."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, InputError, MaskloopError
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import present_ids

if TYPE_CHECKING:
    from maskloop.core.labels import Kind
    from maskloop.core.mask import Mask
    from maskloop.datasets.base import DatasetFormat


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
        ``path``, ``kind`` (``"volume"``, ``"picture"``, ``"mask"``, ``"coco"``, ``"outlines"``,
        ``"dicom series"`` or ``"dicom folder"``), ``format``, ``shape`` of the spatial axes,
        ``spacing_mm`` (None where the grid is in pixels), ``orientation`` (letters of the array
        axes), ``affine`` (array index to RAS+ mm, or to pixels), ``unit``, ``dtype``, ``range``,
        ``frames``, ``channels``, ``labels`` (id, name, colour, category, voxels; None for images),
        ``notes``.

        A COCO file also has ``images``, ``annotations`` and ``categories``, and grid keys only if
        it holds one image. ``masks`` counts those of a file of segments, more than one where they
        overlap; outlines (RTSTRUCT) have ``regions`` and no grid. A DICOM folder gives its intake
        report instead of reading pixels: ``series`` (a row each, with its problems and the choices
        that solve them) and ``left_out``; the grid keys are there where exactly one series loads.

        A dataset (``"dataset"``; see `open_dataset`) has ``items``, ``with_masks``, ``splits``,
        ``groups``, ``holds`` (classes, objects or panoptic) and ``classes``; no grid.

        A file without a label table is called a mask where its values look like labels: whole
        numbers from 0 in large flat regions.

    Raises
    ------
    MaskloopError
        As for `load`.
    """
    from maskloop import datasets
    from maskloop.loop.load import annotations_at, format_of, load, load_mask

    path, job = Path(path), job or Job()
    is_set = datasets.known(path) if path.is_dir() else annotations_at(path)
    if is_set is not None:
        return _dataset(path, is_set, job)
    chosen = format_of(path)
    common = {"path": str(path), "format": chosen.name}
    if chosen.inspect is not None:
        found = chosen.inspect(path, job=job)
        if not found.get("series", True):  # formats other than DICOM series list none
            raise _no_series(path, found["left_out"])
        return {**common, **found}
    if chosen.read_image is None:
        what = _coco(path, job) if chosen.name == "coco" else _masks(path, job)
        return {**common, **what, "notes": list(dict.fromkeys(job.notes))}
    image = load(path, job=job)
    mask = None
    if chosen.read_mask is not None and (image.has_channels or _looks_like_labels(image)):
        try:
            mask = load_mask(path, job=job)
        except MaskloopError:
            mask = None
            if chosen.read_masks is not None:
                with contextlib.suppress(MaskloopError):
                    what = _masks(path, job)
                    return {**common, **what, "notes": list(dict.fromkeys(job.notes))}
    if mask is not None and image.has_channels and not _looks_like_labels(_shown(mask)):
        mask = None
    shown = "volume" if image.geometry.ndim == 3 else "picture"
    kind = "mask" if mask is not None else shown
    notes = list(dict.fromkeys(job.notes))
    return {**common, "kind": kind, **_grid(image, mask), "notes": notes}


def _dataset(
    path: Path, chosen: DatasetFormat, job: Job
) -> dict[str, Any]:  # Any: plain JSON values
    from maskloop.desk.datasets import open_dataset

    found = open_dataset(path, format=chosen.name, job=job)
    return {
        "path": str(path),
        "format": chosen.name,
        "kind": "dataset",
        "title": chosen.title,
        "holds": found.kind,
        "items": len(found.items),
        "with_masks": sum(item.has_mask for item in found.items),
        "splits": dict(Counter(item.split for item in found.items if item.split)),
        "groups": len({item.group for item in found.items if item.group}),
        "classes": [
            {"id": row.id, "name": row.name, "colour": row.colour, "thing": row.is_thing}
            for row in found.scheme.values()
        ],
        "notes": list(dict.fromkeys(job.notes)),
    }


def _shown(mask: Mask) -> Image:
    """Return the ids of a mask as an image."""
    has_time = mask.data.ndim > mask.geometry.ndim
    return Image(mask.data, mask.geometry, mask.source, has_time=has_time)


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


def info_text(found: dict[str, Any]) -> str | None:  # Any: plain JSON values
    """Return an intake report in lines for people, or None where plain keys say it as well."""
    if "series" not in found:
        return None
    from maskloop.formats.dicom_report import intake_text

    return intake_text(found)


def _no_series(path: Path, left_out: list[dict[str, str]]) -> FormatError:
    reasons = Counter(entry["why"] for entry in left_out)
    held = ", ".join(f"{n} files ({why})" for why, n in reasons.most_common(5)) or "nothing"
    return FormatError(
        f"expected DICOM in {path.name!r} or below it, got {held}; choose a folder of DICOM, or "
        "one file of another format"
    )


def _masks(path: Path, job: Job) -> dict[str, Any]:  # Any: plain JSON values
    """Return the grid of a file of masks and the labels of all of them."""
    from maskloop.loop.load import load_masks

    masks = load_masks(path, job=job)
    grid = _grid(_shown(masks[0]), masks[0])
    rows = [row for mask in masks for row in _rows(mask)]
    return {"kind": "mask", **grid, "masks": len(masks), "labels": rows}


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
    return {**found, **_grid(_shown(mask), mask)}


def _json(path: Path) -> dict[str, Any]:  # Any: plain JSON values
    from maskloop.formats import coco

    return coco.parse(path)


def score(
    predicted: Mask | Path | str,
    truth: Mask | Path | str,
    *,
    nsd_tolerance_mm: float = 2.0,
    kind: Kind | None = None,
    job: Job | None = None,
) -> dict[str, Any]:  # Any: plain JSON values
    """Return how well two masks of one grid agree, label by label, as JSON-ready values.

    Classes are compared by id. Objects are compared by category as regions, and one by one as
    average precision. Volumes in mm whose objects have no category of their own (label files
    without a table) are compared as classes unless `kind` says otherwise.

    Parameters
    ----------
    predicted, truth : Mask, Path or str
        Masks, or files that `load_mask` reads.
    nsd_tolerance_mm : float
        Distance within which two surfaces count as the same, > 0; in pixels for pictures.
    kind : {"classes", "objects"}, optional
        How to compare; from the masks' tables where not given.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    dict
        ``predicted``, ``truth`` (paths or None), ``kind``, ``unit``, ``nsd_tolerance_mm``,
        ``labels`` (a list with ``id``, ``name``, ``status``, ``dice``, ``hd95_mm``, ``nsd``,
        ``volume_ml`` and ``voxels`` of both), for objects ``objects`` (a list with ``category``,
        counts, ``ap_50``, ``ap_mean``), and ``definitions``, which names each measure's.

    Raises
    ------
    GeometryError
        If the masks lie on different grids; the message says by how many mm and where.
    InputError
        If the tolerance is not positive, a mask has a time axis, or names and ids do not agree.
    """
    from maskloop.ops.scores import DEFINITIONS, require_same_grid, score_masks

    job = job or Job()
    if not nsd_tolerance_mm > 0:
        msg = f"expected a surface tolerance above 0 mm, got {nsd_tolerance_mm!r}; give it in mm"
        raise InputError(msg)
    found, real = (_loaded(mask, kind, job) for mask in (predicted, truth))
    require_same_grid(found, real)
    if found.data.ndim != found.geometry.ndim:
        msg = (
            f"expected masks without a time axis, got shape {found.data.shape}; "
            f"score one frame at a time"
        )
        raise InputError(msg)
    kind = kind or _kind_to_score(found, real)
    if kind == "objects":
        objects = _object_rows(found, real)
        found, real = _by_category(found, real)
    else:
        found, real = _by_id(found, real)
    rows = score_masks(found, real, nsd_tolerance_mm=nsd_tolerance_mm, job=job)
    names = ("dice", "hd95", "nsd", *(("average_precision",) if kind == "objects" else ()))
    return {
        "predicted": _path_text(predicted),
        "truth": _path_text(truth),
        "kind": kind,
        "unit": real.geometry.unit,
        "nsd_tolerance_mm": float(nsd_tolerance_mm),
        "labels": [row.to_json() for row in rows],
        **({"objects": objects} if kind == "objects" else {}),
        "definitions": {name: DEFINITIONS[name] for name in names},
    }


def _loaded(mask: Mask | Path | str, kind: Kind | None, job: Job) -> Mask:
    if isinstance(mask, Path | str):
        from maskloop.loop.load import load_mask

        mask = load_mask(mask, kind=kind, job=job)
    return mask.checked()


def _path_text(mask: Mask | Path | str) -> str | None:
    if isinstance(mask, Path | str):
        return str(mask)
    return str(mask.source) if mask.source is not None else None


def _kind_to_score(found: Mask, real: Mask) -> Kind:
    if "classes" in (found.labels.kind, real.labels.kind):
        return "classes"
    is_nameless = {row.category for m in (found, real) for row in m.labels.values()} <= {"object"}
    return "classes" if is_nameless and real.geometry.unit == "mm" else "objects"


def _by_id(found: Mask, real: Mask) -> tuple[Mask, Mask]:
    """Return both masks with rows that are classes; objects take the other mask's names."""
    names = {
        i: row.name for m in (found, real) for i, row in m.labels.items() if row.category is None
    }

    def as_classes(mask: Mask) -> Mask:
        rows = [
            row
            if row.category is None
            else Label(i, names.get(i, f"label {i}"), row.colour, ignore=row.ignore)
            for i, row in mask.labels.items()
        ]
        return replace(mask, labels=LabelTable(rows))

    return as_classes(found), as_classes(real)


def _categories(mask: Mask) -> dict[int, str]:
    return {i: row.category or row.name for i, row in mask.labels.items() if not row.ignore}


def _by_category(found: Mask, real: Mask) -> tuple[Mask, Mask]:
    """Return both masks with one class a category, numbered alike."""
    listed = sorted({c for m in (found, real) for c in _categories(m).values()})
    number = {name: i for i, name in enumerate(listed, start=1)}
    ignored = Label(len(listed) + 1, "ignored", ignore=True)
    rows = [Label(i, name) for name, i in number.items()]

    def merged(mask: Mask) -> Mask:
        categories = _categories(mask)
        lookup = np.zeros(max(mask.labels, default=0) + 1, dtype=smallest_unsigned(ignored.id))
        for i in mask.labels:
            lookup[i] = number[categories[i]] if i in categories else ignored.id
        return replace(mask, data=lookup[mask.data], labels=LabelTable([*rows, ignored]))

    return merged(found), merged(real)


def _object_rows(found: Mask, real: Mask) -> list[dict[str, Any]]:  # Any: plain JSON values
    from maskloop.ops.scores import MEAN_THRESHOLDS, average_precision

    is_counted = ~np.isin(real.data, [i for i, row in real.labels.items() if row.ignore])
    rows = []
    for name in sorted({c for m in (found, real) for c in _categories(m).values()}):
        ours, theirs = (
            np.where(
                np.isin(m.data, [i for i, c in _categories(m).items() if c == name]), m.data, 0
            )
            * is_counted
            for m in (found, real)
        )
        precision = average_precision(ours, theirs, MEAN_THRESHOLDS)
        rows.append(
            {
                "category": name,
                "predicted": len(present_ids(ours)),
                "truth": len(present_ids(theirs)),
                "ap_50": float(precision[0]),
                "ap_mean": float(precision.mean()),
            }
        )
    return rows
