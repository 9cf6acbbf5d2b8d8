"""What a dataset format can do, what it loses, and how a written one is proved."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError, MaskloopError
from maskloop.core.image import stem_of
from maskloop.core.mask import present_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from maskloop.core.dataset import Dataset, Item, Sample
    from maskloop.core.geometry import Box
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import Label, LabelTable
    from maskloop.core.mask import Mask

Images = Literal["copy", "link", "none"]
Severity = Literal["error", "warning"]

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".ppm")
_UID = re.compile(r"(?<!\d)\d+(?:\.\d+){5,}")  # DICOM PS3.5, chapter 9


@dataclass(frozen=True, slots=True)
class Options:
    """What a person decided about reading or writing a dataset.

    Parameters
    ----------
    profile : Path, optional
        A profile of one's own for a folder of masks.
    images : {"copy", "link", "none"}
        Whether the written dataset holds the pictures, hard links to them, or only names them.
    outline : {"rle", "polygon"}
        How COCO holds a region: run lengths, or polygons along the pixels' edges.
    axis : int
        Array axis along which volumes are cut into slices.
    window : tuple of float, optional
        Values that become black and white in slices; the range of each volume where left out.
    bits : {8, 16}
        Depth of slices.
    empty : {"all", "between", "none"}
        Which slices without labels are written: all, those between labelled ones, or none.
    maps : bool
        Whether drafts, reviewed voxels and authors are written too, where the dataset has them.
    repair : bool
        Whether what can be repaired without doubt (repeated ids, say) is, instead of refused.
    """

    profile: Path | None = None
    images: Images = "copy"
    outline: Literal["rle", "polygon"] = "rle"
    axis: int = 0
    window: tuple[float, float] | None = None
    bits: Literal[8, 16] = 8
    empty: Literal["all", "between", "none"] = "between"
    maps: bool = False
    repair: bool = False

    @property
    def made(self) -> frozenset[str]:
        """Names of the options that are not the default."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) != f.default)


@dataclass(frozen=True, slots=True)
class Loss:
    """What a format cannot hold, in words: "3 objects lose their holes".

    Parameters
    ----------
    noun : str
        Singular; ``s`` makes the plural.
    one, many : str
        The verb and the rest, for one and for several.
    is_note : bool
        Whether nothing is lost in truth: told, and no reason to refuse.
    """

    noun: str
    one: str
    many: str
    is_note: bool = False

    def words(self, count: int) -> str:
        """Return the sentence for `count` of them."""
        if count == 1:
            return f"1 {self.noun} {self.one}"
        return f"{count:,} {self.noun}s {self.many}"


HOLES = Loss("object", "loses its holes", "lose their holes")
PARTS = Loss("object", "loses parts", "lose parts")
DROPPED = Loss("object", "is dropped", "are dropped")
COVERED = Loss("object", "loses pixels to others that lie over it", "lose pixels to others over it")
MERGED = Loss("object", "is merged into its class", "are merged into their class")
PLACE = Loss("image", "loses its place in the world (mm)", "lose their place in the world (mm)")
UNDRAWN = Loss("image", "without a mask is left out", "without a mask are left out", is_note=True)
EMPTY = Loss("image", "without objects is left out", "without objects are left out")
SCORES = Loss("object", "loses its score", "lose their scores")
CROWDS = Loss("crowd", "becomes a plain object", "become plain objects")
RESHAPED = Loss("object", "changes by pixels at its edge", "change by pixels at their edges")
SCALED = Loss("volume", "of pixels gets 1 mm a pixel", "of pixels get 1 mm a pixel")
SLICES = Loss("slice", "without labels is left out", "without labels are left out")
UNREVIEWED = Loss("image", "is in part ignored: unreviewed", "are in part ignored: unreviewed")
REVIEW = Loss("image", "loses what of it was reviewed", "lose what of them was reviewed")
EXTRAS = Loss(
    "object",
    "loses what else its file says of it, such as keypoints",
    "lose what else their file says of them, such as keypoints",
)
IGNORED = Loss("ignored region", "loses its name", "lose their names")


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A sample as a format can hold it, just as it must read back, and what is lost."""

    sample: Sample
    losses: Mapping[Loss, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a dataset.

    Parameters
    ----------
    code : str
        Short and stable, such as ``"S4"``.
    words : str
        What was expected and what came.
    cure : str
        What to do.
    where : str
        Item, file or annotation; empty where it is the whole.
    severity : {"error", "warning"}
    """

    code: str
    words: str
    cure: str
    where: str = ""
    severity: Severity = "error"


