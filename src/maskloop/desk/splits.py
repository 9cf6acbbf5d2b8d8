"""Split a dataset by patient, slide or video: always the same way, never through a group."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from maskloop.core.errors import InputError, StorageError
from maskloop.core.files import put, sha256_of
from maskloop.core.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from maskloop.core.dataset import Dataset, Item

    Rule = str | Mapping[str, str] | None

# A name that ends so is one of many cut from a volume, a video or a slide.
_CUT = re.compile(
    r"(.+?)[_\-. /](?:slice|slc|frame|tile|patch|crop|z|t)[_\-]?\d+(?:[_\-]\d+)*", re.IGNORECASE
)
_BLOCK = 1 << 16  # bytes looked at before whole files are
_TRIES = 64  # orders tried for fractions that whole groups come near
_FAR = 0.05  # of all items: from here on a share that was missed is told


def shares_of(text: str) -> dict[str, float]:
    """Return the shares that ``"train=0.8,val=0.1,test=0.1"`` names.

    Raises
    ------
    InputError
        If a part has no name or no number, or a name comes twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, sign, number = (word.strip() for word in part.partition("="))
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not (name and sign) or math.isnan(share) or name in found:
            msg = (
                f"expected shares such as train=0.8,val=0.1,test=0.1, got {part.strip()!r} in "
                f"{text!r}; write each name once, with its share"
            )
            raise InputError(msg)
        found[name] = share
    return found


def groups_of(dataset: Dataset, by: Rule = None, *, job: Job | None = None) -> list[str]:
    """Return the group of each item: what must lie on one side of a split.

    Items whose picture files are equal byte by byte always share a group, whatever the rule.

    Parameters
    ----------
    dataset : Dataset
    by : str or mapping, optional
        ``"folder"`` (the folder in the item's name), ``"item"`` (each item alone), a regular
        expression found in the item's name (its first group where it has one), or the group by
        item name. Where left out the dataset's own groups; items without one stand alone, except
        slices, frames and tiles whose names say so (``scan_slice012``).
    job : Job, optional
        Told what was guessed.

    Raises
    ------
    InputError
        If the rule is no regular expression, or says nothing about an item.
    """
    from maskloop.training.cases import patients_of

    job = job or Job()
    items = dataset.items
    if by is None:
        found = [_own_group(item) for item in items]
        guessed = {
            g for item, g in zip(items, found, strict=True) if not item.group and g != item.name
        }
        if guessed:
            job.say(
                f"{dataset.name}: {len(guessed)} groups were taken from the names, such as "
                f"{min(guessed)!r}: their items are slices, frames or tiles of one thing; name "
                "another rule if that is wrong"
            )
        elif not any(item.group for item in items):
            job.say(
                f"{dataset.name}: no groups are known, each item stands alone; name a rule if "
                "several show one patient, slide or video"
            )
    elif by == "item":
        found = [item.name for item in items]
    elif by == "folder":
        parents = [PurePosixPath(item.name).parent.as_posix() for item in items]
        found = [i.name if p == "." else p for i, p in zip(items, parents, strict=True)]
    else:
        found = patients_of(items, by)
    return _linked(found, _copies(items, job))


def _own_group(item: Item) -> str:
    if item.group:
        return item.group
    cut = _CUT.fullmatch(item.name)
    return cut.group(1) if cut else item.name


def _copies(items: Sequence[Item], job: Job) -> list[list[int]]:
    """Return the items, by position, whose picture files are equal.

    Sizes are looked at first, then some blocks: only what is still alike is read as a whole.
    """
    files = {n: item.image for n, item in enumerate(items) if item.image is not None}
    alike = _alike({n: path for n, path in files.items() if path.is_file()}, _size_of)
    alike = [more for numbers in alike for more in _alike({n: files[n] for n in numbers}, _sampled)]
    found: list[list[int]] = []
    for numbers in job.track(alike, "look for copies"):
        found += _alike({n: files[n] for n in numbers}, sha256_of)
    if found:
        names = [items[n].name for n in max(found, key=len)]
        job.say(
            f"{sum(map(len, found)):,} items show {len(found):,} pictures that are equal byte by "
            f"byte, such as {names[0]!r} and {names[1]!r}: items of one picture stay together"
        )
    return found


