"""The text header of an NRRD file: what its axes are, where they lie, what else it says.

References
----------
.. [1] G. Kindlmann, "Definition of NRRD File Format", Teem 1.11: fields, kinds, space directions.
   The space origin is the *centre* of the first sample, whatever `centerings` says.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, GeometryError
from maskloop.core.geometry import Geometry
from maskloop.formats import placing

Floats = npt.NDArray[np.float64]
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("unsigned char", "uchar", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("unsigned short", "ushort", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("unsigned int", "uint", "uint32", "uint32_t"),
    "i8": (
        *("long long", "longlong", "long long int", "signed long long"),
        *("signed long long int", "int64", "int64_t"),
    ),
    "u8": (*("unsigned long long", "ulonglong", "unsigned long long int", "uint64", "uint64_t"),),
    "f4": ("float",),
    "f8": ("double",),
}
# Words -> signs that turn the axes of the space into right, anterior, superior.
_SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
_NAMELESS = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
_LPS = (-1, -1, 1)
_MM = {
    **dict.fromkeys(("", "mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-6),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("m", "meter", "metre"), 1000.0),
}
_LISTS = ("", "???", "none", "list", "domain", "space", "scalar", "stub")
_SHORT = {"centers": "centerings"}


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """Fields and key/value pairs as text, and where the data starts."""

    fields: dict[str, str]
    keys: dict[str, str]
    start: int
    name: str

    def words(self, field: str) -> list[str]:
        """Return the words of a field, quoted ones as one; none where it is not there."""
        found = re.findall(r'"([^"]*)"|(\S+)', self.fields.get(field, ""))
        return [quoted or plain for quoted, plain in found]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What the numbers are and how they lie.

    Parameters
    ----------
    dtype : dtype
        In the file's byte order.
    sizes : tuple of int
        In file order, fastest first.
    order : tuple of int
        Axis of the array in C order for each of ours: ([t,] z, y, x [, c]).
    has_time, has_channels : bool
        Which of those there are.
    geometry : Geometry
        The grid in our order.
    ndim : int
        Spatial axes in the file, 2 or 3.
    notes : tuple of str
        What had to be assumed.
    """

    dtype: np.dtype[Any]  # Any: the type that the header names
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    has_time: bool
    has_channels: bool
    geometry: Geometry
    ndim: int
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        """Numbers in the file."""
        return math.prod(self.sizes)


def parse(text: bytes, start: int, name: str) -> Header:
    """Split a header into fields (lower case, no blanks in their names) and key/value pairs."""
    lines = [line.rstrip("\r") for line in text.decode("utf-8", "replace").split("\n")]
    if not lines or not re.fullmatch(r"NRRD\d{4}", lines[0].rstrip()):
        msg = (
            f"expected an NRRD file, got {name} that starts with {text[:8]!r}; check that it was "
            "not renamed or cut short"
        )
        raise FormatError(msg)
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for line in lines[1:]:
        if line.startswith("#") or not line.strip():
            continue
        key, mark, value = line.partition(":=")
        if mark and ": " not in key:
            keys[key.strip()] = _unescaped(value)
            continue
        field, mark, value = line.partition(":")
        field = re.sub(r"[\s]", "", field).lower()
        field = _SHORT.get(field, field)
        if not mark or field in fields:
            msg = (
                f"expected each line of {name} to be a field once, got {line[:60]!r}; the header "
                "is damaged: copy the file again"
            )
            raise FormatError(msg)
        fields[field] = value.strip()
        if field == "datafile" and value.split()[:1] == ["LIST"]:
            break  # file names follow
    return Header(fields, keys, start, name)


def layout(header: Header) -> Layout:
    """Return how the numbers lie; raise `FormatError` for what cannot be an image."""
    sizes = _sizes(header)
    vectors = _directions(header, len(sizes))
    roles = _roles(header, sizes, vectors)
    spatial = [axis for axis, role in enumerate(roles) if role == "s"]
    time = [axis for axis, role in enumerate(roles) if role == "t"]
    channels = [axis for axis, role in enumerate(roles) if role == "c"]
    if not 2 <= len(spatial) <= 3 or len(time) > 1 or len(channels) > 1:
        msg = (
            f"expected 2 or 3 axes in space, at most one of time and one of channels in "
            f"{header.name}, got sizes {sizes} with kinds {header.words('kinds')}; split the file"
        )
        raise FormatError(msg)
    geometry, notes = _grid(header, sizes, vectors, spatial)
    if time and header.words("kinds")[time[0] : time[0] + 1] not in (["time"], []):
        notes = (*notes, f"the slowest axis of {header.name}, a list, was taken as time")
    single = [axis for axis, role in enumerate(roles) if role == "1"]
    file_order = [*single, *time, *reversed(spatial), *channels]
    return Layout(
        _dtype(header),
        sizes,
        tuple(len(sizes) - 1 - axis for axis in file_order),
        bool(time),
        bool(channels),
        geometry,
        len(spatial),
        notes,
    )


