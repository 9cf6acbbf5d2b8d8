"""DICOM segmentations as a dataset: one SEG file a case, placed by its own positions.

A segmentation names the series it was drawn on; where that lies in the same folder or below, it is
the item's image. Objects that overlap lie in further files, ``NAME.more-2.seg.dcm``. Series are
never copied: they hold the patient's identity, which a written segmentation does not.
Items are not called after a patient either, where a folder is.

References
----------
.. [1] DICOM PS3.3 A.51 and C.8.20 (segmentation), C.7.3.1 (referenced series).
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, GeometryError, InputError
from maskloop.core.image import stem_of
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.datasets import patients
from maskloop.datasets.base import (
    REVIEW,
    DatasetFormat,
    Held,
    Loss,
    Options,
    class_of,
    is_partly_reviewed,
    read_image,
    safe_name,
)
from maskloop.datasets.tables import scheme_of, unique
from maskloop.formats import dicomseg
from maskloop.formats.base import (
    Target,
    first_bytes,
    read_sidecar,
    reading,
    sidecar_of,
    table_bytes,
)
from maskloop.formats.dicom_head import DicomHeader
from maskloop.formats.dicom_scan import Bounded, damage, is_dicom, scan, sop_class
from maskloop.formats.dicomseg_file import SOP_CLASSES
from maskloop.formats.dicomseg_source import SegHeader
from maskloop.formats.dicomseg_write import plan, write_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from maskloop.core.dataset import Holding
    from maskloop.core.geometry import Geometry
    from maskloop.core.mask import Mask

RENAMED = Loss("label", "has its name shortened", "have their names shortened")
_MORE = re.compile(r"\.more-(\d+)$")
_FRAMES = 0x52000000  # the long part of the header begins here
_DEEP, _ENOUGH = 3, 400  # folders and files looked at to tell the format
_PIXELS_OF = 3  # files of a folder that are asked for their series


@dataclass(frozen=True, slots=True)
class _Head:
    """What the start of a segmentation tells."""

    path: Path
    name: str
    patient: str
    words: frozenset[str]
    series: frozenset[str]
    rows: tuple[Label, ...]


def sniff(path: Path) -> bool:
    """Whether a file is a segmentation, or one of a folder's first files is."""
    if path.is_file():
        return sop_class(path) in SOP_CLASSES
    if (path / "images").is_dir() and any((path / n).is_dir() for n in ("masks", "labels")):
        return False
    return any(sop_class(file) in SOP_CLASSES for file in islice(_files(path, _DEEP), _ENOUGH))


