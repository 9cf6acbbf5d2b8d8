"""The segments of a .seg.nrrd file: names, colours, layers and extents as 3D Slicer keeps them.

References
----------
.. [1] 3D Slicer developer guide, "Segmentations", section "Segmentation labelmap file format".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, InputError, UnknownNameError
from maskloop.core.labels import Label, LabelTable
from maskloop.formats.nrrd_header import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from maskloop.core.mask import Mask

_FIELDS = ("ID", "Name", "Color", "LabelValue", "Layer", "Tags")
_OURS = "maskloop"  # the tag that keeps what Slicer has no field for


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: Slicer's own id, the layer (volume of the list) that holds it, its label."""

    id: str
    layer: int
    label: Label


def read(keys: Mapping[str, str], name: str) -> list[Segment]:
    """Return the segments that a header describes; none where it is no segmentation."""
    found = {int(m[1]) for key in keys if (m := re.fullmatch(r"Segment(\d{1,6})_ID", key))}
    found |= {int(m[1]) for key in keys if (m := re.fullmatch(r"Segment(\d{1,6})_Name", key))}
    segments = []
    for number in sorted(found):
        get = {key: keys.get(f"Segment{number}_{key}") for key in _FIELDS}
        # Before layers, each segment was a volume of its own with the value 1.
        value = _whole(get["LabelValue"], 1, name, number)
        layer = _whole(get["Layer"], number if get["LabelValue"] is None else 0, name, number)
        if value < 1 or layer < 0:
            raise _odd(name, number, f"label value {value} in layer {layer}")
        words = get["Name"] or get["ID"] or f"label {value}"
        label = _with_tag(Label(value, words, _colour(get["Color"])), get["Tags"] or "")
        segments.append(Segment(get["ID"] or str(number), layer, label))
    return segments


def _whole(text: str | None, default: int, name: str, number: int) -> int:
    try:
        return default if text is None else int(text)
    except ValueError as error:
        raise _odd(name, number, repr(text)) from error


def _odd(name: str, number: int, got: str) -> FormatError:
    return FormatError(
        f"expected a label value of at least 1 and a layer for segment {number} of {name}, got "
        f"{got[:60]}; repair the header"
    )


def _colour(text: str | None) -> str:
    try:
        parts = [round(float(word) * 255) for word in (text or "").split()]
    except (ValueError, OverflowError):
        return ""
    if len(parts) != 3 or not all(0 <= part <= 255 for part in parts):
        return ""
    return "#" + bytes(parts).hex()


def _with_tag(label: Label, tags: str) -> Label:
    """Return the label with what our own tag adds; a tag made by others is left aside."""
    kinds: dict[str, Any] = {"category": str, "is_thing": bool, "ignore": bool, "author": str}
    kinds |= {"score": (int, float), "locked": bool, "visible": bool, "status": str}
    for tag in tags.split("|"):
        if tag.startswith(_OURS + ":"):
            try:
                extra = json.loads(tag.removeprefix(_OURS + ":"))
            except ValueError:
                return label
            if isinstance(extra, dict):
                return replace(
                    label,
                    **{k: v for k, v in extra.items() if k in kinds and isinstance(v, kinds[k])},
                )
    return label


def table(segments: Iterable[Segment], name: str) -> LabelTable:
    """Return the labels of the segments of one layer."""
    try:
        return LabelTable(segment.label for segment in segments)
    except InputError as error:
        msg = f"expected each label value once a layer in {name}, got this: {error}"
        raise FormatError(msg) from error


def choose(segments: list[Segment], entry: str | int) -> Segment:
    """Return the segment called `entry`, by name, by id, or by number in the file from 0."""
    text = str(entry)
    for segment in segments:
        if text in (segment.label.name, segment.id):
            return segment
    if text.isdecimal() and int(text) < len(segments):
        return segments[int(text)]
    raise UnknownNameError.of("segment", text, [s.label.name for s in segments])


def lines(mask: Mask) -> list[str]:
    """Return the key/value pairs for a mask without overlaps, on one layer."""
    extents = _extents(mask.data)
    found = [
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_SourceRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    for number, label in enumerate(mask.labels.values()):
        colour = " ".join(repr(part / 255) for part in bytes.fromhex(label.colour[1:]))
        pairs = {
            "Color": colour,
            "ColorAutoGenerated": "0",
            "Extent": " ".join(map(str, extents.get(label.id, (0, -1, 0, -1, 0, -1)))),
            "ID": f"Segment_{label.id}",
            "LabelValue": str(label.id),
            "Layer": "0",
            "Name": label.name,
            "NameAutoGenerated": "0",
            "Tags": f"Segmentation.Status:inprogress|{_tag(label)}|",
        }
        found += [f"Segment{number}_{key}:={escaped(value)}" for key, value in pairs.items()]
    return found


def _tag(label: Label) -> str:
    """Return what Slicer has no field for as one tag: ASCII, without the bar that parts tags."""
    kept = {
        f.name: getattr(label, f.name)
        for f in fields(label)
        if f.name not in ("id", "name", "colour") and getattr(label, f.name) != f.default
    }
    return f"{_OURS}:{json.dumps(kept, separators=(',', ':'))}".replace("|", "\\u007c")


def _extents(ids: npt.NDArray[Any]) -> dict[int, tuple[int, ...]]:
    """Return first and last index along x, y and z of each label that occurs."""
    from scipy import ndimage

    if ids.ndim > 3:  # Slicer knows no time: each label may be anywhere
        whole = tuple(n for size in ids.shape[:0:-1] for n in (0, size - 1))
        return {int(value): whole for value in np.unique(ids) if value}
    spatial = ids if ids.ndim == 3 else ids[np.newaxis]
    highest = int(spatial.max(initial=0))
    if highest > 1 << 16:  # one slot a possible id would be too many
        values, spatial = np.unique(spatial, return_inverse=True)
        boxes = ndimage.find_objects(spatial.reshape((1, *ids.shape)[-3:]).astype(np.int64) + 1)
        pairs = zip(values.tolist(), boxes, strict=True)
    else:
        pairs = zip(range(1, highest + 1), ndimage.find_objects(spatial), strict=True)
    return {
        int(value): tuple(n for part in reversed(box) for n in (part.start, part.stop - 1))
        for value, box in pairs
        if box is not None and value
    }
