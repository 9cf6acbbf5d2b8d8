"""Which pairs to train on, what they are made of, and which of them are never shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError, MissingFileError
from maskloop.core.files import sha256_of
from maskloop.core.image import Image, stem_of
from maskloop.core.mask import Mask

if TYPE_CHECKING:
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable

Box = tuple[slice, ...]
Pair = tuple[Image | Path | str, Mask | Path | str]
Triple = tuple[Image | Path | str, Mask | Path | str, npt.NDArray[np.bool_] | Path | str | None]

_MASK_ENDINGS = ("_mask", "_labels", "_label", "_seg", "_masks")
_REVIEWED = "_reviewed"
_SUFFIXES = (
    ".nii.gz", ".nii", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".json", ".nrrd", ".mha",
)  # fmt: skip
_SHARE = 1 / 3  # of the groups, held out


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A mask, where a person vouches for it, and how many voxels overlaps took from objects."""

    mask: Mask
    reviewed: npt.NDArray[np.bool_] | None = None
    lost: int = 0


class Drawing(Protocol):
    """The mask of an item of a dataset, read when it is needed and let go after."""

    @property
    def labels(self) -> LabelTable:
        """The classes that may occur, known without reading it."""
        ...

    def read(self, job: Job) -> Drawn:
        """Return the mask."""
        ...

    def read_image(self, job: Job) -> Image:
        """Return the pixels, of a case whose image is in no file of its own."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCase:
    """An image and its corrected mask, in memory or on disk.

    Parameters
    ----------
    name : str
        For messages and the record; never used to decide anything.
    image, mask
        Nouns, or paths (of a dataset: drawings) that are loaded when needed and let go after. The
        image is None where the drawing reads it.
    reviewed : bool array or Path, optional
        Where a person vouches for the mask; None where that is everywhere.
    group : str
        Patient, slide or video that a split must not cut; empty where the case stands alone.
    split : str
        The side on which its dataset has it; empty where it does not say.
    """

    name: str
    image: Image | Path | None
    mask: Mask | Path | Drawing
    reviewed: npt.NDArray[np.bool_] | Path | None = None
    group: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """Which cases are trained on and which are held out, by position.

    Parameters
    ----------
    train, held_out : tuple of int
    groups : int
        How many independent groups (patients, or single cases) there are.
    by_block : bool
        Whether too few groups forced a spatial block inside each case to stand for held-out cases.
    is_own : bool
        Whether the dataset says itself which cases are held out.
    """

    train: tuple[int, ...]
    held_out: tuple[int, ...]
    groups: int
    by_block: bool = False
    is_own: bool = False

    @property
    def kind(self) -> Literal["cases", "leave one out", "spatial block", "the dataset's own"]:
        """How the scores came about, in words."""
        if self.by_block:
            return "spatial block"
        if self.is_own:
            return "the dataset's own"
        return "cases" if self.groups >= 3 else "leave one out"


def read_cases(
    cases: Path | str | Sequence[Pair | Triple | Path | str],
) -> list[TrainingCase]:
    """Return training cases from any form a person may give them in.

    Parameters
    ----------
    cases : path, or sequence of pairs, triples, ``"IMAGE=MASK"`` strings and folders
        See `find_pairs` for what a folder must look like.

    Raises
    ------
    InputError
        If a form is not understood, or no case is found.
    MissingFileError
        If a path does not exist.
    """
    given = [cases] if isinstance(cases, (str, Path)) else list(cases)
    found: list[TrainingCase] = []
    for one in given:
        if isinstance(one, (str, Path)):
            found.extend(_from_text(one))
        elif isinstance(one, tuple) and len(one) in (2, 3):
            found.append(_from_parts(one, number=len(found) + 1))
        else:
            msg = (
                f"expected a training case as (image, mask), 'IMAGE=MASK' or a folder of pairs, "
                f"got {type(one).__name__}; give one of these"
            )
            raise InputError(msg)
    if not found:
        msg = "expected at least one training case, got none; give IMAGE=MASK or a folder of pairs"
        raise InputError(msg)
    return found


def _from_text(text: str | Path) -> list[TrainingCase]:
    path = Path(text)
    if path.is_dir():
        return find_pairs(path)
    image, sign, mask = str(text).partition("=")
    if not sign:
        if not path.exists():
            msg = f"expected a training case at {path}, got no such file or folder; check the path"
            raise MissingFileError(msg)
        msg = (
            f"expected IMAGE=MASK or a folder of pairs, got the single file {str(text)!r}; "
            f"write its mask behind a '='"
        )
        raise InputError(msg)
    return [_from_parts((image, mask))]


def _from_parts(parts: Pair | Triple, *, number: int = 0) -> TrainingCase:
    image, mask = parts[0], parts[1]
    reviewed = parts[2] if len(parts) == 3 else None
    image = Path(image) if isinstance(image, str) else image
    mask = Path(mask) if isinstance(mask, str) else mask
    reviewed = Path(reviewed) if isinstance(reviewed, str) else reviewed
    for path in (image, mask, reviewed):
        if isinstance(path, Path) and not path.exists():
            msg = f"expected a training case at {path}, got no such file or folder; check the path"
            raise MissingFileError(msg)
    source = image if isinstance(image, Path) else image.source
    name = stem_of(source) if source is not None else f"case-{number:03d}"
    return TrainingCase(name, image, mask, reviewed)


def find_pairs(folder: Path) -> list[TrainingCase]:
    """Return the image and mask pairs of a folder, in order of name.

    Either the folder has ``images/`` and ``masks/`` (or ``labels/``) whose files share a name up
    to the suffix, and perhaps ``reviewed/``; or each image ``NAME.ext`` lies beside its mask
    ``NAME_mask.ext`` (or ``_masks``, ``_label``, ``_labels``, ``_seg``) and perhaps
    ``NAME_reviewed.ext``. Images may be folders of DICOM slices in the first form.

    Raises
    ------
    InputError
        If there is no pair, or an image in ``images/`` has no mask.
    """
    images = folder / "images"
    if images.is_dir():
        return _from_two_folders(folder, images)
    files = {_stem(p): p for p in sorted(folder.iterdir()) if _is_data(p)}
    found = []
    for stem, path in files.items():
        mask = next((files[stem + end] for end in _MASK_ENDINGS if stem + end in files), None)
        if mask is not None:
            found.append(TrainingCase(stem, path, mask, files.get(stem + _REVIEWED)))
    if not found:
        msg = (
            f"expected pairs in {folder} (images/ and masks/, or NAME.ext beside NAME_mask.ext), "
            f"got {len(files)} file(s) that do not pair; rename them or give IMAGE=MASK"
        )
        raise InputError(msg)
    return found


def _from_two_folders(folder: Path, images: Path) -> list[TrainingCase]:
    masks = next((folder / n for n in ("masks", "labels") if (folder / n).is_dir()), None)
    if masks is None:
        msg = f"expected masks/ beside images/ in {folder}, got none; put the masks there"
        raise InputError(msg)
    by_stem = {_stem(p): p for p in sorted(masks.iterdir()) if _is_data(p)}
    vouched = folder / "reviewed"
    reviewed = {_stem(p): p for p in vouched.iterdir() if _is_data(p)} if vouched.is_dir() else {}
    found, alone = [], []
    for path in sorted(images.iterdir()):
        if not (_is_data(path) or (path.is_dir() and not path.name.startswith("."))):
            continue
        stem = _stem(path)
        mask = next((by_stem[stem + e] for e in ("", *_MASK_ENDINGS) if stem + e in by_stem), None)
        if mask is None:
            alone.append(path.name)
        else:
            found.append(TrainingCase(stem, path, mask, reviewed.get(stem)))
    if alone or not found:
        msg = (
            f"expected a mask in {masks} for each image, got none for {', '.join(alone) or 'any'}; "
            f"name the masks as the images"
        )
        raise InputError(msg)
    return found


def _is_data(path: Path) -> bool:
    name = path.name.lower()
    return path.is_file() and name.endswith(_SUFFIXES) and not name.endswith(".receipt.json")


def _stem(path: Path) -> str:
    return stem_of(path)


def fingerprint(thing: Image | Mask | Path | npt.NDArray[Any] | None) -> str:
    """Return a sha256 of the content: pixels and place, or bytes of a file or a folder's files."""
    digest = hashlib.sha256()
    if isinstance(thing, Path):
        files = [thing] if thing.is_file() else sorted(p for p in thing.rglob("*") if p.is_file())
        # Names are left out: a copied series is the same series.
        parts = sorted(sha256_of(path) for path in files)
        digest.update("".join(parts).encode())
    elif thing is not None:
        data = thing if isinstance(thing, np.ndarray) else thing.data
        digest.update(f"{data.dtype.str}{data.shape}".encode())
        for slab in data.reshape(data.shape[0], -1) if data.size else ():
            digest.update(np.ascontiguousarray(slab).tobytes())
        if not isinstance(thing, np.ndarray):
            digest.update(thing.geometry.affine.tobytes())
        if isinstance(thing, Mask):
            digest.update(repr(thing.labels.to_rows()).encode())
    return digest.hexdigest()