@runtime_checkable
class Says(Protocol):
    """A sample's header that knows what of it only its own format holds."""

    def lost_in(self, format: str) -> int:
        """Return of how many objects another format loses what is said beside their shape."""
        ...


class OpenDataset(Protocol):
    """List what lies at a path; read no mask and no pixel."""

    def __call__(self, path: Path, *, options: Options, job: Job) -> Dataset:
        """Return the dataset."""
        ...


class Hold(Protocol):
    """Return a sample as the format can hold it and what is lost.

    Raises an `InputError` for what the format cannot hold at all, such as a volume in YOLO.
    """

    def __call__(self, sample: Sample, dataset: Dataset, *, options: Options) -> Held:
        """Return what reads back."""
        ...


class WriteDataset(Protocol):
    """Write all samples, which `Hold` has seen, into an empty folder.

    `dataset.items` carry the splits; samples come in their order and are read only once.
    """

    def __call__(
        self,
        dataset: Dataset,
        samples: Iterable[Sample],
        folder: Path,
        *,
        options: Options,
        job: Job,
    ) -> None:
        """Write every file, pictures too where `options.images` says so (see `place_image`)."""
        ...  # fmt: skip


class CheckDataset(Protocol):
    """Find what is wrong with the files of a dataset."""

    def __call__(self, path: Path, *, options: Options, job: Job) -> Iterator[Problem]:
        """Yield the problems."""
        ...


@dataclass(frozen=True, slots=True)
class DatasetFormat:
    """One dataset format; what is None it cannot do.

    Parameters
    ----------
    name, title : str
        Key on the shelf, words for people.
    sniff : callable
        Whether a file or folder is of this format, by names and first bytes only.
    open : callable, optional
        Lists it; the reading of items hangs on the `Dataset`.
    hold, write : callable, optional
        Both or none.
    check : callable, optional
        What `maskloop validate` asks beside opening and reading all.
    dims : frozenset of int
        Spatial axes that it can hold.
    options : frozenset of str
        The fields of `Options` that it heeds.
    layout : str
        One line: where files lie.
    proof : str
        ``"real data"`` or ``"synthetic data only"``.
    """

    name: str
    title: str
    sniff: Any  # Any: callable[[Path], bool]; mypy reads a callable field as a method
    open: OpenDataset | None = None
    hold: Hold | None = None
    write: WriteDataset | None = None
    check: CheckDataset | None = None
    dims: frozenset[int] = frozenset({2})
    options: frozenset[str] = frozenset()
    layout: str = ""
    proof: str = "synthetic data only"


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One object, or one class, of a sample: its row, its box, and what it fills of the box."""

    label: Label
    box: Box
    region: npt.NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Number of voxels."""
        return int(np.count_nonzero(self.region))


def regions(sample: Sample) -> Iterator[Region]:
    """Yield what each id of a sample fills, mask by mask, ascending by id; none is empty."""
    from maskloop.ops.components import boxes

    for mask in sample.masks:
        found = boxes(mask.data)
        labels = mask.labels.covering(list(found))
        for number, box in found.items():
            yield Region(labels[number], box, mask.data[box] == number)


def covered(sample: Sample, settled: Mask) -> dict[Loss, int]:
    """Return how many objects lose pixels, or all of them, where overlaps are settled."""
    left = set(settled.ids())
    losses: Counter[Loss] = Counter()
    for mask in sample.masks:
        for number in present_ids(mask.data[mask.data != settled.data]):
            losses[COVERED if number in left else DROPPED] += 1
    return dict(losses)


