"""The planes of a folder, told apart into rows that could each be a volume.

References
----------
.. [1] DICOM PS3.4 B.5 (SOP classes); PS3.3 C.7.3.1.1.1 (modalities), C.7.6.1.1.2 (image types).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maskloop.formats.dicom_frames import planes_of
from maskloop.formats.dicom_head import numbers_of
from maskloop.formats.dicom_stack import Stack, levels_of, stack_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from maskloop.formats.dicom_head import Slice

_OTHERS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation",
    "1.2.840.10008.5.1.4.1.1.481.3": "contours",
    "1.2.840.10008.5.1.4.1.1.481.2": "dose",
    "1.2.840.10008.5.1.4.1.1.481.5": "plan",
    "1.2.840.10008.5.1.4.1.1.66.1": "registration",
    "1.2.840.10008.5.1.4.1.1.66.3": "registration",
    "1.2.840.10008.5.1.4.1.1.66.5": "surface",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
}
_DOCUMENTS = tuple(f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("11.", "88.", "104."))
_KNOWN = (
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IVOCT "
    "IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN PR PT PX "
    "REG RESP RF RG RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP "
    "TG US VA XA XC"
)
_MODALITIES = frozenset(_KNOWN.split())
_TYPES = (
    "M P R I MAGNITUDE PHASE REAL IMAGINARY M_FFE P_FFE R_FFE I_FFE M_SE M_IR FIELD_MAP B0 WATER "
    "FAT W F IN_PHASE OUT_PHASE IP OP IN_OUT ADC DIFFUSION TRACEW FA AXIAL ADD SUBTRACTION MEAN "
    "MINIP MAXIP T1 T2 VELOCITY PCA MPR ORIGINAL DERIVED PRIMARY SECONDARY"
)
_IMAGE_TYPES = frozenset(_TYPES.split())
_WITH_PIXELS = frozenset(
    "1.2.840.10008.5.1.4.1.1." + tail
    for tail in ("1", "1.1", "2", "2.1", "2.2", "4", "4.1", "4.4", "7", "20", "128", "130")
)
SEGMENTATIONS = frozenset(uid for uid, kind in _OTHERS.items() if kind == "segmentation")
CONTOURS = frozenset(uid for uid, kind in _OTHERS.items() if kind == "contours")
# What may tell planes of one place apart, most telling first.
_SPLITS = (
    *("kind", "echo", "echo_time", "b_value", "temporal", "trigger", "stack", "acquisition"),
    *(f"dimension {n}" for n in range(1, 9)),
    "time",
)
_APART = ("LOCALIZER", "MPR", "PROJECTION IMAGE", "MIN_IP", "MAX_IP", "MOSAIC")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Planes that belong together.

    Parameters
    ----------
    planes : list of Slice
        Each once; unsorted.
    kind : str
        ``"image"``, or what else the objects are (``"segmentation"``, ``"contours"`` ...).
    words : tuple of str
        What told this row apart from others of its series.
    copies : list of Path
        Files that hold a plane a second time.
    """

    planes: list[Slice]
    kind: str = "image"
    words: tuple[str, ...] = ()
    copies: list[Path] = field(default_factory=list)

    @property
    def is_image(self) -> bool:
        """Whether the row could be a volume."""
        return self.kind == "image"

    @property
    def uid(self) -> str:
        """SeriesInstanceUID; empty where it is none."""
        uid = self.planes[0].texts.get("series", "")
        return uid if uid.replace(".", "").isdigit() else ""

    @property
    def number(self) -> str:
        """Series number; empty where it is none."""
        number = self.planes[0].texts.get("number", "")
        return number if number.removeprefix("-").isdigit() else ""

    @property
    def modality(self) -> str:
        """Modality; empty where it is none."""
        # Known terms only: a free text in this element could be anything, a name too.
        modality = self.planes[0].texts.get("modality", "")
        return modality if modality in _MODALITIES else ""

    @property
    def title(self) -> str:
        """Words for a layer's name: modality, number and what told the row apart."""
        if not self.modality and not self.number:
            return ", ".join(("DICOM image", *self.words))
        parts = (self.modality or "DICOM", "series", self.number)
        return ", ".join((" ".join(filter(None, parts)), *self.words))

    def stack(self) -> Stack:
        """Return the planes in order."""
        return stack_of(self.planes)


def kind_of(one: Slice) -> str:
    """Return what a file is: ``"image"``, the name of another object, or "" without pixels."""
    uid = one.texts.get("class", "")
    if uid in _OTHERS:
        return _OTHERS[uid]
    if uid.startswith(_DOCUMENTS):
        return "document"
    return "image" if one.words.get("rows") and one.words.get("has_pixels") else ""


def is_cut(one: Slice) -> bool:
    """Whether a file without pixels must have had some: it ends inside an element, or is a CT."""
    return bool(one.words.get("is_cut")) or one.texts.get("class") in _WITH_PIXELS


def rows_of(files: Iterable[Slice]) -> list[Row]:
    """Return the rows of these files, in a stable order: by series number, then by series."""
    groups: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
    others: dict[tuple[str, str], list[Slice]] = defaultdict(list)
    for file in files:
        kind = kind_of(file)
        if kind != "image":
            others[(kind, _series(file))].append(file)
            continue
        for one in planes_of(file):
            groups[_key(one)].append(one)
    images = sorted((Row(group) for group in _joined(groups)), key=_place_in_list)
    rest = sorted((Row(group, kind) for (kind, _), group in others.items()), key=_place_in_list)
    return [row for image in images for row in _split_up(image.planes)] + rest


def _series(one: Slice) -> str:
    # Emptied UIDs make one series of all files of a folder.
    return one.texts.get("series") or str(one.path.parent)