def split_cases(
    prints: Sequence[str],
    *,
    seed: int,
    patients: Sequence[str] | None = None,
    trained: Iterable[str] = (),
    held: Iterable[str] = (),
) -> Split:
    """Hold out a third of the cases, whole patients at a time.

    The choice follows from the seed and the images' content: names and order change nothing, and
    two copies of one image are always on the same side.

    Parameters
    ----------
    prints : sequence of str
        `fingerprint` of each case's image.
    seed : int
        Another seed holds out others.
    patients : sequence of str, optional
        Patient of each case; each case is its own where None.
    trained, held : iterable of str
        Fingerprints that an earlier model in the line was trained on, or was measured on: the
        former are held out last, the latter first.
    """
    group_of = _groups(prints, patients)
    groups = sorted(set(group_of))
    trained, held = set(trained), set(held)

    def order(group: str) -> tuple[int, str]:
        inside = {p for p, g in zip(prints, group_of, strict=True) if g == group}
        rank = -1 if inside & held else 1 if inside & trained else 0
        return rank, hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()

    everything = tuple(range(len(prints)))
    if len(groups) == 1:
        return Split(everything, everything, 1, by_block=True)
    count = max(1, round(len(groups) * _SHARE))
    out = set(sorted(groups, key=order)[:count])
    held_out = tuple(i for i in everything if group_of[i] in out)
    return Split(tuple(i for i in everything if i not in held_out), held_out, len(groups))