def is_partly_reviewed(sample: Sample) -> bool:
    """Whether there are voxels that nobody vouches for."""
    return sample.reviewed is not None and not bool(sample.reviewed.all())


def class_of(label: Label) -> str:
    """Return the name of the class that a row belongs to, or is."""
    return label.category or label.name


def class_ids(scheme: LabelTable) -> dict[str, int]:
    """Return the scheme as ``{class name: id}``."""
    return {row.name: row.id for row in scheme.values()}


def difference(meant: Sample, found: Sample) -> str:
    """Return how two samples differ, in words; empty where they hold the same regions.

    Ids need not agree: every region must be there once, of the same class, voxel by voxel; and so
    must the grid, where it is in mm.
    """
    one, other = meant.masks[0], found.masks[0]
    if one.data.shape != other.data.shape:
        return f"shape {other.data.shape} for {one.data.shape}"
    if one.geometry.unit != other.geometry.unit:
        return f"a grid in {other.geometry.unit} for one in {one.geometry.unit}"
    if one.geometry.unit == "mm":
        words = one.geometry.difference(other.geometry)
        if words:
            return words
    if len(meant.masks) == len(found.masks) and all(
        _is_alike(*pair) for pair in zip(meant.masks, found.masks, strict=True)
    ):
        return ""
    want, got = Counter(map(_print, regions(meant))), Counter(map(_print, regions(found)))
    if want == got:
        return ""
    missing, extra = want - got, got - want
    first = next(iter(missing or extra))
    where = "x".join(f"{a}:{b}" for a, b in first[1])
    return (
        f"{missing.total()} region(s) missing and {extra.total()} not meant, the first of class "
        f"{first[0]!r} in box {where}"
    )


def _is_alike(one: Mask, other: Mask) -> bool:
    """Whether two masks hold the same ids, of the same classes."""
    if not np.array_equal(one.data, other.data):
        return False
    ids = one.ids()
    rows = [m.labels.covering(ids) for m in (one, other)]
    return all(class_of(rows[0][i]) == class_of(rows[1][i]) for i in ids)


def fingerprint(sample: Sample) -> str:
    """Return a digest of all that `difference` compares: equal ones mean no difference.

    Of two samples without a difference the digests may differ where grids in mm are rounded.
    """
    grid = sample.masks[0].geometry
    whole = hashlib.sha256(f"{sample.masks[0].data.shape}{grid.unit}".encode())
    if grid.unit == "mm":
        whole.update(grid.affine.tobytes())
    for part in sorted(map(_print, regions(sample))):
        whole.update(repr(part).encode())
    return whole.hexdigest()


def _print(one: Region) -> tuple[str, tuple[tuple[int, int], ...], bytes]:
    box = tuple((part.start, part.stop) for part in one.box)
    return class_of(one.label), box, hashlib.sha256(np.packbits(one.region).tobytes()).digest()