def _place_in_list(row: Row) -> tuple[object, ...]:
    return int(row.number or 1 << 40), row.uid, str(row.planes[0].path)


def _key(one: Slice) -> tuple[object, ...]:
    kind = one.texts.get("kind", "")
    return (
        (_series(one), one.texts.get("number", "")),
        one.shape,
        tuple(word for word in _APART if word in kind),
        one.words.get("samples", 1),
        bool(one.texts.get("problem")),
        _rounded(one.texts.get("spacing", "")),
        _rounded(one.texts.get("orientation", "")),
    )


def _rounded(text: str) -> tuple[float, ...]:
    return tuple(round(n, 4) + 0.0 for n in numbers_of(text))


def _joined(groups: dict[tuple[object, ...], list[Slice]]) -> list[list[Slice]]:
    """Join groups whose spacing and orientation differ by rounding only."""
    found: dict[tuple[object, ...], list[tuple[tuple[float, ...], list[Slice]]]] = defaultdict(list)
    for key, group in groups.items():
        numbers = (*key[5], *key[6])  # type: ignore[misc]  # both are tuples of numbers
        alike = found[(*key[:5], len(numbers))]
        for known, members in alike:
            if all(abs(a - b) <= 1e-3 for a, b in zip(known, numbers, strict=True)):
                members.extend(group)
                break
        else:
            alike.append((numbers, list(group)))
    return [members for alike in found.values() for _, members in alike]


def _split_up(group: list[Slice]) -> list[Row]:
    """Return a group without copies as rows, one for each phase, echo or kind of image."""
    if not (levels := levels_of(group)) or len(set(levels)) == len(group):
        return [Row(group)]
    group, levels, copies = _unique(group, levels)
    parts = _parts(group, levels, ())
    return [
        Row(part, words=words, copies=copies if number == 0 else [])
        for number, (part, words) in enumerate(parts)
    ]


def _unique(group: list[Slice], levels: list[int]) -> tuple[list[Slice], list[int], list[Path]]:
    """Drop planes that are there twice: one UID and place, or the same pixels and acquisition."""
    at: dict[int, list[Slice]] = defaultdict(list)
    for one, level in zip(group, levels, strict=True):
        at[level].append(one)
    # A UID that stands at two places was filled in by whoever emptied the headers.
    stands: dict[object, set[int]] = defaultdict(set)
    for one, level in zip(group, levels, strict=True):
        stands[(one.texts.get("instance"), one.frame)].add(level)
    is_telling = all(len(places) == 1 for places in stands.values())
    kept, kept_levels, copies = [], [], []
    for level, here in at.items():
        seen: set[object] = set()
        times = Counter(_signs(one) for one in here)
        for one in here:
            uid = one.texts.get("instance", "")
            tokens: list[object] = [(uid, one.frame)] if uid and is_telling else []
            # Pixels are read only where headers leave it open whether these are two pictures.
            if one.frame < 0 and times[_signs(one)] > 1:
                tokens.append((_signs(one), _digest(one)))
            if any(token in seen for token in tokens):
                copies.append(one.path)
                continue
            seen.update(tokens)
            kept.append(one)
            kept_levels.append(level)
    return kept, kept_levels, copies


def _signs(one: Slice) -> tuple[str, ...]:
    return tuple(one.texts.get(name, "") for name in (*_SPLITS, "position", "slope"))


def _digest(one: Slice) -> bytes:
    with one.path.open("rb") as stream:
        stream.seek(one.offset or 0)
        held = stream.read(one.bytes if one.offset is not None else -1)
    return hashlib.blake2b(held, digest_size=16).digest()


def _parts(
    group: list[Slice], levels: list[int], words: tuple[str, ...]
) -> list[tuple[list[Slice], tuple[str, ...]]]:
    """Split planes that share places by whatever makes whole stacks of them."""
    places = len(set(levels))
    repeats = len(group) - places
    if not repeats or places == 1:
        return [(group, words)]
    for name in _SPLITS:
        parts: dict[str, list[int]] = defaultdict(list)
        for at, one in enumerate(group):
            parts[one.texts.get(name, "")].append(at)
        heights = [len({levels[at] for at in part}) for part in parts.values()]
        left = sum(map(len, parts.values())) - sum(heights)
        # Numbers that count along the stack make many small parts; phases make few whole ones.
        is_whole = len(parts) <= max(2, 2 * len(group) / places) and min(heights) > 1
        if len(parts) < 2 or not is_whole or left >= repeats:
            continue
        found = []
        for number, value in enumerate(sorted(parts, key=_sort_value), start=1):
            told = _told(name, value, list(parts), number)
            chosen = parts[value]
            found += _parts(
                [group[at] for at in chosen], [levels[at] for at in chosen], (*words, told)
            )
        return found
    return [(group, words)]


def _sort_value(value: str) -> tuple[float, str]:
    return (numbers_of(value) or (float("inf"),))[0], value


def _told(name: str, value: str, values: list[str], number: int) -> str:
    """Return in words what tells one part from the others; no times of day."""
    if name == "kind":
        common = set.intersection(*({*v.split("\\")} for v in values))
        own = [t for t in value.split("\\") if t not in common and t in _IMAGE_TYPES]
        return f"image type {' '.join(own) or number}"
    shown = f"{numbers_of(value)[0]:g}" if numbers_of(value) else "not stated"
    return {
        "echo": f"echo {shown}",
        "echo_time": f"echo time {shown} ms",
        "b_value": f"b-value {shown}",
        "temporal": f"time {shown}",
        "trigger": f"trigger at {shown} ms",
        "stack": f"stack {shown}",
        "acquisition": f"acquisition {shown}",
        "time": f"phase {number} of {len(values)}",
    }.get(name, f"{name}: {shown}")