def side_of(word: str) -> Literal["train", "val", "test", ""]:
    """Return which side of a split a dataset's word means: ``"val2017"`` is ``"val"``."""
    word = word.casefold()
    sides: dict[str, Literal["train", "val", "test"]] = {
        "train": "train", "tr": "train", "val": "val", "dev": "val", "test": "test", "ts": "test",
    }  # fmt: skip
    return next((side for start, side in sides.items() if word.startswith(start)), "")


def sided(cases: Sequence[TrainingCase]) -> list[TrainingCase]:
    """Return the cases that their own splits give to training or to holding out.

    What is for validation is held out, the test set only where there is no validation. Where no
    split is told, or only one side of it, all cases are returned without any.
    """
    sides = {side_of(case.split) for case in cases}
    held = "val" if "val" in sides else "test"
    if not {"train", held} <= sides:
        return [replace(case, split="") for case in cases]
    return [
        replace(case, split="train" if side_of(case.split) == "train" else held)
        for case in cases
        if side_of(case.split) in ("train", held)
    ]


def split_as_told(
    prints: Sequence[str], splits: Sequence[str], *, patients: Sequence[str] | None = None
) -> Split:
    """Hold out what is not for training; what is, but is of a held-out patient, is left out.

    Parameters
    ----------
    prints, patients
        As for `split_cases`.
    splits : sequence of str
        ``"train"``, or anything else for a case to hold out.

    Raises
    ------
    InputError
        If no case is left to train on.
    """
    group_of = _groups(prints, patients)
    out = {g for g, word in zip(group_of, splits, strict=True) if word != "train"}
    held_out = tuple(i for i, word in enumerate(splits) if word != "train")
    train = tuple(i for i, g in enumerate(group_of) if splits[i] == "train" and g not in out)
    if not train:
        msg = (
            "expected training cases of other patients than the held-out ones, got none; split the "
            "dataset anew"
        )
        raise InputError(msg)
    return Split(train, held_out, len(set(group_of)), is_own=True)


