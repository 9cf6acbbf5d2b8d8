"""Where the files of a YOLO dataset lie: data.yaml, pictures and texts of every split.

References
----------
.. [1] Ultralytics documentation, "Instance Segmentation Datasets Overview": dataset YAML.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from maskloop.core.dataset import Item
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.datasets.base import PICTURES, inside
from maskloop.datasets.beside import (
    require_size,
    without_suffix,
)
from maskloop.datasets.files import named_files
from maskloop.formats.base import first_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from maskloop.datasets.yolo_yaml import Value

YAML = ("data.yaml", "data.yml", "dataset.yaml")
_LOOKED_AT = 8  # texts of a folder, when asked whether it is one
SIZES = "sizes.csv"
REST = "rest"  # folder of items without a split, where others have one
SPLITS = ("train", "val", "test")
_WORDS = ("path", "names", "nc", "colors", "download", "kpt_shape", "flip_idx", "yaml_file")


def sniff(path: Path) -> bool:
    """Whether a folder has a data.yaml with names, or images/ and labels/ with texts."""
    if path.is_dir():
        file = yaml_of(path)
        if file is not None:
            return _is_yaml(file)
        if not (path / "images").is_dir() or (path / "annotations").is_dir():
            return False
        texts = chain((path / "labels").glob("*.txt"), (path / "labels").glob("*/*.txt"))
        return any(map(_is_text, islice(texts, _LOOKED_AT)))
    return path.suffix.lower() in (".yaml", ".yml") and _is_yaml(path)


def yaml_of(folder: Path) -> Path | None:
    """Return the YAML of a folder, None where it has none."""
    found = (folder / name for name in YAML)
    return next((file for file in found if file.is_file()), None)


def _is_yaml(file: Path) -> bool:
    try:
        text = "\n" + file.read_text(encoding="utf-8", errors="replace")[: 1 << 16]
    except OSError:
        return False
    return "\nnames" in text and any(f"\n{split}:" in text for split in SPLITS)


def _is_text(file: Path) -> bool:
    """Whether a text begins with a class and shares; whole numbers alone are another's regions."""
    number, *values = [*first_bytes(file, 1 << 16).split(b"\n", 1)[0].split(), b""][:64]
    shares = [value for value in values if value]
    if not number.isdigit() or len(shares) < 4 or not any(b"." in value for value in shares):
        return False
    try:
        return all(-0.5 < float(value) < 1.5 for value in shares)
    except ValueError:
        return False


def scheme_of(names: object, colours: object, root: Path) -> LabelTable:
    """Return the classes, number n of the texts as id n + 1."""
    if not names and (root / "classes.txt").is_file():
        names = (root / "classes.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    listed, shades = _numbered(names), _numbered(colours)
    rows = []
    for number, name in listed.items():
        try:
            rows.append(Label(number + 1, name, shades.get(number, ""), is_thing=True))
        except InputError:
            rows.append(Label(number + 1, name, is_thing=True))
    return LabelTable(rows)


def _numbered(stated: object) -> dict[int, str]:
    if isinstance(stated, list):
        return dict(enumerate(map(str, stated)))
    if not isinstance(stated, dict):
        return {}
    try:
        found = {int(number): str(name) for number, name in stated.items()}
    except ValueError:
        found = {-1: ""}
    if min(found, default=0) < 0 or max(found, default=0) >= 2**31:
        msg = f"expected 'number: name' from 0 in data.yaml, got {str(stated)[:60]!r}"
        raise FormatError(f"{msg}; correct the names")
    return found


def folders(keys: Mapping[str, Value], root: Path) -> Iterator[tuple[str, Path]]:
    """Yield each split's folders or lists of pictures, once where several splits name the same."""
    named = [
        (key, one)
        for key, value in keys.items()
        if key not in _WORDS and not isinstance(value, dict)
        for one in ([value] if isinstance(value, str) else value)
        if key in SPLITS or "images" in one
    ]
    named = [(key, one) for key, one in named if one]
    if not named:
        below = sorted(p.name for p in (root / "images").glob("*") if p.is_dir())
        named = [(name, f"images/{name}") for name in below if (root / "labels" / name).is_dir()]
        named = named or [("", "images")]
    base = keys.get("path", "")
    places = [(key, _place(one, base if isinstance(base, str) else "", root)) for key, one in named]
    shared = Counter(folder for _, folder in places)
    for folder in dict.fromkeys(folder for _, folder in places):
        splits = [key for key, one in places if one == folder]
        # A validation set that is the training set is none.
        split = splits[0] if shared[folder] == 1 or splits[0] == folder.name else ""
        yield ("" if split == REST else split), folder


def _place(stated: str, base: str, root: Path) -> Path:
    """Return a folder that data.yaml names; often it was written for another machine's folders."""
    parts = PurePosixPath(stated.replace("\\", "/")).parts
    while parts and parts[0] in ("..", "."):
        parts = parts[1:]
    tries = ["/".join(parts)]
    if base and not base.startswith("/") and ".." not in base:
        tries.insert(0, f"{base}/{tries[0]}")
    paths = [inside(root, one) for one in tries if one]
    there = (path for path in paths if path.exists() or _labels_of(path, root).is_dir())
    return next(there, paths[-1] if paths else root)


def _labels_of(path: Path, root: Path) -> Path:
    """Return where the texts to a path of pictures lie: the last "images" becomes "labels"."""
    parts = list(path.relative_to(root).parts)
    for at in reversed(range(len(parts))):
        if parts[at] == "images":
            parts[at] = "labels"
            break
    return root.joinpath(*parts)


def listed(
    folder: Path, split: str, root: Path, sizes: dict[str, tuple[int, int]]
) -> Iterator[Item]:
    """Yield the items of a folder of pictures, or of a list of them, with their texts."""
    if folder.is_file():
        lines = folder.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in (one.strip() for one in lines):
            if line:
                picture = inside(root, line.removeprefix("./"))
                text = _labels_of(picture, root).with_suffix(".txt")
                name = without_suffix(picture.relative_to(root).as_posix()).removeprefix("images/")
                image = picture if picture.is_file() else None
                key = text.with_suffix("").relative_to(root).as_posix()
                yield Item(name, image, sizes.get(key), split=split, ref=text)
        return
    below = _labels_of(folder, root)
    texts = named_files(below, (".txt",)) if below.is_dir() and below != folder else {}
    texts.pop("classes", None)
    pictures = named_files(folder, PICTURES) if folder.is_dir() else {}
    for name in sorted({*texts, *pictures}):
        yield Item(
            name,
            pictures.get(name),
            sizes.get((below / name).relative_to(root).as_posix()),
            split=split,
            has_mask=bool(texts),
            ref=texts.get(name),
        )


def sizes_of(root: Path) -> dict[str, tuple[int, int]]:
    """Return the sizes of pictures that the set does not hold, as we wrote them."""
    file = root / SIZES
    if not file.is_file():
        return {}
    found = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        name, _, size = line.partition(",")
        height, _, width = size.partition(",")
        if height.isdecimal() and width.isdecimal():
            found[name] = require_size(int(height), int(width), SIZES)
    return found
