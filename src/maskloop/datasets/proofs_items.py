"""Prove a dataset of any format by reading it: items, pictures, tables, splits, the receipt."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from maskloop.core.errors import Cancelled, InputError, MaskloopError
from maskloop.core.files import sha256_of
from maskloop.datasets.base import class_of, inside, read_image
from maskloop.datasets.proofs import shown
from maskloop.datasets.proofs_structure import picture_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from maskloop.core.dataset import Dataset, Item, Sample
    from maskloop.core.job import Job
    from maskloop.datasets.base import DatasetFormat, Options
    from maskloop.datasets.proofs import Findings

# What readers of others, registered by an entry point, may raise at a damaged file.
FAILURES = (
    MaskloopError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RecursionError,
)
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp")


def opened(
    path: Path, chosen: DatasetFormat, options: Options, findings: Findings, job: Job
) -> Dataset | None:
    """Return the dataset; None, and told, where it does not open."""
    if chosen.open is None:
        msg = f"expected a format that can be read, got {chosen.name!r}; it can be written only"
        raise InputError(msg)
    try:
        found = chosen.open(path, options=options, job=job)
        count = len(found.items)
        names = Counter(item.name for item in found.items)
    except Cancelled:
        raise
    except FAILURES as error:
        findings.add("D0", f"expected {chosen.title}, got {said(error)}", path.name)
        return None
    for name, times in names.items():
        if times > 1:
            findings.add("D0", f"expected the name once, got it {times} times", name)
    if not count or not any(item.has_mask for item in found.items):
        findings.add("D8", f"expected items with masks, got {count} items and none", path.name)
    for notice in found.notices:
        findings.add("D10", notice, path.name)
    return found


def said(error: BaseException) -> str:
    """Return what an error says, short, with its class where that is not one of ours."""
    words = " ".join(str(error).split())
    kind = "" if isinstance(error, MaskloopError) else f"{type(error).__name__}: "
    return f"{kind}{words[:400]}"


def check_items(
    dataset: Dataset,
    findings: Findings,
    job: Job,
    *,
    has_slices: bool = False,
    look: Callable[[Sample], None] | None = None,
) -> None:
    """Read every item and prove its table, its values and its picture.

    Parameters
    ----------
    has_slices : bool
        Whether pictures are proved elsewhere, so that items need none of their own.
    look : callable, optional
        Gets every sample that could be read.
    """
    _check_groups(dataset, findings)
    if not has_slices:
        _check_pairs(dataset, findings)
    names = {row.name for row in dataset.scheme.values()}
    for item in job.track(dataset.items, "read items"):
        picture = _picture_shape(item, findings, job)
        if not item.has_mask:
            continue
        try:
            sample = dataset.read(item, job)
        except Cancelled:
            raise
        except FAILURES as error:
            findings.add("D1", f"expected its masks, got {said(error)}", item.name)
            continue
        _check_tables(sample, names, findings)
        _check_shape(sample, picture, findings)
        if look is not None:
            look(sample)


def _check_groups(dataset: Dataset, findings: Findings) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for item in dataset.items:
        if item.group and item.split:
            splits[item.group].add(item.split)
    for group, held in sorted(splits.items()):
        if len(held) > 1:
            words = f"expected the group in one split, got it in {', '.join(sorted(held))}"
            findings.add("D7", words, f"group {group}")


def _check_pairs(dataset: Dataset, findings: Findings) -> None:
    bare = [item.name for item in dataset.items if item.image is None]
    if bare and len(bare) == len(dataset.items):
        words = f"expected pictures, got none for any of {len(bare)} items"
        findings.add("D3", words, dataset.root.name, severity="warning")
    else:
        for name in bare:
            findings.add("D3", "expected a picture, got none", name)
    drawn = {item.split for item in dataset.items if item.has_mask}
    for item in dataset.items:
        if not item.has_mask and item.split in drawn:
            findings.add("D5", "expected a mask beside the picture, got none", item.name)


def _picture_shape(item: Item, findings: Findings, job: Job) -> tuple[int, ...] | None:
    """Return the last axes of an item's picture; None, and told, where it does not open."""
    if item.image is None:
        return None
    if not item.image.exists():
        findings.add("D3", f"expected {item.image.name}, got no such file", item.name)
        return None
    try:
        if item.image.suffix.lower() in _PICTURES:
            width, height, _ = picture_size(item.image)
            return height, width
        return read_image(item, job).geometry.shape
    except Cancelled:
        raise
    except FAILURES as error:
        findings.add("D3", f"expected a picture that opens, got {said(error)}", item.name)
        return None


def _check_tables(sample: Sample, names: set[str], findings: Findings) -> None:
    seen: set[int] = set()
    for mask in sample.masks:
        ids = set(mask.ids())
        nameless = sorted(ids - set(mask.labels))
        if nameless:
            findings.add(
                "D2",
                f"expected a row for each id, got none for {shown(nameless)}",
                sample.item.name,
            )
        twice = sorted(seen & ids)
        if twice:
            words = f"expected ids of one mask only, got {shown(twice)} in two"
            findings.add("D2", words, sample.item.name)
        seen |= ids
        rows = [mask.labels[i] for i in sorted(ids) if i in mask.labels]
        for row in rows:
            if not class_of(row).strip():
                findings.add("D2", f"expected a name for id {row.id}, got none", sample.item.name)
        strange = sorted({class_of(row) for row in rows if not row.ignore} - names)
        if names and strange:
            words = f"expected classes of the dataset, got {shown(strange)}"
            findings.add("D6", words, sample.item.name)


def _check_shape(sample: Sample, picture: tuple[int, ...] | None, findings: Findings) -> None:
    shapes = {mask.data.shape for mask in sample.masks}
    if len(shapes) > 1:
        words = f"expected masks of one shape, got {sorted(shapes)}"
        findings.add("D4", words, sample.item.name)
    shape = sample.masks[0].data.shape
    for other in (picture, sample.item.shape):
        if other is not None and tuple(other) != shape[-len(other) :]:
            words = f"expected a mask of shape {tuple(other)}, as its picture's, got {shape}"
            findings.add("D4", words, sample.item.name)
            return


def check_receipt(path: Path, findings: Findings, job: Job) -> None:
    """Prove that the files of a dataset that we wrote are those of its receipt."""
    listed: object = None
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        listed = json.loads((path / "receipt.json").read_text(encoding="utf-8")).get("sha256")
    if not isinstance(listed, dict):
        return
    for name, stated in job.track(sorted(listed.items()), "compare with the receipt"):
        try:
            file = inside(path, name)
            if not file.is_file():
                findings.add("D9", "expected the file, got none", name)
            elif sha256_of(file) != stated:
                findings.add("D9", "expected the file as written, got another content", name)
        except (InputError, OSError) as error:
            findings.add("D9", f"expected the file, got {said(error)}", shown(name))