def integer(header: Header, field: str, default: int) -> int:
    """Return a whole number from the header."""
    text = header.fields.get(field)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError as error:
        msg = (
            f"expected a whole number as {field!r} of {header.name}, got {text[:40]!r}; repair the "
            "header"
        )
        raise FormatError(msg) from error


def escaped(value: str) -> str:
    """Return a value as one line of a key/value pair."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _unescaped(value: str) -> str:
    return re.sub(r"\\(n|\\)", lambda m: "\n" if m[1] == "n" else "\\", value)


def _sizes(header: Header) -> tuple[int, ...]:
    dimension = integer(header, "dimension", 0)
    try:
        sizes = tuple(int(word) for word in header.words("sizes"))
    except ValueError:
        sizes = ()
    if len(sizes) != dimension or not 2 <= dimension <= 16 or min(sizes, default=0) < 1:
        got = header.fields.get("sizes", "none")
        msg = (
            f"expected 2 to 16 axes of at least 1 sample in {header.name}, got dimension "
            f"{dimension} with sizes {got[:60]!r}; the header is damaged: copy the file again"
        )
        raise FormatError(msg)
    return sizes


def _dtype(header: Header) -> np.dtype[Any]:  # Any: the type that the header names
    name = " ".join(header.words("type")).lower()
    code = next((code for code, names in _TYPES.items() if name in names), None)
    if code is None:
        msg = (
            f"expected integers or floats of at most 64 bits in {header.name}, got type {name!r}; "
            "convert the file first"
        )
        raise FormatError(msg)
    endian = header.fields.get("endian", "little").lower()
    if endian not in ("little", "big"):
        msg = f"expected endian little or big in {header.name}, got {endian[:20]!r}; repair it"
        raise FormatError(msg)
    return np.dtype((">" if endian == "big" else "<") + code)


def _space(header: Header) -> tuple[int, tuple[int, ...], bool]:
    """Return the axes of the space, their signs towards RAS, and whether its name says so."""
    name = header.fields.get("space", "").lower()
    if not name:
        return integer(header, "spacedimension", 3), _LPS, False
    base, dimension = name, 3
    if name.endswith("-time") or name in ("rast", "last", "lpst"):
        base, dimension = name.removesuffix("-time") if "-" in name else name[:-1], 4
    if base in _NAMELESS:
        return dimension, _LPS, False
    if base in _SPACES:
        return dimension, _SPACES[base], True
    msg = (
        f"expected a space such as left-posterior-superior in {header.name}, got {name[:40]!r}; "
        "repair the header"
    )
    raise FormatError(msg)


def _directions(header: Header, axes: int) -> list[list[float] | None] | None:
    """Return a vector for each axis, None for one that is not in space; None where none is."""
    text = header.fields.get("spacedirections")
    if text is None:
        return None
    words = re.findall(r"none|\([^()]*\)", text.lower())
    found = [None if word == "none" else _vector(word, header) for word in words]
    if len(found) != axes:
        msg = (
            f"expected {axes} space directions in {header.name}, got {text[:80]!r}; repair the "
            "header"
        )
        raise FormatError(msg)
    found = [None if vector and all(map(math.isnan, vector)) else vector for vector in found]
    return found if any(found) else None


def _vector(text: str, header: Header) -> list[float]:
    try:
        found = [float(word) for word in text.strip("() ").split(",")]
    except ValueError:
        found = []
    if len(found) != _space(header)[0]:
        msg = (
            f"expected vectors of {_space(header)[0]} numbers in {header.name}, got {text[:60]!r}; "
            "repair the header"
        )
        raise FormatError(msg)
    return found


def _roles(header: Header, sizes: tuple[int, ...], vectors: list[list[float] | None] | None) -> str:
    """Return a letter for each axis: s space, t time, c channels, 1 a single sample of no role."""
    kinds = [word.lower() for word in header.words("kinds")] or [""] * len(sizes)
    spacings = _spacings(header, len(sizes))
    if len(kinds) != len(sizes):
        msg = (
            f"expected {len(sizes)} kinds in {header.name}, got {kinds}; repair the header: one "
            "word an axis"
        )
        raise FormatError(msg)
    roles = ""
    for axis, kind in enumerate(kinds):
        if vectors is not None:
            vector = vectors[axis]
            is_spatial = vector is not None and not _is_time(vector, header.name)
            kind = "time" if vector is not None and not is_spatial else kind
        else:
            is_spatial = kind in ("", "domain", "space", "???", "none") and not (
                spacings and math.isnan(spacings[axis])
            )
            is_spatial &= roles.count("s") < 3
        if is_spatial:
            roles += "s"
        elif sizes[axis] == 1:
            roles += "1"
        elif kind == "time":
            roles += "t"
        else:
            is_slowest = axis == len(sizes) - 1 and axis > 0
            roles += "t" if kind in _LISTS and is_slowest else "c"
    return roles


def _is_time(vector: list[float], name: str) -> bool:
    if len(vector) < 4 or vector[3] == 0:
        return False
    if any(vector[:3]):
        msg = (
            f"expected each axis of {name} in space or in time, got the direction {vector}, which "
            "is in both; resample the file"
        )
        raise FormatError(msg)
    return True


def _spacings(header: Header, axes: int) -> list[float]:
    try:
        found = [float(word) for word in header.words("spacings")]
    except ValueError:
        found = [math.inf]
    found = [] if all(map(math.isnan, found)) else found
    if found and (len(found) != axes or any(n == 0 or math.isinf(n) for n in found)):
        msg = (
            f"expected {axes} spacings other than 0 in {header.name}, got "
            f"{header.fields['spacings'][:60]!r}; repair the header"
        )
        raise FormatError(msg)
    return found


def _grid(
    header: Header,
    sizes: tuple[int, ...],
    vectors: list[list[float] | None] | None,
    spatial: list[int],
) -> tuple[Geometry, tuple[str, ...]]:
    """Return the grid in our axis order, and what had to be assumed."""
    shape = tuple(sizes[axis] for axis in reversed(spatial))
    dimension, signs, is_named = _space(header)
    factors, notes = _factors(header, len(sizes))
    steps = np.zeros((3, len(spatial)))
    if vectors is not None:
        for column, axis in enumerate(spatial):
            vector = (vectors[axis] or [])[:3]
            steps[: len(vector), column] = vector
        unit = np.array(factors[:3] or [1.0] * 3)
        with np.errstate(over="ignore"):
            steps *= unit[:, None]
    else:
        spacings = _spacings(header, len(sizes))
        if not spacings or None in factors:
            return placing.unplaced(shape), notes
        for column, axis in enumerate(spatial):
            steps[column, column] = spacings[axis] * (factors[axis] if factors else 1.0)
        unit = np.array([factors[spatial[0]] if factors else 1.0])
    text = header.fields.get("spaceorigin")
    origin = np.zeros(3)
    if text is not None and "none" not in text.lower():
        origin[: min(dimension, 3)] = _vector(text, header)[:3]
    if not is_named:
        notes = (
            *notes,
            f"{header.name} names no patient axes: x was taken as left, y as back, as ITK does",
        )
    flips = np.array(signs, dtype=np.float64)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return _geometry(shape, flips[:, None] * steps, flips * origin * unit), notes
    except GeometryError as error:
        msg = f"expected usable space directions in {header.name}, got this: {error}"
        raise FormatError(msg) from error


def _geometry(shape: tuple[int, ...], steps: Floats, origin: Floats) -> Geometry:
    """Return the grid of array axes (z, y, x) for steps and origin in RAS+ mm, fastest first."""
    placing.require_near(steps, origin)
    if len(shape) == 2:
        normal = np.cross(steps[:, 0], steps[:, 1])
        steps = np.column_stack([steps, normal / (np.linalg.norm(normal) or 1.0)])
        shape = (1, *shape)
    affine = np.eye(4)
    affine[:3, :3] = steps[:, ::-1] + 0.0  # no -0.0
    affine[:3, 3] = origin + 0.0
    return Geometry(shape, affine, "mm")


def _factors(header: Header, axes: int) -> tuple[list[Any], tuple[str, ...]]:
    """Return mm a unit along each axis of space (or of the array); None where it is a pixel."""
    in_space = "spacedirections" in header.fields
    words = header.words("spaceunits" if in_space else "units")
    if not words:
        return [], ()
    words += [""] * (max(axes, 3) - len(words))
    known = [word.lower() in _MM or word.lower() in ("pixel", "pixels", "px") for word in words]
    odd = [
        word
        for word, is_known in zip(words, known, strict=True)
        if not is_known and word.lower() not in ("???", "none", "s", "ms", "us", "sec", "second")
    ]
    notes = (
        (f"{header.name} states lengths in {odd[0][:20]!r}, not known: taken as mm",) if odd else ()
    )
    is_pixel = [word.lower() in ("pixel", "pixels", "px") and not in_space for word in words]
    found = [
        None if pixel else _MM.get(word.lower(), 1.0)
        for word, pixel in zip(words, is_pixel, strict=True)
    ]
    return found, notes
