"""The files of one item: masks of any format in, NIfTI or PNG out, and the maps beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from maskloop import formats
from maskloop.core.errors import FormatError, InputError
from maskloop.core.image import stem_of
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets.base import PLACE, SCALED, Loss, has_pixels, place_file, read_image
from maskloop.formats import nifti, picture, picture_png
from maskloop.formats.base import Target, default_table, read_sidecar, reading

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.dataset import Item, Sample
    from maskloop.core.job import Job
    from maskloop.core.labels import Kind
    from maskloop.datasets.base import Options
    from maskloop.formats.base import Format

MASKS = (
    *(".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh"),
    *(".seg.dcm", ".png", ".tif", ".tiff"),
)
PICTURES = (*(s for s in MASKS if not s.startswith(".seg")), ".jpg", ".jpeg", ".bmp")
_STACKS = (".tif", ".tiff")
_FLAT = (".png", ".jpg", ".jpeg", ".bmp", *_STACKS)
_ON_AN_IMAGE = ("dicomseg", "rtstruct", "coco")


def named_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the files below a folder by their relative POSIX name without suffix, sorted."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.name.lower().endswith(suffixes) and not path.name.startswith("."):
            name = (path.parent.relative_to(folder) / stem_of(path)).as_posix()
            found.setdefault(name, path)
    return found


def format_of(path: Path) -> Format:
    """Return the format of a mask file.

    Raises
    ------
    FormatError
        If none that holds masks knows it.
    """
    known = formats.by_suffix(path)
    if known is not None:
        kin = (formats.get(name) for name in formats.KIN.get(known[0], ()))
        chosen = next((one for one in kin if one.sniff(path)), None) or formats.get(known[0])
        if chosen.read_mask is not None:
            return chosen
    msg = f"expected a mask of a known format, got {path.name}; convert it to .nii.gz or .png"
    raise FormatError(msg)


def read_masks(path: Path, item: Item, kind: Kind | None, job: Job) -> list[Mask]:
    """Return the masks of a file, none with an overlap inside."""
    chosen = format_of(path)
    needs_image = chosen.name in _ON_AN_IMAGE and item.image is not None
    image = read_image(item, job) if needs_image else None
    with reading(path):
        if chosen.read_masks is not None:
            return chosen.read_masks(path, image=image, kind=kind, job=job)
        if chosen.read_mask is None:  # `format_of` returns none such
            raise FormatError(path.name)
        return [chosen.read_mask(path, image=image, entry=None, kind=kind, job=job)]


def has_own_table(path: Path, mask: Mask) -> bool:
    """Whether a mask brought names along, rather than numbers that were named after themselves."""
    if read_sidecar(path) is not None:
        return True
    ids = mask.ids()
    return any(row != default_table([i], "objects").get(i) for i, row in mask.labels.items()) or (
        not ids and bool(mask.labels)
    )


def as_stored(mask: Mask) -> tuple[Mask, str, dict[Loss, int]]:
    """Return a mask as its own file will hold it, that file's suffix, and what is lost."""
    chosen, suffix = (nifti, ".nii.gz") if mask.geometry.ndim == 3 else (picture, ".png")
    has_time = mask.data.ndim > mask.geometry.ndim
    if suffix == ".png" and (has_time or int(mask.data.max(initial=0)) > 65535):
        suffix = ".tif"
    planned = chosen.plan(mask, suffix=suffix).mask
    losses: dict[Loss, int] = {}
    if mask.geometry.ndim == 2 and mask.geometry.unit == "mm":
        losses[PLACE] = 1
        planned = replace(planned, geometry=type(mask.geometry).pixels(mask.geometry.shape))
    elif mask.geometry.ndim == 3 and mask.geometry.unit == "px":
        losses[SCALED] = 1
    return planned, suffix, losses