def _groups(prints: Sequence[str], patients: Sequence[str] | None) -> list[str]:
    """Return a group for each case: linked by patient or by equal images, however indirectly."""
    keys = [
        {f"image {p}"} | ({f"patient {patients[i]}"} if patients else set())
        for i, p in enumerate(prints)
    ]
    linked: list[set[str]] = []
    for key in keys:
        touching = [one for one in linked if one & key]
        linked = [one for one in linked if not one & key]
        linked.append(key.union(*touching))
    return [min(min(one) for one in linked if one & key) for key in keys]


class Named(Protocol):
    """What has a name that a rule can look at: a training case, an item of a dataset."""

    @property
    def name(self) -> str:
        """Unique among its kind."""
        ...


def patients_of(cases: Sequence[Named], rule: str | Mapping[str, str]) -> list[str]:
    """Return the patient of each case.

    Parameters
    ----------
    cases : sequence of TrainingCase or Item
    rule : str or mapping
        A regular expression found in the case's name (its first group where it has one, else the
        whole match), or the patient by name.

    Raises
    ------
    InputError
        If the rule says nothing about a case.
    """
    found = []
    for case in cases:
        if isinstance(rule, Mapping):
            patient = rule.get(case.name)
        else:
            try:
                match = re.search(rule, case.name)
            except re.error as error:
                msg = (
                    f"expected a regular expression as rule of patients, got {rule!r} ({error}); "
                    f"correct it"
                )
                raise InputError(msg) from error
            patient = match.group(1 if match.re.groups else 0) if match else None
        if patient is None:
            msg = (
                f"expected the patient of case {case.name!r} from {rule!r}, got none; "
                f"widen the rule"
            )
            raise InputError(msg)
        found.append(patient)
    return found


def held_out_block(ids: npt.NDArray[Any]) -> Box:
    """Return the end of a volume (or picture) that holds about a third of what is labelled.

    Parameters
    ----------
    ids : array of unsigned int
        Class per voxel, or objects; each class counts the same, so that a small one is in it too.
    """
    axis = 0 if ids.ndim == 3 and ids.shape[0] >= 4 else int(np.argmax(ids.shape))
    others = tuple(a for a in range(ids.ndim) if a != axis)
    classes = [c for c in np.unique(ids) if c]
    if len(classes) > 20:  # objects: all are one class here
        profile = (ids > 0).sum(axis=others).astype(np.float64)
    else:
        counts = [(ids == c).sum(axis=others) for c in classes]
        profile = sum((c / c.sum() for c in counts), np.zeros(ids.shape[axis]))
    if not profile.any():
        profile = np.ones(ids.shape[axis])
    share = np.cumsum(profile) / profile.sum()
    cut = int(np.searchsorted(share, 1 - _SHARE)) + 1
    cut = min(max(cut, 1), ids.shape[axis] - 1) if ids.shape[axis] > 1 else 0
    return tuple(slice(cut, n) if a == axis else slice(0, n) for a, n in enumerate(ids.shape))
