"""A DICOM series in a folder as one volume in Hounsfield (or rescaled) units.

Slices are sorted by their positions along the normal and spaced by them; what is not one regular
stack (gaps, duplicates, tilt, several series) is refused by name, never guessed. No name, number
or date of a person is kept or shown.

References
----------
.. [1] DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (rescale); PS3.5 7.1 (element layout).
"""

from __future__ import annotations

import os
import struct
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, GeometryError, MissingExtraError
from maskloop.core.geometry import Affine, Geometry
from maskloop.core.image import Image
from maskloop.formats.base import Choices, Format, reading

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.job import Job

_HEAD = 1 << 14
_PIXELS = 0x7FE00010
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_LONG = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_WORDS = {
    0x00280002: "samples",
    0x00280010: "rows",
    0x00280011: "columns",
    0x00280100: "bits",
    0x00280101: "bits_stored",
    0x00280103: "is_signed",
}
_TEXTS = {
    0x00080008: "kind",
    0x00080060: "modality",
    0x00180050: "thickness",
    0x00180088: "between",
    0x0020000E: "series",
    0x00200011: "number",
    0x00200032: "position",
    0x00200037: "orientation",
    0x00280004: "photometric",
    0x00280008: "frames",
    0x00280030: "spacing",
    0x00281052: "intercept",
    0x00281053: "slope",
}
_WANTED = frozenset((*_WORDS, *_TEXTS))
_Fields = dict[int, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """One file's header; `offset` is where raw pixels start, or None where pydicom must decode."""

    path: Path
    texts: dict[str, str]
    words: dict[str, int]
    offset: int | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.words.get("rows", 0), self.words.get("columns", 0)

    @property
    def number(self) -> str:
        return self.texts.get("number") or "without number"

    def numbers(self, name: str) -> tuple[float, ...]:
        return _numbers(self.texts.get(name, ""))


def sniff(path: Path) -> bool:
    """Whether a file is DICOM, with or without the 128-byte preamble."""
    if path.is_dir():
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(136)
    except OSError:
        return False
    return _is_dicom(head)


def read_image(path: Path, *, choices: Choices, job: Job) -> Image:
    """Read the one series of a folder, or the series that a file belongs to.

    Returns
    -------
    Image
        ``(z, y, x)``; int16 where that is exact, else int32 or float32.

    Raises
    ------
    FormatError
        If there is no series, more than one, or it cannot be decoded.
    GeometryError
        If the slices are not one regular, upright stack.
    """
    slices = _one_series(_collected(path, job), path)
    for one in slices:
        _require_plain(one)
    affine, slices = _stacked(slices, job)
    data = _pixels(slices, job)
    return Image(data, Geometry(data.shape, affine, "mm"), path)


def _is_dicom(head: bytes) -> bool:
    if head[128:132] == b"DICM":
        return True
    # Files without a preamble start with an identifying element, (0008,0001) to (0008,0018).
    return len(head) >= 8 and head[0:2] == b"\x08\x00" and head[3] == 0 and head[2] <= 0x18


def _collected(path: Path, job: Job) -> list[_Slice]:
    """Return the headers of all images beside or below `path`; other files are passed over."""
    folder = path if path.is_dir() else path.parent
    with reading(folder):
        files = sorted(p for p in folder.iterdir() if p.is_file())
        found = _headers(files, job)
        if not found and path.is_dir():
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            found = _headers(files, job)
    if path.is_dir():
        if not found:
            held = f"{len(files)} other files" if files else "an empty folder"
            msg = (
                f"expected DICOM images in {path.name!r}, got {held}; choose the folder of one "
                "series"
            )
            raise FormatError(msg)
        return found
    own = next((s for s in found if s.path == path), None)
    if own is None:
        msg = f"expected a DICOM image, got {path.name}, which holds none; choose another file"
        raise FormatError(msg)
    return [s for s in found if s.texts.get("series") == own.texts.get("series")]


def _headers(files: list[Path], job: Job) -> list[_Slice]:
    found = []
    for file in job.track(files, "headers"):
        if file.name.upper() == "DICOMDIR" or file.name.startswith("."):
            continue
        one = _header(file)
        if one is not None and one.words.get("rows"):
            found.append(one)
    return found


def _header(path: Path) -> _Slice | None:
    """Return a file's header: by our own scan where it is plain, else by pydicom."""
    with open(path, "rb", buffering=0) as stream:
        head = stream.read(_HEAD)
        if not _is_dicom(head):
            return None
        found = _scanned(head)
        if found is None and len(head) == _HEAD:
            head += stream.read(1 << 20)
            found = _scanned(head)
    if found is None:
        return _by_pydicom(path)
    fields, offset, length = found
    texts = {_TEXTS[t]: _text(v) for t, v in fields.items() if t in _TEXTS}
    words = {_WORDS[t]: int.from_bytes(v[:2], "little") for t, v in fields.items() if t in _WORDS}
    size = words.get("rows", 0) * words.get("columns", 0) * words.get("bits", 0) // 8
    return _Slice(path, texts, words, offset if length >= size > 0 else None)


def _scanned(head: bytes) -> tuple[_Fields, int, int] | None:
    """Walk the elements up to the pixels; None where the layout is not plain little-endian."""
    if head[128:132] != b"DICM":
        return None
    meta = _walked(head, 132, is_explicit=True, end=0x00030000)
    if meta is None:
        return None
    syntax = meta[0].get(0x00020010, b"").rstrip(b"\0 ").decode("ascii", "replace")
    if syntax not in (_IMPLICIT, _EXPLICIT):
        return None
    found = _walked(head, meta[1], is_explicit=syntax == _EXPLICIT, end=_PIXELS + 1)
    return found if found is not None and found[2] >= 0 else None


def _walked(
    head: bytes, at: int, *, is_explicit: bool, end: int
) -> tuple[_Fields, int, int] | None:
    """Return wanted elements, where the walk ended, and the length of the pixels (-1: none)."""
    fields: _Fields = {}
    size = len(head)
    wanted, long_kinds, unpack = _WANTED, _LONG, struct.unpack_from
    while at + 12 <= size:
        if is_explicit:
            group, element, kind, length = unpack("<HH2sH", head, at)
            start = at + 8
            if kind in long_kinds:
                (length,) = unpack("<I", head, start)
                start += 4
        else:
            group, element, length = unpack("<HHI", head, at)
            start = at + 8
        tag = group << 16 | element
        if tag >= end:
            return fields, at, -1
        if length == 0xFFFFFFFF:
            return None
        if tag == _PIXELS:
            return fields, start, length
        if tag in wanted or tag == 0x00020010:
            fields[tag] = head[start : start + length]
        at = start + length
    return None


def _by_pydicom(path: Path) -> _Slice | None:
    import pydicom

    tags = [*_TEXTS, *_WORDS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
            texts = {n: _as_text(data[t].value) for t, n in _TEXTS.items() if t in data}
            words = {n: int(data[t].value or 0) for t, n in _WORDS.items() if t in data}
        except (
            pydicom.errors.InvalidDicomError,
            ValueError,
            TypeError,
            KeyError,
            EOFError,
        ) as error:
            msg = (
                f"expected a whole DICOM file, got {path.name}: {type(error).__name__}; copy the "
                "file again"
            )
            raise FormatError(msg) from error
    return _Slice(path, texts, words, None)


def _as_text(value: Any) -> str:  # Any: pydicom's value types
    if value is None:
        return ""
    return (
        value
        if isinstance(value, str)
        else "\\".join(map(str, value if hasattr(value, "__iter__") else [value]))
    )


@lru_cache(maxsize=4096)
def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip("\0 ")


@lru_cache(maxsize=4096)
def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split("\\")) if text else ()
    except ValueError:
        return ()


def _one_series(found: list[_Slice], path: Path) -> list[_Slice]:
    """Return the slices if they are one series; else name the series that are there."""
    groups: dict[tuple[object, ...], list[_Slice]] = {}
    for one in found:
        direction = tuple(round(n, 3) for n in one.numbers("orientation"))
        key = (one.texts.get("series", ""), direction, one.shape, one.numbers("spacing"))
        groups.setdefault(key, []).append(one)
    if len(groups) == 1:
        return found
    lines = [_described(group) for group in groups.values()]
    several = "series" if len({k[0] for k in groups}) > 1 else "orientations or sizes in one series"
    msg = (
        f"expected one DICOM series in {path.name!r}, got {len(groups)} {several}: "
        f"{'; '.join(lines[:8])}{' ...' if len(lines) > 8 else ''}; "
        f"give one of its files instead of the folder, or move the others away"
    )
    raise FormatError(msg)


def _described(group: list[_Slice]) -> str:
    first = group[0]
    rows, columns = first.shape
    return (
        f"series {first.number} ({first.texts.get('modality', 'no modality')}, {len(group)} "
        f"slices of {columns}x{rows}, such as {first.path.name!r})"
    )


def _require_plain(one: _Slice) -> None:
    """Refuse what is not one gray slice a file."""
    odd = ""
    if (one.numbers("frames") or (1.0,))[0] > 1:
        odd = "several frames in one file (enhanced or segmentation objects)"
    elif "MOSAIC" in one.texts.get("kind", "").upper().split("\\"):
        odd = "a mosaic of slices in one picture"
    elif one.words.get("samples", 1) != 1 or one.texts.get("photometric") == "PALETTE COLOR":
        odd = "colours"
    elif one.words.get("bits") not in (8, 16, 32):
        odd = f"{one.words.get('bits', 0)} bits a pixel"
    if odd:
        msg = (
            f"expected one gray slice a file, got {odd} in {one.path.name}; convert the series "
            "to NIfTI first"
        )
        raise FormatError(msg)
    if len(one.numbers("position")) != 3 or len(one.numbers("orientation")) != 6:
        msg = (
            f"expected the position and orientation of every slice, got none in {one.path.name}; "
            "such a series has no place in space"
        )
        raise GeometryError(msg)
    if len(one.numbers("spacing")) != 2 or min(one.numbers("spacing")) <= 0:
        msg = (
            f"expected the pixel spacing of every slice, got {one.texts.get('spacing', '')!r} in "
            f"{one.path.name}; such a series has no size"
        )
        raise GeometryError(msg)


def _stacked(slices: list[_Slice], job: Job) -> tuple[Affine, list[_Slice]]:
    """Return the affine of (z, y, x) indices to RAS+ mm, and the slices in that order."""
    right, down = np.array(slices[0].numbers("orientation")).reshape(2, 3)
    normal = np.cross(right, down)
    if not np.isclose(np.linalg.norm(normal), 1, atol=1e-3) or abs(right @ down) > 1e-3:
        msg = (
            "expected two orthogonal unit vectors as orientation, got "
            f"{slices[0].texts['orientation']!r}; the header is damaged"
        )
        raise GeometryError(msg)
    places = np.array([one.numbers("position") for one in slices])
    order = np.argsort(places @ normal, kind="stable")
    slices, places = [slices[i] for i in order], places[order]
    step = _step(slices, places, normal, job)
    height, width = slices[0].numbers("spacing")
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([step, down * height, right * width])
    lps[:3, 3] = places[0]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, slices


def _step(
    slices: list[_Slice], places: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], job: Job
) -> npt.NDArray[np.float64]:
    """Return the vector from one slice to the next; refuse gaps, repeats, uneven steps and tilt."""
    if len(slices) == 1:
        stated = slices[0].numbers("between") or slices[0].numbers("thickness")
        if not stated or stated[0] <= 0:
            msg = (
                "expected several slices or a slice thickness, got one slice without; its depth "
                "is not known"
            )
            raise GeometryError(msg)
        job.say(f"one slice only: its depth of {stated[0]:g} mm is what the header states")
        return normal * stated[0]
    along = places @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    repeated = np.flatnonzero(steps < 1e-3)
    if repeated.size:
        at = int(repeated[0])
        msg = (
            f"expected each slice at its own place, got {repeated.size} repeated, the first at "
            f"{along[at]:.2f} mm ({slices[at].path.name!r} and {slices[at + 1].path.name!r}); "
            f"split the phases or copies into folders"
        )
        raise GeometryError(msg)
    uneven = np.flatnonzero(np.abs(steps - usual) > max(0.01 * usual, 0.02))
    if uneven.size:
        raise GeometryError(_uneven(slices, steps, usual, uneven))
    step = (places[-1] - places[0]) / (len(places) - 1)
    shift = float(np.linalg.norm(step - (step @ normal) * normal))
    if shift > 0.01 * usual:
        angle = np.degrees(np.arctan2(shift, usual))
        msg = (
            f"expected slices stacked along their normal, got a tilt of {angle:.1f} degrees "
            f"(gantry tilt); resample the series upright first"
        )
        raise GeometryError(msg)
    off = np.linalg.norm(places - places[0] - np.outer(np.arange(len(places)), step), axis=1)
    if off.max() > max(0.05 * usual, 0.05):
        msg = (
            f"expected slices in one line, got one {off.max():.2f} mm beside it; the series is "
            "bent or mixed"
        )
        raise GeometryError(msg)
    return np.asarray(step)