def _alike(files: Mapping[int, Path], print_of: Callable[[Path], object]) -> list[list[int]]:
    """Return the files that have one print, where there are several."""
    by_print: dict[object, list[int]] = defaultdict(list)
    for number, path in files.items():
        by_print[print_of(path)].append(number)
    return [numbers for numbers in by_print.values() if len(numbers) > 1]


def _size_of(path: Path) -> int:
    return os.stat(path).st_size


def _sampled(path: Path) -> bytes:
    """Return a digest of the first, the middle and the last block of a file."""
    digest = hashlib.sha256()
    size = _size_of(path)
    with path.open("rb") as file:
        for start in (0, size // 2, max(0, size - _BLOCK)):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.digest()


def _linked(groups: list[str], alike: list[list[int]]) -> list[str]:
    """Return the groups with those joined that share a picture, however indirectly."""
    parent: dict[str, str] = {g: g for g in groups}

    def top(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for numbers in alike:
        tops = {top(groups[n]) for n in numbers}
        for one in tops:
            parent[one] = min(tops)
    return [top(g) for g in groups]


def assigned(
    dataset: Dataset,
    fractions: Mapping[str, float],
    seed: int = 0,
    *,
    by: Rule = None,
    job: Job | None = None,
) -> Dataset:
    """Return the dataset with each item's `split` and `group` set; no group is ever cut.

    The choice follows from the seed and the groups' names alone: the order of items changes
    nothing. Splits that the dataset had are replaced.

    Parameters
    ----------
    dataset : Dataset
    fractions : mapping of str to float
        Share of the items in each split, > 0, 1 in all.
    seed : int
        Another seed chooses others.
    by : str or mapping, optional
        The rule of groups; see `groups_of`.
    job : Job, optional
        Told how near whole groups come, and what was guessed.

    Raises
    ------
    InputError
        If the fractions do not sum to 1, the rule cannot be used, or there are fewer groups than
        splits: then no split without a leak exists.
    """
    job = job or Job()
    _require_shares(fractions)
    groups = groups_of(dataset, by, job=job)
    sizes = Counter(groups)
    _require_enough(dataset, sizes, len(fractions), "splits")
    if any(item.split for item in dataset.items):
        job.say(f"{dataset.name}: its own splits are replaced")
    split_of = _nearest(sizes, fractions, seed)
    have = Counter(split_of[g] for g in groups)
    for name, share in fractions.items():
        got = have[name] / len(groups)
        if abs(got - share) >= _FAR:
            job.say(
                f"split {name!r} holds {have[name]:,} of {len(groups):,} items ({got:.0%}) instead "
                f"of {share:.0%}: none of the {len(sizes):,} groups was cut, and the largest has "
                f"{max(sizes.values()):,} items"
            )
    return replace(
        dataset,
        items=tuple(
            replace(item, group=group, split=split_of[group])
            for item, group in zip(dataset.items, groups, strict=True)
        ),
    )


def folds(
    dataset: Dataset, count: int, seed: int = 0, *, by: Rule = None, job: Job | None = None
) -> list[dict[str, list[str]]]:
    """Return `count` ways to train and validate; each item is validated once, no group is cut.

    Returns
    -------
    list of dict
        ``{"train": [names], "val": [names]}``, as nnU-Net's ``splits_final.json`` holds it.

    Raises
    ------
    InputError
        If `count` is below 2, the rule cannot be used, or there are fewer groups than folds.
    """
    if count < 2:
        msg = f"expected at least 2 folds, got {count}; give 5, say"
        raise InputError(msg)
    groups = groups_of(dataset, by, job=job)
    sizes = Counter(groups)
    _require_enough(dataset, sizes, count, "folds")
    numbers = [str(n) for n in range(count)]
    fold_of = _nearest(sizes, dict.fromkeys(numbers, 1 / count), seed)
    pairs = list(zip(dataset.items, groups, strict=True))
    return [
        {
            "train": sorted(item.name for item, g in pairs if fold_of[g] != n),
            "val": sorted(item.name for item, g in pairs if fold_of[g] == n),
        }
        for n in numbers
    ]


def names_of(dataset: Dataset) -> dict[str, list[str]]:
    """Return the names of the items of each split."""
    found: dict[str, list[str]] = {}
    for item in sorted(dataset.items, key=lambda item: item.name):
        found.setdefault(item.split or "none", []).append(item.name)
    return dict(sorted(found.items()))


def write_names(found: object, path: Path | str) -> Path:
    """Write what `names_of` or `folds` returned as JSON.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    path = Path(path)
    try:
        put(path, (json.dumps(found, indent=1) + "\n").encode(), mode=0o644)
    except OSError as error:
        msg = (
            f"expected to write {str(path)!r}, but the system answered {error.strerror!r}; check "
            "the folder and the disk"
        )
        raise StorageError(msg) from error
    return path


def leaks(dataset: Dataset, by: Rule = None, *, job: Job | None = None) -> list[str]:
    """Return in words which groups lie in more than one of the dataset's own splits."""
    where: dict[str, set[str]] = defaultdict(set)
    for item, group in zip(dataset.items, groups_of(dataset, by, job=job), strict=True):
        if item.split:
            where[group].add(item.split)
    return [
        f"{group!r} lies in {', '.join(sorted(splits))}"
        for group, splits in sorted(where.items())
        if len(splits) > 1
    ]


def _require_shares(fractions: Mapping[str, float]) -> None:
    total = sum(fractions.values())
    if (
        not fractions
        or any(not share > 0 or not math.isfinite(share) for share in fractions.values())
        or abs(total - 1) > 1e-6
    ):
        told = ", ".join(f"{name}={share:g}" for name, share in fractions.items()) or "none"
        msg = f"expected shares above 0 that sum to 1, got {told}; correct them"
        raise InputError(msg)
    for name in fractions:
        if not re.fullmatch(r"\w[\w-]*", name):
            msg = f"expected a split's name of letters, digits, _ and -, got {name!r}; change it"
            raise InputError(msg)


def _require_enough(dataset: Dataset, sizes: Counter[str], count: int, what: str) -> None:
    if len(sizes) >= count:
        return
    msg = (
        f"expected at least {count} groups for as many {what}, got {len(sizes)} in {dataset.name} "
        f"({len(dataset.items):,} items): any split would show the same patient, slide or video on "
        "both sides; ask for fewer, add data, or name another rule of groups"
    )
    raise InputError(msg)


def _nearest(sizes: Counter[str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the split of each group: of many orders the one that comes nearest the fractions."""
    total = sizes.total()
    wanted = {name: share * total for name, share in fractions.items()}
    best: tuple[float, dict[str, str]] | None = None
    for number in range(_TRIES):
        found = _filled(_shuffled(sizes, f"{seed}:{number}"), sizes, wanted)
        have: Counter[str] = Counter()
        for group, split in found.items():
            have[split] += sizes[group]
        miss = sum(abs(have[name] - wanted[name]) for name in wanted)
        if best is None or miss < best[0]:
            best = miss, found
        if miss < len(wanted):  # no item could be moved for the better
            break
    return best[1] if best else {}


def _shuffled(sizes: Counter[str], salt: str) -> list[str]:
    return sorted(sizes, key=lambda group: hashlib.sha256(f"{salt}:{group}".encode()).digest())


def _filled(order: list[str], sizes: Counter[str], wanted: Mapping[str, float]) -> dict[str, str]:
    """Give each group in turn to the split that lacks most; none stays empty."""
    lacking = dict(wanted)
    empty = set(wanted)
    found = {}
    for position, group in enumerate(order):
        left = len(order) - position
        open_ = [n for n in wanted if n in empty] if left <= len(empty) else list(wanted)
        split = max(open_, key=lambda name: lacking[name])
        found[group] = split
        lacking[split] -= sizes[group]
        empty.discard(split)
    return found
