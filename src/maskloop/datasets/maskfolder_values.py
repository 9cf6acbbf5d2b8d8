"""Stored values of a mask file and what they mean: pictures, text matrices, MATLAB files."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, MaskloopError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.labels import Label, LabelTable
from maskloop.datasets import bitcolours
from maskloop.datasets.maskfolder_formula import Formula
from maskloop.formats import picture
from maskloop.formats.base import reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.datasets.maskfolder_formula import Values
    from maskloop.datasets.maskfolder_profile import Variant

JPEG = (".jpg", ".jpeg")
_LARGEST = 2**40
_MOST_STRANGERS = 256  # values that the profile does not know
_MOST_PIXELS = 2**31


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """The values that occur in a mask, and which of them each voxel holds.

    Parameters
    ----------
    channels : mapping of str to array of int64
        ``V``, or ``R G B A``; an entry a value.
    place : array of int
        Index into those entries, on the mask's grid.
    """

    channels: Mapping[str, Values]
    place: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Ids on the mask's grid, their rows, and values that no class has."""

    ids: npt.NDArray[Any]
    labels: LabelTable
    strange: tuple[str, ...] = ()


def stored(path: Path, job: Job, *, key: str, with_colours: bool) -> Image:
    """Return a file's values on its grid: a picture of any channels, a stack, or a matrix.

    Parameters
    ----------
    key : str
        What to take of a MATLAB file, such as ``"GTcls.Segmentation"``.
    with_colours : bool
        Whether palettes become colours.
    """
    suffix = path.suffix.lower()
    if suffix in (".txt", ".mat"):
        data = _matrix(path) if suffix == ".txt" else _whole(matlab(path, key), path)
        return Image(data, Geometry.pixels(data.shape), path)
    with reading(path):
        return picture.read_values(path, job, with_colours=with_colours)


def _matrix(path: Path) -> npt.NDArray[np.int64]:
    """Return a text file of whole numbers, a row a line."""
    with reading(path):
        text = path.read_bytes()
    try:
        rows = [np.array(line.split(), np.int64) for line in text.split(b"\n") if line.strip()]
        found = np.stack(rows)
    except (ValueError, OverflowError) as error:
        msg = f"expected rows of whole numbers in {path.name}, got: {error}; copy the file again"
        raise FormatError(msg) from error
    return found


def matlab(path: Path, key: str) -> Any:  # Any: whatever the file holds
    """Return what lies under a key, ``"index.objectnames"``, in a MATLAB file (up to version 7)."""
    from scipy import io

    first, *rest = key.split(".")
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = io.loadmat(path, variable_names=[first])[first]
            for part in rest:
                found = found[part]
                while isinstance(found, np.ndarray) and found.dtype == object and found.size == 1:
                    found = found.reshape(-1)[0]
        except NotImplementedError as error:
            msg = (
                f"expected a MATLAB file up to version 7 in {path.name}, got version 7.3; save it "
                "with -v7 in MATLAB"
            )
            raise FormatError(msg) from error
        except MaskloopError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise
            raise _no_matlab(path, key, error) from error
        # SciPy raises nearly every builtin error for damaged files.
        except Exception as error:
            raise _no_matlab(path, key, error) from error
    return found


def _no_matlab(path: Path, key: str, error: Exception) -> FormatError:
    return FormatError(
        f"expected a MATLAB file with {key!r} in {path.name}, got: {error!r}; copy the file again "
        "or correct 'key' of the profile"
    )


def _whole(found: Any, path: Path) -> npt.NDArray[Any]:  # Any: what the file holds
    data = np.asarray(found)
    is_number = data.dtype.kind in "biuf" and data.ndim == 2 and data.size > 0
    if is_number and data.dtype.kind == "f":
        is_number = bool(np.isfinite(data).all() and (data == np.rint(data)).all())
    if not is_number or (data.dtype.kind != "b" and np.abs(data).max() > _LARGEST):
        msg = (
            f"expected a matrix of whole numbers in {path.name}, got {data.dtype} of shape "
            f"{data.shape}; correct 'key' of the profile"
        )
        raise FormatError(msg)
    return data.astype(np.int64)


