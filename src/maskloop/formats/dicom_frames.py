"""Several planes in one DICOM file: enhanced multi-frame objects and Siemens mosaics.

References
----------
.. [1] DICOM PS3.3 C.7.6.16 (multi-frame functional groups).
.. [2] nibabel documentation, "DICOM concepts" (Siemens mosaics, the CSA header's layout).
"""

from __future__ import annotations

import math
import struct
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.formats.dicom_scan import Bounded, damage
from maskloop.formats.dicom_stack import RATIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maskloop.formats.dicom_head import Slice

_ENHANCED = frozenset(
    "1.2.840.10008.5.1.4.1.1." + tail
    for tail in ("2.1", "2.2", "4.1", "4.3", "4.4", "13.1.1", "13.1.3", "30", "128.1", "130")
)
# Functional group, element in it, our name for that element.
_GROUPS = (
    ("PlanePositionSequence", "ImagePositionPatient", "position"),
    ("PlaneOrientationSequence", "ImageOrientationPatient", "orientation"),
    ("PixelMeasuresSequence", "PixelSpacing", "spacing"),
    ("PixelMeasuresSequence", "SliceThickness", "thickness"),
    ("PixelMeasuresSequence", "SpacingBetweenSlices", "between"),
    ("PixelValueTransformationSequence", "RescaleSlope", "slope"),
    ("PixelValueTransformationSequence", "RescaleIntercept", "intercept"),
    ("MREchoSequence", "EffectiveEchoTime", "echo_time"),
    ("MRDiffusionSequence", "DiffusionBValue", "b_value"),
    ("MRImageFrameTypeSequence", "FrameType", "kind"),
    ("CTImageFrameTypeSequence", "FrameType", "kind"),
    ("PETFrameTypeSequence", "FrameType", "kind"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "trigger"),
    ("FrameContentSequence", "StackID", "stack"),
    ("FrameContentSequence", "TemporalPositionIndex", "temporal"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "acquisition"),
)


def planes_of(one: Slice) -> list[Slice]:
    """Return the planes of a file, each with its own place; the file itself where it is one.

    What cannot be taken apart comes back whole, with the reason in ``texts["problem"]``.
    """
    if one.frames <= 1 and one.texts.get("class") not in _ENHANCED and "MOSAIC" not in one.kinds:
        return [one]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Elements are taken apart as they are asked for, and may turn out damaged only then.
            return _tiles(one) if "MOSAIC" in one.kinds and one.frames <= 1 else _frames(one)
        except damage() as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            return _refused(one, "a header that makes no sense")


def _refused(one: Slice, problem: str) -> list[Slice]:
    return [replace(one, texts={**one.texts, "problem": problem})]


def _frames(one: Slice) -> list[Slice]:
    data = _dataset(one)
    groups = getattr(data, "PerFrameFunctionalGroupsSequence", None)
    count = one.frames
    if not groups or len(groups) != count:
        held = "no place for each" if not groups else f"places for {len(groups)} of {count}"
        return _refused(one, f"several frames in one file with {held}")
    stored = one.length if one.offset is not None else one.size * RATIO
    if stored < one.bytes * count:
        return _refused(one, f"too few bytes of pixels for {count} frames (cut short)")
    shared = (getattr(data, "SharedFunctionalGroupsSequence", None) or [None])[0]
    common = {**one.texts, **_group(shared), "frames": "1"}
    words = {**one.words, "of": count}
    is_raw = one.offset is not None
    return [
        replace(
            one,
            texts={**common, **_group(group)},
            words=words,
            offset=one.offset + number * one.bytes if one.offset is not None else None,
            length=one.bytes if is_raw else one.length,
            frame=number,
        )
        for number, group in enumerate(groups)
    ]


def _group(group: Any) -> dict[str, str]:  # Any: pydicom's data set
    """Return our texts of one item of functional groups."""
    found: dict[str, str] = {}
    if group is None:
        return found
    for sequence, element, name in _GROUPS:
        items = group.get(sequence)
        value = items[0].get(element) if items else None
        if value is not None:
            is_many = not isinstance(value, str) and hasattr(value, "__iter__")
            found[name] = "\\".join(map(str, value)) if is_many else str(value)
    content = group.get("FrameContentSequence")
    for number, value in enumerate(_indices(content[0]) if content else ()):
        found[f"dimension {number + 1}"] = str(value)
    return found