def _uneven(
    slices: list[_Slice], steps: npt.NDArray[np.float64], usual: float, uneven: npt.NDArray[Any]
) -> str:
    gaps = [int(at) for at in uneven if abs(steps[at] / usual - round(steps[at] / usual)) < 0.05]
    if len(gaps) == uneven.size and all(steps[at] > usual for at in gaps):
        missing = sum(round(steps[at] / usual) - 1 for at in gaps)
        at = gaps[0]
        return (
            f"expected a slice every {usual:.3g} mm, got {missing} missing, the first between "
            f"{slices[at].path.name!r} and {slices[at + 1].path.name!r}, {steps[at]:.3g} mm apart; "
            f"add the missing files"
        )
    found = Counter(round(float(s), 2) for s in steps)
    listed = ", ".join(f"{s:g} mm ({n} times)" for s, n in sorted(found.items())[:6])
    return (
        f"expected equal steps between slices, got {listed}; resample the series to one step first"
    )


def _pixels(slices: list[_Slice], job: Job) -> npt.NDArray[Any]:
    """Return all slices, rescaled; raw files are read straight into place."""
    first = slices[0]
    layout = {(s.words["bits"], bool(s.words.get("is_signed"))) for s in slices}
    scales = [
        ((s.numbers("slope") or (1.0,))[0], (s.numbers("intercept") or (0.0,))[0]) for s in slices
    ]
    if len(layout) > 1:
        planes = [_decoded(s).astype(np.float32) for s in job.track(slices, "slices")]
        return _rescaled(np.stack(planes), scales)
    bits, is_signed = layout.pop()
    data = np.empty((len(slices), *first.shape), dtype=f"<{'i' if is_signed else 'u'}{bits // 8}")
    for plane, one in zip(data, job.track(slices, "slices"), strict=True):
        if one.offset is None:
            plane[...] = _decoded(one)
        else:
            _read_into(plane, one)
        if one.texts.get("photometric") == "MONOCHROME1":
            highest = 2 ** one.words.get("bits_stored", bits) - 1
            np.subtract(-1 if is_signed else highest, plane, out=plane)
    if first.texts.get("photometric") == "MONOCHROME1":
        job.say("stored as MONOCHROME1 (bright means less): turned so that bright means more")
    return _rescaled(data, scales)