def write_mask(mask: Mask, path: Path) -> Path:
    """Write a mask as `as_stored` gave it at `path` plus its suffix; return where."""
    mask, suffix, _ = as_stored(mask)
    path = path.with_name(path.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    (nifti if suffix == ".nii.gz" else picture).write_mask(mask, Target(path, suffix, path))
    return path


def write_gray(mask: Mask, path: Path) -> Path:
    """Write a mask as `write_mask` does, a picture without its palette; return where.

    Readers that turn palettes into colours (scikit-image, ITK) would find other numbers in it.
    """
    stored, suffix, _ = as_stored(mask)
    if suffix != ".png":
        return write_mask(stored, path)
    path = path.with_name(path.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_png.packed(stored.data, b""))
    return path


def write_picture(item: Item, path: Path, *, ndim: int, options: Options, job: Job) -> Path | None:
    """Put an item's pixels at `path` plus a suffix; return where, or None where there are none.

    Pictures are copied. Volumes are read and written anew as NIfTI, so that nothing of a header
    (names of patients) comes along; hard links are asked for and are the files themselves.

    Parameters
    ----------
    ndim : int
        Spatial axes of the item's mask: a TIFF stack is written anew too, on the grid that the
        mask's file states.
    """
    if options.images == "none" or not has_pixels(item):
        return None
    file = item.image if item.image is not None and item.image.is_file() else None
    name = "" if file is None else file.name.lower()
    is_flat_file = ndim == 2 and name.endswith(_FLAT)
    is_linked = options.images == "link" and not name.endswith(_STACKS)
    if file is not None and (is_flat_file or is_linked):
        return place_file(file, path, options=options)
    image = read_image(item, job)
    is_flat = image.geometry.ndim == 2 and not image.has_time
    chosen, suffix = (picture, ".png") if is_flat else (nifti, ".nii.gz")
    planned = chosen.plan_image(image, suffix=suffix).image
    path = path.with_name(path.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen.write_image(planned, Target(path, suffix, path))
    return path


def write_maps(sample: Sample, folder: Path, name: str, *, options: Options) -> None:
    """Write where a person vouches for the mask and, if `options.maps`, drafts and authors."""
    grid = sample.masks[0].geometry
    if sample.reviewed is not None:
        seen = Mask(sample.reviewed.astype(np.uint8), grid, LabelTable.classes(["reviewed"]))
        write_mask(seen, folder / "reviewed" / name)
    if not options.maps:
        return
    for model, draft in sample.drafts.items():
        write_mask(draft, folder / "drafts" / _plain(model) / name)
    if sample.authors is not None:
        names = {int(n): who or f"author {n}" for n, who in sample.author_names.items() if n}
        by = Mask(sample.authors, grid, LabelTable.classes(names))
        write_mask(by, folder / "authors" / name)


def read_maps(sample: Sample, folder: Path, job: Job, *, name: str = "") -> Sample:
    """Return a sample with the maps that `write_maps` put beside it, where there are any.

    Parameters
    ----------
    name : str
        That of their files, where it is not the item's.

    Raises
    ------
    InputError
        If one of them is not of the mask's shape.
    """
    item, name = sample.item, name or sample.item.name
    seen = _map(folder / "reviewed", name, item, job)
    by = _map(folder / "authors", name, item, job)
    drafts = {}
    for model in sorted(p for p in (folder / "drafts").glob("*") if p.is_dir()):
        draft = _map(model, name, item, job)
        if draft is not None:
            drafts[model.name] = draft
    for one in (seen, by, *drafts.values()):
        if one is not None and one.data.shape != sample.masks[0].data.shape:
            msg = (
                f"expected the maps of {name!r} of shape {sample.masks[0].data.shape}, got "
                f"{one.data.shape}; remove them or make them anew"
            )
            raise InputError(msg)
    return replace(
        sample,
        reviewed=sample.reviewed if seen is None else seen.data > 0,
        drafts=drafts or sample.drafts,
        authors=sample.authors if by is None else by.data.astype(np.uint8),
        author_names=sample.author_names if by is None else by.labels.names,
    )


def _map(folder: Path, name: str, item: Item, job: Job) -> Mask | None:
    for suffix in (".nii.gz", ".nii", ".png", ".tif"):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return read_masks(path, item, "classes", job)[0]
    return None


def _plain(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-_ " else "_" for c in name).strip()
    return kept or "draft"
