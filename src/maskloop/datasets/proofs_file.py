"""Find the COCO files of a folder, parse them, and prove their images and categories."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeGuard

from maskloop.datasets.proofs import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from maskloop.datasets.proofs import Findings

Entry = dict[str, Any]  # Any: plain JSON values
_KEYS = (b'"annotations"', b'"images"', b'"categories"', b'"segments_info"')
_MOST_PIXELS = 2**34  # of an image: more is a mistake, or meant to fill the memory
_MARK = b"\xef\xbb\xbf"
_FOREIGN = (b'"shapes"', b'"FeatureCollection"', b'"training"')


@dataclass(frozen=True, slots=True)
class Shot:
    """One image entry that can be worked with."""

    id: int
    name: str
    height: int
    width: int
    group: str = ""

    @property
    def size(self) -> list[int]:
        """Height and width, as run lengths state them."""
        return [self.height, self.width]

    @property
    def stem(self) -> str:
        """The name without suffix, as masks and items bear it."""
        pure = PurePosixPath(self.name)
        return str(pure.with_suffix("")) if pure.name else self.name


@dataclass(frozen=True, slots=True, eq=False)
class CocoFile:
    """A parsed file: what of it can be looked at further.

    Parameters
    ----------
    path : Path
    pictures : Path
        Folder that file names are relative to; the most likely one.
    images : dict of int to Shot
        Those with an id, a name and a size.
    annotations : list of dict
        All that are JSON objects.
    categories : dict of int to dict
        Those with an id.
    """

    path: Path
    pictures: Path
    images: Mapping[int, Shot]
    annotations: Sequence[Entry]
    categories: Mapping[int, Entry]

    @property
    def is_panoptic(self) -> bool:
        """Whether annotations are lists of segments drawn in PNGs."""
        return any("segments_info" in a for a in self.annotations[:50])

    @property
    def has_masks(self) -> bool:
        """Whether any annotation says where it lies pixel by pixel."""
        return any(a.get("segmentation") or "segments_info" in a for a in self.annotations)

    def where(self, annotation: Entry) -> str:
        """Return how a message names an annotation."""
        shot = self.images.get(key_of(annotation.get("image_id")))
        place = f" ({shot.name})" if shot else ""
        return f"{self.path.name}: annotation {shown(annotation.get('id'))}{place}"


def coco_files(path: Path) -> list[Path]:
    """Return the COCO files that a path stands for; none where it is another format's."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and _looks_like_coco(path) else []
    folders = (path / "annotations", path, *(p for p in _folders(path)))
    for folder in folders[:2]:
        found = [p for p in sorted(folder.glob("*.json")) if _looks_like_coco(p)]
        if found:
            return found
    # One file in each split's folder, as Roboflow writes it.
    return [p for f in folders[2:] for p in sorted(f.glob("*.json")) if _looks_like_coco(p)]


def _folders(path: Path) -> list[Path]:
    try:
        return [p for p in sorted(path.iterdir()) if p.is_dir()][:20]
    except OSError:
        return []


