"""Two models on one image, or two masks: where they agree, where not, and how much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.ops.aligned import aligned
from maskloop.ops.differences import (
    AGREE,
    ONLY_A,
    ONLY_B,
    OTHER,
    Difference,
    agreement,
    require_comparable,
)
from maskloop.ops.differences import differences as regions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from maskloop.core.labels import Kind
    from maskloop.core.mask import Mask
    from maskloop.formats.base import Choices
    from maskloop.formats.verify import Receipt

BACKGROUND = "background"
# Told apart with every common colour blindness (Okabe & Ito).
_COLOURS = {AGREE: "#009e73", ONLY_A: "#e69f00", ONLY_B: "#56b4e9", OTHER: "#cc79a7"}


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """How well two masks agree on one class; `dice` is None where neither has it."""

    id: int
    name: str
    dice: float | None
    voxels_a: int
    voxels_b: int


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What two masks of one image have in common, and what not.

    Parameters
    ----------
    names : tuple of str
        What A and B are called.
    a, b : Mask
        As they came: a model's objects still are objects.
    classes : LabelTable
        The classes of both, numbered alike; ids of `differences` mean these.
    agreement : Mask
        1 where both drew one class, 2 where A alone drew, 3 where B alone, 4 where both drew, but
        other classes.
    labels : tuple of ClassAgreement
        One a class.
    differences : tuple of Difference
        Connected regions that they see differently, the largest first.
    total, left_out_voxels : int
        How many such regions there are in all; voxels of those not listed.
    notes : tuple of str
        What the person should read.
    """

    names: tuple[str, str]
    a: Mask
    b: Mask
    classes: LabelTable
    agreement: Mask
    labels: tuple[ClassAgreement, ...]
    differences: tuple[Difference, ...]
    total: int
    left_out_voxels: int
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Voxels that are ``alike``, ``only_a``, ``only_b`` or of ``other_class``."""
        from maskloop.ops.measure import counts

        found = counts(self.agreement.data)
        kinds = {"alike": AGREE, "only_a": ONLY_A, "only_b": ONLY_B, "other_class": OTHER}
        return {name: found.get(number, 0) for name, number in kinds.items()}

    @property
    def share(self) -> float | None:
        """Voxels alike, of all that either drew; None where both drew nothing."""
        found = self.counts
        drawn = sum(found.values())
        return found["alike"] / drawn if drawn else None

    def class_name(self, number: int) -> str:
        """Return what a class id of `differences` is called."""
        return self.classes[number].name if number else BACKGROUND

    def rows(self) -> list[dict[str, Any]]:  # Any: plain JSON values
        """Return the differences as JSON-ready rows."""
        grid = self.agreement.geometry
        unit = f"{grid.unit}{grid.ndim}" if grid.unit == "mm" else grid.unit
        return [
            {
                "number": one.number,
                "a": self.class_name(one.a),
                "b": self.class_name(one.b),
                "voxels": one.voxels,
                "size": one.size,
                "unit": unit,
                "slice": one.slice,
                "place": list(one.place),
                "box": [[part.start, part.stop] for part in one.box],
            }
            for one in self.differences
        ]

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values."""
        sources = (self.a.source, self.b.source)
        return {
            **{
                side: {"name": name, "source": None if source is None else str(source)}
                for side, name, source in zip("ab", self.names, sources, strict=True)
            },
            "classes": [
                {
                    "id": row.id,
                    "name": row.name,
                    "dice": row.dice,
                    "voxels": {"a": row.voxels_a, "b": row.voxels_b},
                }
                for row in self.labels
            ],
            "agreement": {**self.counts, "share": self.share},
            "differences": self.rows(),
            "total": self.total,
            "left_out_voxels": self.left_out_voxels,
            "notes": list(self.notes),
        }


def compare(
    image: Image | Path | str,
    models: Sequence[str],
    *,
    device: str = "auto",
    choices: Choices | None = None,
    smallest: int = 1,
    most: int = 500,
    job: Job | None = None,
) -> Comparison:
    """Let two models segment one image and compare what they drew.

    Parameters
    ----------
    image : Image, Path or str
        Without a time axis.
    models : sequence of two str
        Names on the menu. They run one after the other; only one is in memory at a time.
    device : str
        As for `maskloop.predict`.
    choices : Choices, optional
        As for `maskloop.load`.
    smallest, most : int
        As for `compare_masks`.
    job : Job, optional
        Progress and cancel.

    Raises
    ------
    InputError
        If there are not two models, or as for `maskloop.predict`.
    UnknownNameError, WeightsError, DeviceError, Cancelled
        As for `maskloop.predict`.
    """
    from maskloop.loop.load import load
    from maskloop.loop.predict import predict
    from maskloop.models.cards import find_card

    job = job or Job()
    if len(models) != 2 or models[0] == models[1]:
        msg = f"expected two different models to compare, got {list(models)!r}; name two"
        raise InputError(msg)
    for model in models:  # a misspelt second name must not cost the first model's run
        find_card(model)
    pixels = image if isinstance(image, Image) else load(image, choices=choices, job=job)
    found = [predict(pixels, model, device=device, job=job) for model in models]
    told = [f"{one.model}: {note}" for one in found for note in one.notes]
    a, b = (replace(one.mask, source=None, title=one.model) for one in found)
    made = compare_masks(a, b, smallest=smallest, most=most, job=job)
    return replace(made, notes=(*told, *made.notes))


