"""Any folder of pictures and masks, read by a small profile; one of ours, or one of one's own."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets import georeference
from maskloop.datasets import maskfolder_names as names
from maskloop.datasets import maskfolder_profile as profiles
from maskloop.datasets import maskfolder_values as values
from maskloop.datasets.base import DatasetFormat, Options, inside
from maskloop.datasets.maskfolder_paths import Files, Template, pairs
from maskloop.formats.base import reading
from maskloop.formats.overlap import Layers, Piece

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from maskloop.core.geometry import Geometry
    from maskloop.core.job import Job
    from maskloop.core.labels import Label
    from maskloop.datasets.maskfolder_profile import Profile, Variant

_SPLITS = {"training": "train", "validation": "val", "testing": "test"}


def opened(profile: Profile, path: Path, job: Job) -> Dataset:
    """List the items of a folder; reads no mask, but the files that name classes and splits."""
    variant, files = _first_variant(profile, path)
    masks = [file for one in files for file in one.masks]
    classes = names.named(path, variant, masks[0] if masks else None)
    taken = {id(one): _split(one, variant) for one in files}
    named = _item_names(files, variant, taken)
    lists = _listed_splits(path, variant)
    known, items = dict(_known_objects(path, variant, files, job)), []
    for one, name in zip(files, named, strict=True):
        found = known.get(name_of(one))
        items.append(
            Item(
                name,
                one.image,
                group=_group(one, name, variant),
                split=taken[id(one)] or lists.get(name) or lists.get(name.split("/")[-1], ""),
                classes=None if found is None else frozenset(text for _, text in found),
                count=None if found is None else len(found),
                has_mask=bool(one.masks),
                ref=one,
            )
        )
    extra = {value: text for found in known.values() for value, text in found}
    classes = names.merged(classes, extra) if extra else classes
    items.sort(key=lambda item: item.name)
    reader = _Reader(path, variant, classes)
    kind = variant.kind
    if variant.objects and not (path / variant.objects.split("/")[0]).is_dir():
        kind = "classes"
    return Dataset(
        path.name,
        profile.name,
        path,
        LabelTable(row for _, row in classes),
        tuple(items),
        reader,
        kind,
        notices=_notices(files, masks, variant),
    )


def _first_variant(profile: Profile, path: Path) -> tuple[Variant, list[Files]]:
    for variant in profile.variants:
        found = pairs(path, variant.masks, variant.images, unlabelled=variant.unlabelled)
        if found:
            return variant, found
    looked = ", ".join(text for variant in profile.variants for text in variant.masks)
    msg = (
        f"expected masks like {looked} in {path.name}, got none; choose the folder that holds "
        "them, or correct the profile"
    )
    raise FormatError(msg)


def name_of(files: Files) -> str:
    """Return the words of an item in one text: what it is known by before it has a name."""
    return "/".join(f"{key}={value}" for key, value in sorted(files.words.items()))


def _item_names(files: list[Files], variant: Variant, splits: Mapping[int, str]) -> list[str]:
    """Return a name for each item; the split leads it where it would not be unique without."""
    if variant.item:
        template = Template(variant.item)
        return [template.filled(one.words) for one in files]
    short = [
        "/".join(value for key, value in one.words.items() if key != "split") or "mask"
        for one in files
    ]
    if len(set(short)) == len(short):
        return short
    return [
        f"{one.words.get('split', splits[id(one)])}/{name}" if "split" in one.words else name
        for one, name in zip(files, short, strict=True)
    ]


def _split(one: Files, variant: Variant) -> str:
    word = one.words.get("split", "")
    return variant.split_names.get(word, _SPLITS.get(word, word))


def _group(one: Files, name: str, variant: Variant) -> str:
    if variant.group:
        found = re.search(variant.group, name)
        return found[1] if found and found[1] else ""
    return one.words.get("group", "")


def _listed_splits(path: Path, variant: Variant) -> dict[str, str]:
    """Return ``{item's name: split}`` from lists of names; the first list with a name has it."""
    if not variant.splits:
        return {}
    found: dict[str, str] = {}
    for words, listed in Template(variant.splits).found(path):
        word = words.get("split", listed.stem)
        split = variant.split_names.get(word, _SPLITS.get(word, word))
        if not split:
            continue
        with reading(listed):
            lines = listed.read_bytes().decode("utf-8", "replace").splitlines()
        for line in lines:
            for token in {line.strip(), *line.split()[:1]} - {""}:
                plain = token.replace("\\", "/").strip("/")
                stem = re.sub(r"\.(png|jpe?g|tiff?|bmp|mat)$", "", plain, flags=re.IGNORECASE)
                found.setdefault(stem, split)
                found.setdefault(stem.split("/")[-1], split)
    return found


def _known_objects(
    path: Path, variant: Variant, files: list[Files], job: Job
) -> dict[str, list[tuple[int, str]]]:
    """Return class value and name of every object, where a file beside each mask tells them."""
    if not variant.beside:
        return {}
    template = Template(variant.beside)
    found = {}
    for one in job.track(files, "names"):
        beside = inside(path, template.filled(one.words))
        if beside.is_file():
            found[name_of(one)] = names.objects_of(beside)
    return found


def _notices(files: list[Files], masks: list[Path], variant: Variant) -> tuple[str, ...]:
    """Return what a person should know: blurred masks, and masks without a picture."""
    said = []
    blurred = sum(mask.suffix.lower() in values.JPEG for mask in masks)
    if blurred:
        said.append(
            f"WARNING: {blurred:,} of {len(masks):,} masks are JPEGs: their edges are blurred, and "
            "every pixel is put to the nearest class; look at the edges before you train or score"
        )
    alone = sum(one.image is None for one in files)
    if alone:
        where = " or ".join(variant.images) or "no place that the profile names"
        said.append(f"{alone:,} of {len(files):,} masks have no picture in {where}")
    return tuple(said)


class _Reader:
    """Reads the masks of one item."""

    def __init__(
        self, root: Path, variant: Variant, classes: tuple[tuple[int, Label], ...]
    ) -> None:
        self._root, self._variant, self._classes = root, variant, classes

    def __call__(self, item: Item, job: Job) -> Sample:
        """Return the sample; values that no class has are told and kept under their own name."""
        files: Files = item.ref
        if not files.masks:
            msg = f"expected a mask of {item.name!r}, got a picture alone; choose items with masks"
            raise InputError(msg)
        if len(files.masks) > 1 or "{object}" in "".join(self._variant.masks):
            return self._many(item, files, job)
        found, grid = self._decoded(files.masks[0], files, job)
        mask = Mask(found.ids, grid, found.labels, files.masks[0])
        place = georeference.of(files.masks[0]) or georeference.of(item.image)
        return Sample(item, (mask,), header=place)

    def _decoded(
        self, path: Path, files: Files, job: Job, file_class: str = ""
    ) -> tuple[values.Decoded, Geometry]:
        variant = self._variant
        image = values.stored(path, job, key=variant.key, with_colours=variant.colours)
        objects = None
        if variant.objects:
            second = inside(self._root, Template(variant.objects).filled(files.words))
            if second.is_file():
                key = variant.object_key or variant.key
                more = values.stored(second, job, key=key, with_colours=False)
                objects = values.distinct(more, second)
        classes = self._classes
        if any(not source.file for source in variant.names):
            classes = _renamed(names.named(self._root, variant, path), classes)
        found = values.distinct(image, path)
        made = values.decode(found, objects, variant, classes, path, file_class=file_class)
        if made.strange:
            listed = ", ".join(made.strange[:6]) + (" ..." if len(made.strange) > 6 else "")
            job.say(
                f"{path.name}: no class has {listed}; kept as labels of that name: correct the "
                "file, or list them in a profile"
            )
        return made, image.geometry

    def _many(self, item: Item, files: Files, job: Job) -> Sample:
        """Lay files of one object each over one grid."""
        parts, grid = [], None
        template = [Template(text) for text in self._variant.masks]
        for path in files.masks:
            word = _class_of_file(path, self._root, template)
            found, own = self._decoded(path, files, job, word)
            if grid is not None and own.shape != grid.shape:
                msg = f"expected masks of one shape for {item.name!r}, got {path.name}: {own.shape}"
                raise FormatError(f"{msg}; copy the files again")
            grid = grid or own
            parts.append(found)
        first = 1 + max((row.id for _, row in self._classes), default=0)
        total = sum(len(part.labels) for part in parts)
        layers = Layers(grid.shape if grid else (), first + total)
        counts: Counter[str] = Counter()
        for part in parts:
            for row in part.labels.values():
                region = part.ids == row.id
                if not region.any():
                    continue
                category = row.category or row.name
                counts[category] += 1
                made = replace(
                    row,
                    id=first,
                    name=f"{category} {counts[category]}",
                    category=category,
                    is_thing=True,
                )
                layers.add(made, [Piece((slice(None),) * region.ndim, region)])
                first += 1
        if grid is None:
            raise InputError(f"expected a mask of {item.name!r}, got none; copy the set again")
        masks = tuple(Mask(ids, grid, table) for ids, table in layers.found())
        return Sample(item, masks)


def _class_of_file(path: Path, root: Path, templates: list[Template]) -> str:
    """Return the class that a mask file's name tells, or empty text."""
    for template in templates:
        if "class" in template.words:
            words = template.words_of(path.relative_to(root).as_posix())
            if words:
                return words.get("class", "")
    return ""


def _renamed(
    own: tuple[tuple[int, Label], ...], scheme: tuple[tuple[int, Label], ...]
) -> tuple[tuple[int, Label], ...]:
    """Return a file's own classes with the rows that the dataset's scheme has under their names."""
    rows = {row.name: row for _, row in scheme}
    top = max((row.id for row in rows.values()), default=0)
    made = []
    for value, row in own:
        if row.name not in rows:
            top += 1
            rows[row.name] = replace(row, id=top, colour="")
        made.append((value, rows[row.name]))
    return tuple(made)


def _has(path: Path, pattern: str) -> bool:
    if "{" in pattern:
        return next(Template(pattern).found(path), None) is not None
    return next(path.glob(pattern), None) is not None


def met(path: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a folder holds something of each pattern; ``|`` stands between alternatives."""
    try:
        return path.is_dir() and all(
            any(_has(path, one.strip()) for one in pattern.split("|")) for pattern in patterns
        )
    except (OSError, ValueError, NotImplementedError):  # no folder, or no pattern
        return False


@cache
def format_for(name: str) -> DatasetFormat:
    """Return the dataset format of one of our own profiles."""
    profile = profiles.shipped(name)

    def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
        return opened(profile, path, job)

    return DatasetFormat(
        name=name,
        title=profile.title,
        sniff=lambda path: bool(profile.sniff) and met(path, profile.sniff),
        open=open_dataset,
        dims=profile.dims,
        layout=profile.layout,
        proof=profile.proof,
    )


def __getattr__(name: str) -> DatasetFormat:
    """Let the shelf name a profile as it names any object: ``maskfolder:camvid``."""
    if not (profiles.FOLDER / f"{name}.toml").is_file():
        raise AttributeError(name)
    return format_for(name)


def _open_own(path: Path, *, options: Options, job: Job) -> Dataset:
    """List a folder by the profile that the person gave, or by one that lies in it."""
    chosen = options.profile or path / PROFILE
    if options.profile is None and not chosen.is_file():
        msg = (
            f"expected a profile for the folder of masks {path.name}, got none; give one with "
            f"--profile FILE or put it there as {PROFILE} (docs/how-to/own-masks.md)"
        )
        raise InputError(msg)
    return opened(profiles.load(chosen), path, job)


PROFILE = "maskloop-profile.toml"
FORMAT = DatasetFormat(
    name="maskfolder",
    title="Pictures and masks, by a profile of your own",
    sniff=lambda path: (path / PROFILE).is_file(),
    open=_open_own,
    dims=frozenset({2, 3}),
    options=frozenset({"profile"}),
    layout=f"as the profile says (--profile FILE, or {PROFILE} in the folder)",
)