def _read_into(plane: npt.NDArray[Any], one: _Slice) -> None:
    with open(one.path, "rb", buffering=0) as stream:
        stream.seek(one.offset or 0, os.SEEK_SET)
        count = stream.readinto(plane.reshape(-1).view(np.uint8).data)
    if count != plane.nbytes:
        msg = (
            f"expected {plane.nbytes} bytes of pixels in {one.path.name}, got {count}; the file "
            "was cut short: copy it again"
        )
        raise FormatError(msg)


def _decoded(one: _Slice) -> npt.NDArray[Any]:
    """Return the stored values of a file that needs a decoder."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(one.path, force=True)
            if not hasattr(data.file_meta, "TransferSyntaxUID"):
                data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            pixels: npt.NDArray[Any] = data.pixel_array
        except (RuntimeError, NotImplementedError, ImportError) as error:
            kind = data.file_meta.TransferSyntaxUID.name
            msg = (
                f"expected pixels that can be decoded in {one.path.name}, got {kind!r} without its "
                f"decoder; pip install 'napari-maskloop[dicom]', or write the series uncompressed"
            )
            raise MissingExtraError(msg) from error
        except (ValueError, AttributeError, KeyError, EOFError, OSError) as error:
            msg = (
                f"expected whole pixels in {one.path.name}, got {type(error).__name__}: {error}; "
                "copy the file again"
            )
            raise FormatError(msg) from error
    if pixels.shape != one.shape:
        msg = (
            f"expected pixels of shape {one.shape} in {one.path.name}, got {pixels.shape}; "
            "convert the series first"
        )
        raise FormatError(msg)
    return pixels


def _rescaled(data: npt.NDArray[Any], scales: list[tuple[float, float]]) -> npt.NDArray[Any]:
    """Return slope * value + intercept by each slice's own, in the narrowest exact type."""
    is_whole = all(s.is_integer() and i.is_integer() for s, i in scales)
    if data.dtype.kind == "f" or not is_whole:
        factors = np.array(scales, dtype=np.float32).reshape(-1, 2, 1, 1)
        return np.asarray(data.astype(np.float32) * factors[:, 0] + factors[:, 1])
    if len(set(scales)) == 1 and scales[0] == (1.0, 0.0) and data.dtype.kind == "i":
        return data.astype(data.dtype.newbyteorder("="), copy=False)
    lows, highs = (
        [int(f(plane)) * int(s) + int(i) for plane, (s, i) in zip(data, scales, strict=True)]
        for f in (np.min, np.max)
    )
    low, high = min(lows + highs), max(lows + highs)
    if set(scales) == {(1.0, 0.0)} and data.dtype.itemsize == 1:
        return data
    is_narrow = low >= -32768 and high <= 32767
    if is_narrow and data.dtype.itemsize == 2 and all(s == 1 for s, _ in scales):
        # Arithmetic modulo 2**16 is exact here, because the results fit.
        narrow = data.view("<i2")
        for plane, (_, intercept) in zip(narrow, scales, strict=True):
            plane += np.int64(int(intercept)).astype(np.int16)
        return narrow.astype(np.int16, copy=False)
    wide = data.astype(np.int16 if is_narrow else np.int32)
    for plane, (slope, intercept) in zip(wide, scales, strict=True):
        plane *= wide.dtype.type(int(slope))
        plane += wide.dtype.type(int(intercept))
    return wide


FORMAT = Format(
    name="dicom",
    title="DICOM series in a folder",
    suffixes=(".dcm", ".dicom", ".ima"),
    sniff=sniff,
    read_image=read_image,
    proof="real data",
)
