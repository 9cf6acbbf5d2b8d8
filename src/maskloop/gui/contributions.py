"""What napari calls by name: reader, writers, samples; no Qt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError, MaskloopError
from maskloop.core.image import Image, stem_of
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.gui import layers, parents
from maskloop.gui.placement import GHOST

if TYPE_CHECKING:
    from maskloop import Choices
    from maskloop.gui.layers import LayerData

SUFFIXES = (
    *(".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh"),
    *(".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg", ".tif", ".tiff"),
)
# Files that may describe a whole dataset; those that do not are left to others.
DATASETS = (".json", ".geojson", ".xml", ".yaml", ".yml")
_NO_LAYER: Any = (None,)  # Any: napari's sign that a reader has nothing to add

Reader = Callable[[str], "list[LayerData]"]


def get_reader(path: str | list[str]) -> Reader | None:
    """Return `read` for files we know, folders that hold DICOM, and datasets, else None.

    Lists (napari's "open as stack") are left to others, and so are folders of plain pictures.
    """
    if isinstance(path, list):
        if len(path) != 1:
            return None
        path = path[0]
    where = Path(path)
    name = where.name.lower()
    if not where.is_dir() and not name.endswith(DATASETS):
        return read if name.endswith(SUFFIXES) else None
    if where.is_dir() and _holds_dicom(where):
        return read
    return read_list if _is_list(where) else None


def _holds_dicom(folder: Path) -> bool:
    from maskloop.desk.images import holds_dicom

    return holds_dicom(folder)


def _is_list(path: Path) -> bool:
    from maskloop.desk.images import IMAGES, holds_volumes, recognised

    try:
        found = recognised(path)
        return holds_volumes(path) if found == IMAGES else bool(found)
    except OSError:
        return False


def read_list(path: str | list[str]) -> list[LayerData]:
    """Open a dataset, or a folder of volumes, as the list of the panel; napari gets no layer.

    A file with the masks of the picture that is open is opened over that.
    """
    import napari

    where = Path(path[0] if isinstance(path, list) else path)
    image = None if where.is_dir() else _open_image()
    if image is not None:
        job = Job()
        try:
            found = load_items(where, image=lambda: image, job=job)
        except MaskloopError:
            found = []
        if found:
            _tell(job)
            return layers_of(found, where)
    viewer = napari.current_viewer()
    if viewer is None:
        msg = f"expected a window to list {where.name} in, got none; open napari first"
        raise InputError(msg)
    _, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
    panel.dataset.open_path(where)
    return [_NO_LAYER]


def read(path: str | list[str]) -> list[LayerData]:
    """Open one file or DICOM folder as layers: masks as labels, all else as images.

    Where a folder leaves something to decide, the panel asks, and napari gets no layer yet.
    """
    where = Path(path[0] if isinstance(path, list) else path)
    if where.is_dir() and _is_asked(where):
        return [_NO_LAYER]
    job = Job()
    found = load_items(where, image=_open_image, job=job)
    _tell(job)
    return layers_of(found, where)


def layers_of(found: Image | list[Mask], path: Path) -> list[LayerData]:
    """Return layer data for what `load_items` found at `path`."""
    if isinstance(found, Image):
        return layers.image_layers(found)
    names = [mask.title or stem_of(path) for mask in found]
    return [
        layers.mask_layer(mask, name=name if names.index(name) == i else f"{name} ({i + 1})")
        for i, (mask, name) in enumerate(zip(found, names, strict=True))
    ]


def load_items(
    path: Path,
    *,
    image: Callable[[], Image | None] | None = None,
    choices: Choices | None = None,
    job: Job | None = None,
) -> Image | list[Mask]:
    """Load a file as masks if it holds some, by its content, name or receipt, else as an image.

    Parameters
    ----------
    path : Path
    image : callable, optional
        Gives the image that regions in the file may lie on; asked only where there are some.
    choices : maskloop.Choices, optional
        What to do about a series that does not load as it stands.
    job : Job, optional
    """
    from maskloop.loop.load import format_of, load, load_masks

    if not path.is_dir() and format_of(path).read_image is None:
        return _masks(path, image() if image is not None else None, job)
    if looks_like_mask(path):
        try:
            return load_masks(path, job=job)
        except InputError:
            return load(path, job=job)
    return load(path, choices=choices, job=job)


def _masks(path: Path, on: Image | None, job: Job | None) -> list[Mask]:
    """Load masks on an image or, where they belong to another, where they say they lie."""
    from maskloop.loop.load import load_masks

    if on is None:
        return load_masks(path, job=job)
    try:
        return load_masks(path, image=on, job=job)
    except MaskloopError as error:
        try:
            return load_masks(path, job=job)
        except MaskloopError:
            raise error from None


def intake_of(path: Path, *, job: Job | None = None) -> dict[str, Any]:  # Any: plain JSON values
    """Return the intake report of a folder where it leaves something to decide, else ``{}``."""
    from maskloop.desk.check import info

    report = info(path, job=job)
    return report if must_ask(report) else {}


def must_ask(report: Mapping[str, Any]) -> bool:  # Any: plain JSON values
    """Whether a report leaves something to decide: several images, problems, a tilted gantry."""
    rows = [row for row in report.get("series") or () if row.get("slices")]
    odd = (not row["loads"] or row["problems"] or row.get("tilt_degrees") for row in rows)
    return len(rows) > 1 or any(odd)


def _is_asked(folder: Path) -> bool:
    import napari

    viewer = napari.current_viewer()
    report = intake_of(folder) if viewer is not None else {}
    if viewer is None or not report:
        return False
    _, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
    panel.load.ask(folder, report)
    return True


def _tell(job: Job) -> None:
    from napari.utils.notifications import show_info

    for note in dict.fromkeys(job.notes):
        show_info(note)


def looks_like_mask(path: Path) -> bool:
    """Whether a file's name, or a receipt of ours beside it, says that it holds labels."""
    if path.is_dir():
        return False
    receipt = path.with_name(path.name + ".receipt.json")
    from maskloop.desk.images import is_named_mask

    return receipt.is_file() or is_named_mask(path)


class NotSavedError(MaskloopError):
    """A layer was not saved, for the reason given; no ValueError, which napari would swallow."""


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:  # Any: napari's types
    """Export one Labels layer, verified; the suffix of `path` chooses the format.

    A layer that does not know its place takes that of the image it lies over; a volume without
    one is refused.

    Raises
    ------
    NotSavedError
        If the layer's place is unknown or the format cannot hold it. napari takes a ValueError
        for a writer that does not fit and drops its words.
    """
    from napari.layers import Labels
    from napari.utils.notifications import show_info, show_warning

    from maskloop.loop.export import export

    place = (*layers.PLACING, "name", "features", "metadata")
    layer = Labels(data, **{key: meta[key] for key in place if key in meta})
    try:
        parent = parents.parent_of(layer, _open_layers())
        mask, note = layers.mask_of(layer, parent)
        has_file = parent is not None and layers.placement_of(parent).source is not None
        image = layers.image_of(parent) if has_file else None
        receipt = export(mask, Path(path), image=image)
    except InputError as error:
        raise NotSavedError(str(error)) from error
    if note:
        show_warning(note)
    show_info(f"{receipt.path.name}: {receipt.verdict}, read back with {receipt.reader}")
    return [str(receipt.path)]


def _open_layers() -> list[Any]:  # Any: napari layers are untyped
    import napari

    viewer = napari.current_viewer()
    return list(viewer.layers) if viewer is not None else []


def _open_image() -> Image | None:
    """Return the topmost image that knows its place, or None."""
    known = [x for x in reversed(_open_layers()) if type(layers.bare(x)).__name__ == "Image"]
    for layer in known:
        if GHOST in layer.metadata:  # probabilities lie over the image
            continue
        if not layers.placement_of(layer).is_guessed and not layers.frames_of(layer):
            return layers.image_of(layer)
    return None


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