def _files(folder: Path, deep: int) -> Iterator[Path]:
    """Yield what may be DICOM by its name, SEG files of our naming first."""
    try:
        found = list(os.scandir(folder))
    except OSError:
        return
    below = []
    for entry in sorted(found, key=lambda e: (not e.name.endswith(".seg.dcm"), e.name)):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            below.append(Path(entry.path))
        elif "." not in entry.name or entry.name.lower().endswith((".dcm", ".seg", ".dicom")):
            yield Path(entry.path)
    if deep:
        for place in below:
            yield from _files(place, deep - 1)


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the segmentations, each with the series it names."""
    root = path if path.is_dir() else path.parent
    series: dict[str, tuple[Path, Path]] = {}
    heads: list[_Head] = []
    for folder, files in _by_folder(root if path.is_dir() else path):
        segmentations = [file for file in files if sop_class(file) in SOP_CLASSES]
        heads += [_head(file, root) for file in segmentations]
        _add_series([f for f in files if f not in segmentations], folder, series)
    if path.is_file():
        for folder, files in _by_folder(root):
            _add_series(files, folder, series)
    if not heads:
        msg = f"expected DICOM segmentations in {path.name}, got none; choose another folder"
        raise FormatError(msg)
    cases: dict[str, list[_Head]] = {}
    for head in heads:
        cases.setdefault(_MORE.sub("", head.name), []).append(head)
    numbers: dict[str, str] = {}
    items, names = [], []
    for name, parts in sorted(cases.items()):
        first = parts[0]
        image, one = next((series[n] for n in sorted(first.series) if n in series), (None, None))
        words = first.words if one is None else first.words | patients.identity_of(one)[1]
        group = ""
        if first.patient:
            group = numbers.setdefault(first.patient, f"patient-{len(numbers) + 1:03d}")
        names.append(patients.without(name, words, group))
        classes = frozenset(class_of(row) for head in parts for row in head.rows)
        ref = tuple(head.path for head in sorted(parts, key=_place))
        items.append(Item(name, image, group=group, classes=classes, ref=ref))
    items = [
        replace(item, name=name)
        for item, name in zip(items, patients.told_apart(names), strict=True)
    ]
    rows = [row for head in heads for row in head.rows]
    has = {row.category is not None for row in rows}
    kind: Holding = "panoptic" if len(has) == 2 else "objects" if True in has else "classes"
    without = sum(item.image is None for item in items)
    notices = [f"{without:,} segmentations have no series beside them"] if without else []
    return Dataset(
        root.name, "dicomseg", path, scheme_of(rows), tuple(items), _read, kind, {}, tuple(notices)
    )


def _place(head: _Head) -> int:
    found = _MORE.search(head.name)
    return int(found[1]) if found else 1


def _by_folder(path: Path) -> Iterator[tuple[Path, list[Path]]]:
    if path.is_file():
        yield path.parent, [path]
        return
    groups: dict[Path, list[Path]] = {}
    for file in _files(path, 64):
        groups.setdefault(file.parent, []).append(file)
    yield from groups.items()


def _add_series(files: Sequence[Path], folder: Path, series: dict[str, tuple[Path, Path]]) -> None:
    """Note where series lie, and a file of each: a folder if all asked files are of one."""
    step = max(1, len(files) // _PIXELS_OF)
    found: dict[str, Path] = {}
    for file in files[::step] if len(files) > 2 * _PIXELS_OF else files:
        if not is_dicom(first_bytes(file, 256)):
            continue
        try:
            one = scan(file)
        except (OSError, FormatError):
            continue
        uid = "" if one is None else one.texts.get("series", "")
        if uid:
            found.setdefault(uid, file)
    for uid, file in found.items():
        series.setdefault(uid, (folder if len(found) == 1 else file, file))


def _head(path: Path, root: Path) -> _Head:
    """Return what stands before the frames of a segmentation."""
    from pydicom.filereader import read_partial

    name = (path.parent.relative_to(root) / stem_of(path)).as_posix()
    try:
        with warnings.catch_warnings(), reading(path), Bounded(path) as stream:
            warnings.simplefilter("ignore")
            found = read_partial(stream, lambda tag, vr, length: tag >= _FRAMES, force=True)
            series = [
                str(one.get("SeriesInstanceUID") or "")
                for one in found.get("ReferencedSeriesSequence") or ()
            ]
            labels = [
                " ".join(str(one.get("SegmentLabel") or "").split()) or f"segment {number}"
                for number, one in enumerate(found.get("SegmentSequence") or (), start=1)
                if str(one.get("SegmentDescription") or "") != "[no label]"
            ]
            patient = str(found.get("PatientID") or "")
            words = patients.words_of(str(found.get("PatientName") or ""), patient)
            study = str(found.get("StudyInstanceUID") or "")
    except damage() as error:
        msg = f"expected a whole DICOM segmentation in {path.name}, got {error}; copy it again"
        raise FormatError(msg) from error
    table = read_sidecar(path)
    rows = [Label(number, text) for number, text in enumerate(labels, start=1)]
    known = rows if table is None else list(table.values())
    return _Head(path, name, patient or study, words, frozenset(series) - {""}, tuple(known))


def _read(item: Item, job: Job) -> Sample:
    """Read the files of a case, onto its series where that is there."""
    image = read_image(item, job) if item.image is not None else None
    masks: list[Mask] = []
    for path in item.ref:
        with reading(path):
            masks += dicomseg.read_masks(path, image=image, kind=None, job=job)
    drawn = [mask for mask in masks if mask.labels] or masks[:1]
    return Sample(item, unique(drawn))


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Return each mask as its SEG holds it: slices in order of their normal, names that fit.

    Raises
    ------
    InputError
        If the item was drawn on no DICOM series.
    GeometryError
        If a mask lies on another grid than the series.
    """
    masks = []
    shortened = 0
    for mask in sample.masks:
        planned = plan(_on_series(mask, sample.item), suffix=".seg.dcm").mask
        shortened += sum(row.name != mask.labels[i].name for i, row in planned.labels.items())
        masks.append(planned)
    losses = {RENAMED: shortened, REVIEW: int(is_partly_reviewed(sample))}
    held = Sample(sample.item, tuple(masks))
    return Held(held, {loss: count for loss, count in losses.items() if count})


def _on_series(mask: Mask, item: Item) -> Mask:
    """Return a mask with the header of the series it was drawn on."""
    mask = replace(mask, labels=mask.labels.covering(mask.ids()))
    if isinstance(mask.header, (DicomHeader, SegHeader)):
        return mask
    image = item.image
    header, grid = (None, None) if image is None else _header(image, image.stat().st_mtime_ns)
    if header is None or grid is None:
        msg = (
            f"expected {item.name!r} to be drawn on a DICOM series, got "
            f"{'no image' if image is None else 'another image'}; convert to pairs or nnunet"
        )
        raise InputError(msg)
    words = grid.difference(mask.geometry)
    if words:
        msg = f"expected the mask of {item.name!r} on its series' grid, but {words}; resample it"
        raise GeometryError(msg)
    return replace(mask, header=header)


@lru_cache(maxsize=4)
def _header(path: Path, changed: int) -> tuple[DicomHeader | None, Geometry | None]:
    """Return the header and the grid of a series; asked for three times a case in a row."""
    image = read_image(Item(path.name, path), Job())
    return (image.header, image.geometry) if isinstance(image.header, DicomHeader) else (None, None)


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write the SEG files and the tables that say which class an object is of."""
    for sample in samples:
        name = safe_name(sample.item.name)
        for number, mask in enumerate(sample.masks, start=1):
            end = ".seg.dcm" if number == 1 else f".more-{number}.seg.dcm"
            path = folder / f"{name}{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(mask, Target(path, ".seg.dcm", path))
            sidecar_of(path).write_bytes(table_bytes(LabelTable(mask.labels.values())))


FORMAT = DatasetFormat(
    name="dicomseg",
    title="DICOM segmentations beside their series",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    dims=frozenset({3}),
    layout="NAME.seg.dcm, the series in any folder beside",
    proof="real data",
)
