"""Find the COCO files of a folder, parse them, and prove their structure; no mask is decoded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeGuard

from maskloop.core.errors import MaskloopError
from maskloop.datasets.proofs import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.datasets.proofs import Findings

Entry = dict[str, Any]  # Any: plain JSON values
_KEYS = (b'"annotations"', b'"images"', b'"categories"', b'"segments_info"')
_FOREIGN = (b'"shapes"', b'"FeatureCollection"', b'"training"')
_MOST_DETECTIONS, _SMALLEST = 100, 32
_TURNED = range(5, 9)  # EXIF orientations that swap width and height


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
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
        return False
    own = min((head.find(key) for key in _KEYS if key in head), default=-1)
    foreign = min((head.find(key) for key in _FOREIGN if key in head), default=len(head))
    return 0 <= own < foreign


def parsed(path: Path, findings: Findings) -> CocoFile | None:
    """Return a file's content; None, and told, where there is nothing to look at."""
    import orjson

    try:
        content = orjson.loads(path.read_bytes())
    except (orjson.JSONDecodeError, OSError, RecursionError) as error:
        findings.add("J0", f"expected JSON, got {shown(str(error))}", path.name)
        return None
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
        words = _bad_name(name)
        if words:
            findings.add("S8", f"expected a relative POSIX file name, got {words}", where)
        height, width = entry.get("height"), entry.get("width")
        if not (_is_side(height) and _is_side(width)):
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


def _bad_name(name: object) -> str:
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
    some = [name for name in names[:40] if not _bad_name(name)]

    def found(folder: Path) -> int:
        return sum(is_file(folder / name) for name in some) if folder.is_dir() else -1

    return max(folders, key=found)


def check_splits(files: Sequence[CocoFile], findings: Findings) -> None:
    """Prove that no picture and no group of pictures lies in two splits.

    Files of one kind, such as ``instances_train`` and ``instances_val``, are splits.
    """
    places: dict[tuple[str, Path], str] = {}
    groups: dict[tuple[str, str], str] = {}
    for file in files:
        kind, _, split = file.path.stem.rpartition("_")
        for shot in file.images.values():
            where = f"{file.path.name}: image {shot.name}"
            other = places.setdefault((kind, file.pictures / shot.name), split)
            if other != split:
                words = f"expected a picture of one split, got it in {shown(other)}, too"
                findings.add("S13", words, where)
            other = groups.setdefault((kind, shot.group), split) if shot.group else split
            if other != split:
                words = f"expected group {shown(shot.group)} in one split, got it in {shown(other)}"
                findings.add("D7", f"{words}, too", where)


def check_annotations(file: CocoFile, findings: Findings, job: Job) -> None:
    """Prove what annotations say apart from where they lie."""
    ids: Counter[int] = Counter()
    crowd = 0
    per_class: Counter[tuple[int, int]] = Counter()
    for count, annotation in enumerate(file.annotations):
        if count % 4096 == 0:
            job.check()
        number = annotation.get("id")
        if not is_whole(number) or number < 1:
            words = f"expected a whole number from 1 as id, got {shown(number)}"
            findings.add("S4", words, file.where(annotation))
        else:
            ids[number] += 1
            if ids[number] == 2:
                words = f"expected the id {number} once, got it again"
                findings.add("S4", words, file.where(annotation))
        _check_references(file, annotation, findings)
        is_crowd = annotation.get("iscrowd")
        if not is_whole(is_crowd) or is_crowd not in (0, 1):
            is_soft = is_crowd is None or isinstance(is_crowd, bool)
            findings.add(
                "S11",
                f"expected iscrowd 0 or 1, got {shown(is_crowd)}",
                file.where(annotation),
                severity="warning" if is_soft else "error",
            )
        if "ignore" in annotation:
            findings.add("C6", "expected no key ignore, got one", file.where(annotation))
        crowd += bool(is_crowd)
        if not is_crowd:
            pair = (key_of(annotation.get("image_id")), key_of(annotation.get("category_id")))
            per_class[pair] += 1
    for (image, category), count in sorted(per_class.items()):
        if count > _MOST_DETECTIONS and image in file.images and category in file.categories:
            name = shown(file.categories[category].get("name"))
            words = f"expected at most {_MOST_DETECTIONS} objects of {name}, got {count}"
            findings.add("C1", words, f"{file.path.name}: image {file.images[image].name}")
    if crowd and crowd == len(file.annotations):
        words = f"expected single objects, got {crowd} crowds and nothing else"
        findings.add("C2", words, file.path.name)


def _check_references(file: CocoFile, annotation: Entry, findings: Findings) -> None:
    for key, known in (("image_id", file.images), ("category_id", file.categories)):
        number = annotation.get(key)
        if key_of(number) not in known:
            what = key.removesuffix("_id")
            words = f"expected the id of {what} listed in the file, got {shown(number)}"
            findings.add("S7", words, file.where(annotation))


def check_pictures(file: CocoFile, findings: Findings, job: Job) -> None:
    """Prove that pictures are there, open and have the stated size; only their heads are read."""
    stems: dict[str, str] = {}
    missing = []
    for shot in job.track(list(file.images.values()), "look at pictures"):
        where = f"{file.path.name}: image {shot.name}"
        pure = PurePosixPath(shot.name)
        if "." in pure.stem:
            findings.add("C4", f"expected no dot inside the name, got {shown(pure.name)}", where)
        other = stems.setdefault(shot.stem, shot.name)
        if other != shot.name:
            findings.add("C7", f"expected another name than {shown(other)}'s, got it", where)
        if min(shot.size) < _SMALLEST:
            words = f"expected {_SMALLEST} pixels or more, got {shot.width} x {shot.height}"
            findings.add("C3", words, where)
        if _bad_name(shot.name):
            continue
        if is_file(file.pictures / shot.name):
            _check_picture(file.pictures / shot.name, shot, where, findings)
        else:
            missing.append(shot.name)
    if missing and len(missing) == len(file.images):
        words = f"expected the pictures in {file.pictures.name}/, got none of {len(missing)}"
        findings.add("S10", words, file.path.name, severity="warning")
        return
    for name in missing:
        where = f"{file.path.name}: image {name}"
        findings.add("S10", f"expected a file in {file.pictures.name}/, got none", where)


def _check_picture(path: Path, shot: Shot, where: str, findings: Findings) -> None:
    try:
        width, height, turn = picture_size(path)
    except (MaskloopError, OSError) as error:
        findings.add("S10", f"expected a picture that opens, got {shown(str(error))}", where)
        return
    if (width, height) == (shot.width, shot.height):
        return
    words = f"expected {width} x {height} (the stored picture), got {shot.width} x {shot.height}"
    if (height, width) == (shot.width, shot.height):
        why = "EXIF asks for a turn" if turn in _TURNED else "width and height are swapped"
        words += f": {why}"
    findings.add("S9", words, where)


def picture_size(path: Path) -> tuple[int, int, int]:
    """Return width, height and the EXIF orientation (1 where none) from a picture's head."""
    from maskloop.formats.picture_pillow import opened

    with opened(path) as picture:
        width, height = picture.size
        turn = 1
        if picture.format in ("JPEG", "MPO"):
            turn = picture.getexif().get(274, 1)
    return width, height, turn if is_whole(turn) else 1