def safe_name(name: str) -> str:
    """Return an item's name as a relative path without dots in its parts, and without UIDs.

    Tools cut names at the first dot; a DICOM UID, which names a person's scan, becomes a digest.

    Raises
    ------
    InputError
        If the name leads out of the folder.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    is_odd = any(part in ("..", "/") or part.endswith(":") or "\0" in part for part in parts)
    if not parts or is_odd:
        msg = f"expected a name inside the dataset, got {name!r}; rename the item"
        raise InputError(msg)
    return "/".join(_UID.sub(_digest, part).replace(".", "_").strip() or "_" for part in parts)


def split_folder(split: str) -> str:
    """Return the name of a split as one part of a path; see `safe_name`."""
    return safe_name(split).replace("/", "_")


def _digest(uid: re.Match[str]) -> str:
    return f"uid-{hashlib.sha256(uid[0].encode()).hexdigest()[:8]}"


def inside(root: Path, name: object) -> Path:
    """Return the path of a file that a dataset names, which must lie inside `root`.

    Raises
    ------
    InputError
        If the name is no text, absolute, or leads out with ``..``.
    """
    text = str(name).replace("\\", "/")
    pure = PurePosixPath(text)
    is_drive = len(text) > 1 and text[1] == ":"
    if (
        not isinstance(name, str)
        or not text
        or pure.is_absolute()
        or is_drive
        or ".." in pure.parts
        or "\0" in text
    ):
        msg = (
            f"expected a file name relative to {root.name}/, got {name!r}; correct the entry: "
            "nothing outside the dataset is read"
        )
        raise InputError(msg)
    return root.joinpath(*pure.parts)


def place_image(item: Item, target: Path, *, options: Options, job: Job) -> Path | None:
    """Put an item's picture at `target` plus its suffix, as `options.images` says.

    DICOM and the files of volumes are written anew: they would bring the patient's identity along.

    Returns
    -------
    Path or None
        Where it lies now; None where nothing was to be put there or the item has no picture.

    Raises
    ------
    InputError
        If a picture must be written anew, and cannot be read.
    """
    if options.images == "none" or item.image is None or not item.image.exists():
        return None
    if _is_picture(item.image):
        return place_file(item.image, target, options=options)
    try:
        image = read_image(item, job)
    except MaskloopError as error:
        msg = (
            f"expected a picture of {item.name!r} that can be written as PNG, got: {error}; "
            "convert it first, or add --images none"
        )
        raise InputError(msg) from error
    return _written_anew(image, target)


def _is_picture(path: Path) -> bool:
    """Whether a file is a picture, or at least none of those that name patients."""
    from maskloop import formats
    from maskloop.formats.base import first_bytes
    from maskloop.formats.dicom_scan import is_dicom

    if not path.is_file():
        return False
    if path.name.lower().endswith(PICTURES):
        return True
    return formats.by_suffix(path) is None and not is_dicom(first_bytes(path, 256))


def _written_anew(image: Image, target: Path) -> Path:
    from maskloop.formats import picture
    from maskloop.formats.base import Target

    suffix = ".png"
    try:
        planned = picture.plan_image(image, suffix=suffix).image
    except InputError:  # negative values, such as those of CT
        suffix = ".tif"
        planned = picture.plan_image(image, suffix=suffix).image
    path = target.with_name(target.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.write_image(planned, Target(path, suffix, path))
    return path


def place_file(source: Path, target: Path, *, options: Options) -> Path:
    """Copy a file to `target` plus its suffix, or link it where `options.images` says so."""
    path = target.with_name(target.name + source.name[len(stem_of(source)) :])
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.images == "link":
        try:
            os.link(os.path.realpath(source), path)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, path)
    else:
        shutil.copyfile(source, path)
    return path


def has_pixels(item: Item) -> bool:
    """Whether an item's image can be read: from a file or folder, or by its own dataset."""
    if item.image is not None:
        return item.image.exists()
    return bool(getattr(item.ref, "has_pixels", False))


def read_image(item: Item, job: Job) -> Image:
    """Return an item's pixels.

    Raises
    ------
    InputError
        If the dataset has none at hand.
    """
    from maskloop import formats
    from maskloop.formats.base import Choices, reading

    own = getattr(item.ref, "read_image", None)  # a dataset whose pixels are in no file of theirs
    if item.image is None and own is not None:
        found: Image = own(job)
        return found
    if item.image is None:
        msg = f"expected the picture of {item.name!r}, got none at hand; put it into the dataset"
        raise InputError(msg)
    known = formats.by_suffix(item.image)
    if known is None and not item.image.is_dir() and formats.get("picture").sniff(item.image):
        known = ("picture", "")  # BMP and PGM, of which only old datasets are made
    chosen = formats.get("dicom" if item.image.is_dir() or known is None else known[0])
    if chosen.read_image is None:
        msg = f"expected a picture for {item.name!r}, got {item.image.name}; correct the dataset"
        raise InputError(msg)
    with reading(item.image):
        return chosen.read_image(item.image, choices=Choices(), job=job)