def _indices(content: Any) -> tuple[int, ...]:  # Any: pydicom's data set
    value = content.get("DimensionIndexValues")
    if value is None:
        return ()
    return tuple(value) if hasattr(value, "__iter__") else (int(value),)


def _dataset(one: Slice) -> Any:  # Any: pydicom's data set
    import pydicom

    with Bounded(one.path) as stream:
        return pydicom.dcmread(stream, stop_before_pixels=True, force=True)


def _tiles(one: Slice) -> list[Slice]:
    """Return the slices of a mosaic, placed by the vendor's private header."""
    data = _dataset(one)
    csa = _csa(_private(data, 0x0029, 0x10, "SIEMENS CSA HEADER"))
    normal = csa.get("SliceNormalVector", ())
    stated = _private(data, 0x0019, 0x0A, "SIEMENS MR HEADER")
    count = (
        int(stated)
        if isinstance(stated, int)
        else int((*csa.get("NumberOfImagesInMosaic", ()), 0)[0])
    )
    place, turned = one.numbers("position"), one.numbers("orientation")
    step = (*one.numbers("between"), *one.numbers("thickness"), 0.0)[0]
    if not 1 < count <= 4096 or len(normal) != 3 or abs(np.linalg.norm(normal) - 1) > 0.01:
        return _refused(one, "a mosaic without the private (CSA) header that places its slices")
    if len(place) != 3 or len(turned) != 6 or len(one.numbers("spacing")) != 2 or step <= 0:
        return _refused(one, "a mosaic without position, spacing or slice distance")
    side = math.ceil(math.sqrt(count))
    rows, columns = one.shape
    if rows % side or columns % side or not rows or not columns:
        return _refused(one, f"a mosaic of {columns}x{rows} pixels for {count} slices")
    height, width = rows // side, columns // side
    right, down = np.array(turned).reshape(2, 3)
    y_mm, x_mm = one.numbers("spacing")
    # The stated position is the corner of a slice as large as the whole mosaic, on one centre.
    corner = (
        np.array(place) + right * (columns - width) / 2 * x_mm + down * (rows - height) / 2 * y_mm
    )
    words = {**one.words, "rows": height, "columns": width, "side": side, "of": count}
    return [
        replace(
            one,
            texts={
                **one.texts,
                "position": "\\".join(map(repr, map(float, corner + k * step * np.array(normal)))),
            },
            words=words,
            frame=k,
            is_tile=True,
        )
        for k in range(count)
    ]


def _private(data: Any, group: int, element: int, creator: str) -> Any:  # Any: pydicom's values
    try:
        return data.get_private_item(group, element, creator).value
    except (KeyError, ValueError, AttributeError):
        return None


def _csa(raw: Any) -> dict[str, tuple[float, ...]]:  # Any: bytes, if the element is there
    """Return the numbers of a CSA header by name; empty where it cannot be read."""
    if not isinstance(raw, bytes):
        return {}
    try:
        return dict(_csa_elements(raw))
    except (struct.error, ValueError, IndexError):
        return {}


def _csa_elements(raw: bytes) -> Iterator[tuple[str, tuple[float, ...]]]:
    is_second = raw[:4] == b"SV10"
    at = 8 if is_second else 0
    (count,) = struct.unpack_from("<I", raw, at)
    if not 0 < count < 1024:
        return
    at += 8
    for _ in range(count):
        name, _, _, _, items, _ = struct.unpack_from("<64si4siii", raw, at)
        at += 84
        values: list[float] = []
        for _ in range(max(0, min(items, 4096))):
            # The first version counts the length from the element's first item.
            length = struct.unpack_from("<4i", raw, at)[1 if is_second else 0]
            at += 16
            if not 0 <= length <= len(raw) - at:
                return
            text = raw[at : at + length].split(b"\0")[0].strip()
            at += (length + 3) // 4 * 4
            if text and len(values) < 16:
                try:
                    values.append(float(text))
                except ValueError:
                    continue
        yield name.split(b"\0")[0].decode("latin-1"), tuple(values)