def distinct(image: Image, path: Path) -> Distinct:
    """Return the values that occur in a picture, a stack or a matrix."""
    data = image.data
    if data.size > _MOST_PIXELS or data.size == 0:
        raise FormatError(f"expected a mask with pixels in {path.name}, got {data.shape}; redo it")
    if image.has_time:
        msg = f"expected one picture or stack in {path.name}, got shape {data.shape}; split it"
        raise FormatError(msg)
    if data.dtype.kind not in "biu":
        data = _whole(data.reshape(len(data), -1), path).reshape(data.shape)
    if image.channels == 2:  # gray with transparency
        data = np.ascontiguousarray(data[..., 0])
    if image.channels < 3:
        place, values = _found(data)
        values = values.astype(np.int64)
        return Distinct({"V": values, "R": values, "G": values, "B": values}, place)
    if data.dtype != np.uint8 or image.channels > 4:
        msg = (
            f"expected channels of 8 bits in {path.name}, got {image.channels} of {data.dtype}; "
            "convert it to an 8-bit PNG"
        )
        raise FormatError(msg)
    packed = np.zeros(data.shape[:-1], np.uint32)
    for number in range(data.shape[-1]):
        packed |= data[..., number].astype(np.uint32) << np.uint32(8 * number)
    place, values = _found(packed)
    wide = values.astype(np.int64)
    channels = {name: wide >> 8 * n & 255 for n, name in enumerate("RGBA"[: data.shape[-1]])}
    if (channels["R"] == channels["G"]).all() and (channels["G"] == channels["B"]).all():
        channels["V"] = channels["R"]
    return Distinct(channels, place)