def compare_masks(
    a: Mask | Path | str,
    b: Mask | Path | str,
    *,
    names: tuple[str, str] | None = None,
    kind: Kind | None = None,
    smallest: int = 1,
    most: int = 500,
    job: Job | None = None,
) -> Comparison:
    """Compare two masks of one image, class by class and region by region.

    Classes are matched by name, upper and lower case alike; objects by their category. Where each
    mask has a single class, these are matched whatever they are called. Voxels that either mask
    ignores are left out.

    Parameters
    ----------
    a, b : Mask, Path or str
        Masks, or files that `load_mask` reads.
    names : tuple of str, optional
        What they are called; their own names where left out.
    kind : {"classes", "objects"}, optional
        What ids without a label table are; in volumes in mm classes unless told.
    smallest : int
        Regions of fewer voxels are counted, not listed.
    most : int
        How many regions are listed at most.
    job : Job, optional
        Progress and cancel.

    Raises
    ------
    GeometryError
        If the masks lie on different grids.
    InputError
        If a mask has a time axis, or `smallest` or `most` is below 1.
    """
    job = job or Job()
    if smallest < 1 or most < 1:
        msg = f"expected sizes and counts of at least 1, got {min(smallest, most)}; raise them"
        raise InputError(msg)
    first, second = (_loaded(mask, kind, job) for mask in (a, b))
    require_comparable(first, second)
    called = names or _names(first, second)
    job.report("compare", 0, 3)
    one, other, classes, notes = aligned(first, second, kind)
    job.report("compare", 1, 3)
    kinds = agreement(one, other)
    job.report("compare", 2, 3)
    found = regions_of(one, other, smallest=smallest, most=most)
    job.report("compare", 3, 3)
    hidden = found.total - len(found.regions)
    if hidden:
        notes = [
            *notes,
            f"{hidden} smaller region{'s' * (hidden != 1)} not listed, "
            f"{found.left_out_voxels} voxels in all",
        ]
    return Comparison(
        called,
        first,
        second,
        classes,
        _map(first, kinds, called),
        _scored(one, other),
        found.regions,
        found.total,
        found.left_out_voxels,
        tuple(notes),
    )


def write_agreement(found: Comparison, out: Path | str, *, job: Job | None = None) -> Receipt:
    """Write the agreement map as `maskloop.export` writes a mask.

    Raises
    ------
    MaskloopError
        As for `maskloop.export`.
    """
    from maskloop.loop.export import export

    return export(found.agreement, out, job=job)


def write_differences(found: Comparison, path: Path | str) -> Path:
    """Write the list of differences as CSV, a line a region."""
    from maskloop.desk.measure import to_csv

    return to_csv(found.rows(), path)


def _loaded(mask: Mask | Path | str, kind: Kind | None, job: Job) -> Mask:
    if isinstance(mask, Path | str):
        from maskloop.loop.load import load_mask

        mask = load_mask(mask, kind=kind, job=job)
    return mask.checked()


def _names(a: Mask, b: Mask) -> tuple[str, str]:
    return (a.name, b.name) if a.name != b.name else (f"{a.name} (A)", f"{b.name} (B)")


def _map(mask: Mask, kinds: npt.NDArray[np.uint8], names: tuple[str, str]) -> Mask:
    words = {
        AGREE: "both alike",
        ONLY_A: f"only {names[0]}",
        ONLY_B: f"only {names[1]}",
        OTHER: "another class",
    }
    rows = [Label(number, text, _COLOURS[number]) for number, text in words.items()]
    title = f"{names[0]} or {names[1]}"
    return replace(mask, data=kinds, labels=LabelTable(rows), source=None, header=None, title=title)


def _scored(a: Mask, b: Mask) -> tuple[ClassAgreement, ...]:
    from maskloop.ops.scores import score_masks

    return tuple(
        ClassAgreement(row.id, row.name, row.dice, row.voxels_predicted, row.voxels_truth)
        for row in score_masks(a, b, surfaces=False)
    )