def _looks_like_coco(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            head = stream.read(65536)
    except OSError:
        return False
    if head.removeprefix(_MARK).lstrip()[:1] != b"{":
        return False
    own = min((head.find(key) for key in _KEYS if key in head), default=-1)
    foreign = min((head.find(key) for key in _FOREIGN if key in head), default=len(head))
    return 0 <= own < foreign


def parsed(path: Path, findings: Findings) -> CocoFile | None:
    """Return a file's content; None, and told, where there is nothing to look at."""
    import orjson

    try:
        text = path.read_bytes()
        content = orjson.loads(text.removeprefix(_MARK))
    except (orjson.JSONDecodeError, OSError, RecursionError) as error:
        findings.add("J0", f"expected JSON, got {shown(str(error))}", path.name)
        return None
    if text.startswith(_MARK):
        findings.add("J0", "expected JSON from the first byte, got a byte order mark", path.name)
    if not isinstance(content, dict):
        kind = type(content).__name__
        findings.add("J1", f"expected a JSON object, got a {kind}", path.name)
        return None
    lists = {key: _entries(content, key, path, findings) for key in _PARTS}
    if lists["images"] is None or lists["annotations"] is None:
        return None
    if not isinstance(content.get("info"), dict):
        findings.add("J2", f"expected an info block, got {shown(content.get('info'))}", path.name)
    images = _images(lists["images"], path, findings)
    return CocoFile(
        path,
        _pictures_of(path, [shot.name for shot in images.values()]),
        images,
        lists["annotations"],
        _categories(lists["categories"] or [], path, findings),
    )


_PARTS = ("images", "annotations", "categories")


def _entries(content: Entry, key: str, path: Path, findings: Findings) -> list[Entry] | None:
    found = content.get(key)
    if not isinstance(found, list):
        findings.add("J1", f"expected a list of {key}, got {shown(found)}", path.name)
        return None
    for entry in found:
        if not isinstance(entry, dict):
            words = f"expected an object in the list of {key}, got {shown(entry)}"
            findings.add("J1", words, path.name)
    return [entry for entry in found if isinstance(entry, dict)]


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number; true and 1.0 are none."""
    return type(value) is int


def key_of(value: object) -> int:
    """Return an id to look up by; -1, which no entry has, where it is none."""
    return value if is_whole(value) else -1


def _images(entries: Iterable[Entry], path: Path, findings: Findings) -> dict[int, Shot]:
    images: dict[int, Shot] = {}
    ids: Counter[int] = Counter()
    names: Counter[str] = Counter()
    for entry in entries:
        number, name = entry.get("id"), entry.get("file_name")
        where = f"{path.name}: image {shown(name if name else number)}"
        if not is_whole(number) or number < 0:
            findings.add("S1", f"expected a whole number as id, got {shown(number)}", where)
            continue
        ids[number] += 1
        if ids[number] == 2:
            words = f"expected the id {number} once, got it again"
            findings.add("S2", words, where)
        words = bad_name(name)
        if words:
            findings.add("S8", f"expected a relative POSIX file name, got {words}", where)
        height, width = entry.get("height"), entry.get("width")
        if not (_is_side(height) and _is_side(width)) or height * width > _MOST_PIXELS:
            words = f"expected height and width in pixels, got {shown([height, width])}"
            findings.add("S9", words, where)
        elif isinstance(name, str):
            names[name] += 1
            if names[name] == 2:
                words = f"expected the file name {shown(name)} once, got it again"
                findings.add("S3", words, where)
            group = entry.get("group_id")
            group = str(group) if isinstance(group, str) or is_whole(group) else ""
            images.setdefault(number, Shot(number, name, height, width, group))
    if not images:
        findings.add("S12", "expected at least one image, got none that can be used", path.name)
    return images


def _is_side(value: object) -> TypeGuard[int]:
    return is_whole(value) and 0 < value < 2**31


def bad_name(name: object) -> str:
    """Return a file name as a message shows it where it is no relative POSIX path, else nothing."""
    if not isinstance(name, str) or not name.strip():
        return shown(name)
    pure = PurePosixPath(name)
    is_drive = len(name) > 1 and name[1] == ":"
    if "\\" in name or "://" in name or pure.is_absolute() or is_drive or ".." in pure.parts:
        return shown(name)
    return ""


def _categories(entries: Iterable[Entry], path: Path, findings: Findings) -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    names: Counter[str] = Counter()
    for entry in entries:
        number, name = entry.get("id"), entry.get("name")
        where = f"{path.name}: category {shown(name if name else number)}"
        if not is_whole(number) or number < 1 or number in found:
            again = " again" if is_whole(number) and number in found else ""
            words = f"expected a whole number of its own from 1 as id, got {shown(number)}{again}"
            findings.add("S5", words, where)
        if not isinstance(name, str) or not name.strip():
            findings.add("S6", f"expected a name, got {shown(name)}", where)
        else:
            names[name] += 1
            if names[name] == 2:
                findings.add("S6", f"expected the name {shown(name)} once, got it again", where)
        if is_whole(number):
            found.setdefault(number, entry)
    return found


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that the system refuses is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _pictures_of(path: Path, names: Sequence[str]) -> Path:
    """Return the folder below which most of the first pictures lie."""
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    split = path.stem.rpartition("_")[2]
    folders = (
        root / "images" / split,
        root / split,
        root / "images",
        root,
        path.parent,
        root / "images" / f"{split}2017",
    )
    some = [name for name in names[:40] if not bad_name(name)]

    def found(folder: Path) -> int:
        return sum(is_file(folder / name) for name in some) if folder.is_dir() else -1

    return max(folders, key=found)