def _found(data: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the index of each entry among the sorted values, and the values; few, in long runs."""
    flat = np.ascontiguousarray(data).reshape(-1)
    if data.dtype == bool:
        flat = flat.view(np.uint8)
    if flat.dtype.kind == "u" and flat.dtype.itemsize <= 2:
        values = np.flatnonzero(np.bincount(flat))
        table = np.zeros(int(values[-1]) + 1, smallest_unsigned(len(values)))
        table[values] = np.arange(len(values))
        return table[flat].reshape(data.shape), values
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    values, place = np.unique(flat[starts], return_inverse=True)
    lengths = np.diff(starts, append=flat.size)
    place = place.astype(smallest_unsigned(len(values)))
    return np.repeat(place, lengths).reshape(data.shape), values


def decode(
    found: Distinct,
    objects: Distinct | None,
    variant: Variant,
    classes: Sequence[tuple[int, Label]],
    path: Path,
    *,
    file_class: str = "",
) -> Decoded:
    """Return label ids: those of the scheme for classes, above them one for each object.

    Parameters
    ----------
    found, objects : Distinct
        Of the mask file, and of the second one with numbers of objects, if there is one.
    classes : sequence of (int, Label)
        Value and row.
    file_class : str
        Class that the file's name tells, instead of the values.
    """
    is_jpeg = path.suffix.lower() in JPEG
    values = _classes(found, variant, classes, path, is_jpeg=is_jpeg)
    numbers, ignored = np.zeros_like(values), np.zeros_like(values)
    place = found.place
    if variant.ignore is not None:
        ignored = _asked(variant.ignore, found.channels, path)
    if objects is not None and variant.object_ is not None:
        if objects.place.shape != place.shape:
            msg = (
                f"expected objects of shape {place.shape} as {path.name}, got "
                f"{objects.place.shape}; copy both files again"
            )
            raise FormatError(msg)
        many = len(next(iter(objects.channels.values())))
        place, pair = _found(place.astype(np.int64) * many + objects.place)
        values, ignored = values[pair // many], ignored[pair // many]
        numbers = _asked(variant.object_, _numbered(objects.channels), path)[pair % many]
    elif variant.object_ is not None and not variant.objects:
        numbers = _asked(variant.object_, found.channels, path)
    _require_few(values, variant, classes, path)
    rows, table, strange = _rows(values, numbers, ignored, variant, classes, file_class)
    ids = table.astype(smallest_unsigned(int(table.max(initial=0))))[place]
    return Decoded(ids, rows, strange)


def _numbered(channels: Mapping[str, Values]) -> Mapping[str, Values]:
    """Return channels with a number a pixel: that of its colour, where there are colours alone."""
    if "V" in channels:
        return channels
    return {**channels, "V": bitcolours.numbers_of(*(channels[c] for c in "RGB"))}


def _require_few(
    values: Values, variant: Variant, classes: Sequence[tuple[int, Label]], path: Path
) -> None:
    """Refuse what is no mask but a photograph: hundreds of values that no class has."""
    known = {0, *variant.nothing, *(value for value, _ in classes)}
    strangers = int((~np.isin(np.unique(values), list(known))).sum())
    if strangers > _MOST_STRANGERS:
        msg = (
            f"expected the values of the classes in {path.name}, got {strangers:,} others; this "
            "looks like a photograph or a mask saved with loss: choose another file or profile"
        )
        raise FormatError(msg)


def _classes(
    found: Distinct,
    variant: Variant,
    classes: Sequence[tuple[int, Label]],
    path: Path,
    *,
    is_jpeg: bool,
) -> Values:
    """Return the class value of each distinct value; -2**40 - rgb for a colour of no class."""
    is_coloured = "V" not in found.channels and variant.class_ == Formula("V")
    if not variant.colours and not (is_coloured and classes):
        formula = variant.class_
        if formula is None:
            return np.ones(len(next(iter(found.channels.values()))), np.int64)
        if is_jpeg and not formula.is_threshold:
            msg = (
                f"expected a mask without loss, got the JPEG {path.name}, whose numbers are "
                "blurred; ask for the PNG, or code it by threshold or colours in a profile"
            )
            raise FormatError(msg)
        channels = found.channels
        if formula.is_threshold and all(int(c.max()) == 1 for c in channels.values()):
            channels = {name: 255 * c for name, c in channels.items()}  # yes is 1, not 255
        return _asked(formula, channels, path)
    red, green, blue = (found.channels[c] for c in "RGB")
    packed = red << 16 | green << 8 | blue
    known: dict[int, int] = {}
    for value, row in classes:
        known.setdefault(int(row.colour[1:], 16), value)
    if not variant.colours:
        known.setdefault(0, 0)  # black is background where numbers were turned into colours
    if is_jpeg:
        return _nearest(np.stack([red, green, blue], 1), known)
    return np.array([known.get(int(rgb), -_LARGEST - int(rgb)) for rgb in packed], np.int64)


def _nearest(colours: Values, known: Mapping[int, int]) -> Values:
    """Return the class whose colour is nearest; for masks that JPEG has blurred."""
    table = np.array([[rgb >> 16, rgb >> 8 & 255, rgb & 255] for rgb in known])
    values = np.array(list(known.values()), np.int64)
    out = np.empty(len(colours), np.int64)
    for start in range(0, len(colours), 4096):
        part = colours[start : start + 4096]
        away = ((part[:, None] - table[None]) ** 2).sum(2)
        out[start : start + 4096] = values[away.argmin(1)]
    return out


def _asked(formula: Any, channels: Mapping[str, Values], path: Path) -> Values:  # Any: Formula
    missing = sorted(formula.names - set(channels))
    if missing:
        have = ", ".join(sorted(channels))
        msg = (
            f"expected channel {missing[0]} in {path.name}, got only {have}; this is another "
            "file than the profile speaks of, or correct the profile"
        )
        raise FormatError(msg)
    answer: Values = formula(channels)
    return answer


def _rows(
    values: Values,
    numbers: Values,
    ignored: Values,
    variant: Variant,
    classes: Sequence[tuple[int, Label]],
    file_class: str,
) -> tuple[LabelTable, npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the table, the id of each (class, object, ignored), and values that no class has."""
    known = dict(classes)
    nothing = {*variant.nothing, *({0} - set(known))}  # 0 means background wherever it can
    top = max((row.id for row in known.values()), default=0)
    strange: list[str] = []
    ids: dict[tuple[int, int, bool], int] = {}
    rows = [] if variant.kind == "objects" else [r for r in known.values() if not r.is_thing]
    if variant.kind == "classes":
        rows = list(known.values())
    made = {row.id: row for row in rows}
    table = np.zeros(len(values), np.int64)
    triples = list(zip(values.tolist(), numbers.tolist(), (ignored != 0).tolist(), strict=True))
    for value in sorted({v for v, _, _ in triples if v not in known and v not in nothing}):
        top += 1
        name = f"#{-value - _LARGEST:06x}" if value <= -_LARGEST else f"value {value}"
        colour = name if name.startswith("#") else ""
        known[value] = Label(top, name, colour)
        strange.append(name)
    # Objects are numbered above all classes, by class and then by number.
    for value, number, is_ignored in sorted(set(triples)):
        if value in nothing:
            continue
        row = known[value]
        is_object = number > 0 or (variant.kind == "objects" and not row.ignore)
        if is_object and variant.things_only and not row.is_thing:
            is_object = False
        if is_object:
            top += 1
            category = file_class or row.name
            made[top] = Label(
                top, f"{category} {number}", "", category, is_thing=True, ignore=is_ignored
            )
            ids[value, number, is_ignored] = top
        elif is_ignored and not row.ignore:
            top += 1
            made[top] = Label(top, f"{row.name} (ignored)", row.colour, row.name, ignore=True)
            ids[value, number, is_ignored] = top
        else:
            made[row.id] = row
            ids[value, number, is_ignored] = row.id
    for at, triple in enumerate(triples):
        table[at] = ids.get(triple, 0)
    return LabelTable(made.values()), table, tuple(strange)
