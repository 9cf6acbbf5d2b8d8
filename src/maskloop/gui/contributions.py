"""What napari calls by name: reader, writers, samples; no Qt."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError
from maskloop.core.image import Image, stem_of
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.gui import layers

if TYPE_CHECKING:
    from maskloop.gui.layers import LayerData

SUFFIXES = (".nii", ".nii.gz", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
_MASK_WORDS = re.compile(
    r"(^|[^a-z])(mask|masks|seg|segmentation|label|labels|gt)([^a-z]|$)", re.IGNORECASE
)
_LOOKED_AT = 20  # files of a folder that are asked whether they are DICOM

Reader = Callable[[str], "list[LayerData]"]


def get_reader(path: str | list[str]) -> Reader | None:
    """Return `read` for files we know and for folders that hold DICOM, else None.

    Lists (napari's "open as stack") are left to others.
    """
    if isinstance(path, list):
        if len(path) != 1:
            return None
        path = path[0]
    where = Path(path)
    if where.is_dir():
        return read if _holds_dicom(where) else None
    return read if where.name.lower().endswith(SUFFIXES) else None


def _holds_dicom(folder: Path) -> bool:
    try:
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        return any(_is_dicom(p) for p in files[:_LOOKED_AT])
    except OSError:
        return False


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read(path: str | list[str]) -> list[LayerData]:
    """Open one file or DICOM folder as layers: masks as labels, all else as images."""
    where = Path(path[0] if isinstance(path, list) else path)
    item = load_any(where)
    if isinstance(item, Mask):
        return [layers.mask_layer(item, name=stem_of(where))]
    return layers.image_layers(item)


def load_any(path: Path, *, job: Job | None = None) -> Image | Mask:
    """Load a file as a mask if it is one, by its name or by what lies beside it, else an image."""
    from maskloop.loop.load import load, load_mask

    if looks_like_mask(path):
        try:
            return load_mask(path, job=job)
        except InputError:
            return load(path, job=job)
    return load(path, job=job)


def looks_like_mask(path: Path) -> bool:
    """Whether a file's name, or a receipt of ours beside it, says that it holds labels."""
    if path.is_dir():
        return False
    receipt = path.with_name(path.name + ".receipt.json")
    return receipt.is_file() or bool(_MASK_WORDS.search(stem_of(path)))


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:  # Any: napari's types
    """Export one Labels layer, verified; the suffix of `path` chooses the format.

    A layer that does not know its place takes that of the image it lies over; a volume without
    one is refused.
    """
    from napari.layers import Labels
    from napari.utils.notifications import show_info, show_warning

    from maskloop.loop.export import export

    place = (*layers.PLACING, "name", "features", "metadata")
    layer = Labels(data, **{key: meta[key] for key in place if key in meta})
    mask, note = layers.mask_of(layer, layers.parent_of(layer, _open_layers()))
    if note:
        show_warning(note)
    receipt = export(mask, Path(path))
    show_info(f"{receipt.path.name}: {receipt.verdict}, read back with {receipt.reader}")
    return [str(receipt.path)]


def _open_layers() -> list[Any]:  # Any: napari layers are untyped
    import napari

    viewer = napari.current_viewer()
    return list(viewer.layers) if viewer is not None else []


def sample_ct() -> list[LayerData]:
    """Return the phantom CT."""
    image, _ = _phantom()
    return layers.image_layers(image, name="phantom CT")


def sample_ct_with_mask() -> list[LayerData]:
    """Return the phantom CT and its true liver and tumours."""
    image, mask = _phantom()
    shown = layers.image_layers(image, name="phantom CT")
    return [*shown, layers.mask_layer(mask, name="phantom liver and tumours")]


def sample_nuclei() -> list[LayerData]:
    """Return a drawn picture of nuclei."""
    from maskloop.ops.phantom import nuclei_picture

    image, _ = nuclei_picture(7)
    return layers.image_layers(image, name="nuclei")


def _phantom() -> tuple[Image, Mask]:
    from maskloop.ops.phantom import phantom_ct

    return phantom_ct(5, lesions=(4, 6))
