"""Prepared volumes on disk, and crops drawn from them.

A volume is written once and read through a memory map, so that the memory a training takes does not
depend on how many cases it has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from maskloop.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

IGNORE = -1
"""Id of a voxel that nobody reviewed: it has no loss, and so no gradient."""

_SPOTS = 4096  # voxels remembered per kind and volume: enough to sample from, small enough to keep


class Prepared(Protocol):
    """One training volume at a network's grid and normalisation."""

    @property
    def data(self) -> npt.NDArray[np.float32]:
        """Network input, ``(channel, *spatial)``."""

    @property
    def ids(self) -> npt.NDArray[Any]:  # Any: whichever unsigned type holds the ids
        """Label ids, ``(*spatial)``, unsigned."""

    @property
    def reviewed(self) -> npt.NDArray[np.bool_] | None:
        """Where a person vouches for the ids; None where that is everywhere."""

    @property
    def categories(self) -> Mapping[int, int]:
        """Class of each object id; empty where ids are classes."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A `Prepared` volume as it lies on disk."""

    data: npt.NDArray[np.float32]
    ids: npt.NDArray[Any]  # Any: whichever unsigned type holds the ids
    reviewed: npt.NDArray[np.bool_] | None
    categories: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Patches:
    """Crops of one shape, stacked.

    Parameters
    ----------
    images : Tensor
        ``(n, channel, *spatial)``, float32.
    ids : Tensor
        ``(n, *spatial)``, int64; `IGNORE` where nobody reviewed and outside the volume.
    categories : list of dict
        For each crop, the class of each object id.
    """

    images: torch.Tensor
    ids: torch.Tensor
    categories: list[dict[int, int]]


class PatchStore:
    """Volumes in a folder, from which crops are drawn.

    Half the crops are centred on voxels that were corrected (where that is known) or carry a
    label, a quarter on the rarest class, a quarter anywhere that was reviewed.

    Parameters
    ----------
    folder : Path
        Where the volumes lie; made if absent. Volumes already there are used again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._names = sorted(p.parent.name for p in folder.glob("*/volume.json"))

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the volumes, in the order in which crops number them."""
        return tuple(self._names)

    def add(
        self, name: str, volume: Prepared, *, corrected: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Write a volume under `name`; complete or not at all.

        Parameters
        ----------
        name : str
            A file name; the volume of that name is replaced.
        volume : Prepared
            Data, ids, reviewed voxels and categories.
        corrected : array of bool, optional
            ``(*spatial)``, where a person changed what a model had said.

        Raises
        ------
        InputError
            If no voxel of the volume was reviewed: there is nothing to learn from.
        """
        reviewed = volume.reviewed
        if reviewed is not None and not reviewed.any():
            msg = (
                f"expected reviewed voxels in training volume {name!r}, got none; "
                f"review the case or leave it out"
            )
            raise InputError(msg)
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        np.save(folder / "data.npy", np.ascontiguousarray(volume.data, dtype=np.float32))
        np.save(folder / "ids.npy", np.ascontiguousarray(volume.ids))
        if reviewed is not None:
            np.save(folder / "reviewed.npy", np.ascontiguousarray(reviewed))
        for kind, spots in spots_of(volume, corrected).items():
            np.save(folder / f"{kind}.spots.npy", spots)
        categories = {str(k): int(v) for k, v in volume.categories.items()}
        # The last file written marks the volume as complete.
        (folder / "volume.json").write_text(json.dumps({"categories": categories}))
        self._names = sorted({*self._names, name})

    def volumes(self) -> Iterator[Stored]:
        """Yield the volumes one by one, read through memory maps."""
        for name in self._names:
            folder = self.folder / name
            seen = folder / "reviewed.npy"
            categories = json.loads((folder / "volume.json").read_text())["categories"]
            yield Stored(
                np.load(folder / "data.npy", mmap_mode="r"),
                np.load(folder / "ids.npy", mmap_mode="r"),
                np.load(seen, mmap_mode="r") if seen.exists() else None,
                {int(k): int(v) for k, v in categories.items()},
            )

    def draw(
        self,
        rng: np.random.Generator,
        shape: Sequence[int],
        *,
        count: int,
        reach: Sequence[int] | None = None,
    ) -> Patches:
        """Return `count` crops.

        Parameters
        ----------
        rng : numpy Generator
            Decides everything: the same state gives the same crops.
        shape : sequence of int
            Size of the crop that will be trained on, in voxels.
        count : int
            How many crops.
        reach : sequence of int, optional
            Size that is cut out, at least `shape`; the surplus is for an augmentation that turns
            or shrinks the picture.
        """
        size = tuple(reach if reach is not None else shape)
        images, ids, categories = [], [], []
        for _ in range(count):
            folder = self.folder / self._names[int(rng.integers(len(self._names)))]
            centre = self._centre(rng, folder, shape)
            image, cut, classes = _crop(folder, centre, size)
            images.append(torch.from_numpy(image))
            ids.append(torch.from_numpy(cut))
            categories.append(classes)
        return Patches(torch.stack(images), torch.stack(ids), categories)

    def _centre(
        self, rng: np.random.Generator, folder: Path, shape: Sequence[int]
    ) -> npt.NDArray[np.int64]:
        u = rng.random()
        kind = "corrected" if u < 0.5 else "rare" if u < 0.75 else "reviewed"
        found = np.load(folder / f"{kind}.spots.npy")
        if not len(found):
            found = np.load(folder / "reviewed.spots.npy")
        centre = found[int(rng.integers(len(found)))].astype(np.int64)
        # Off centre by up to a quarter, or the network learns that lesions sit in the middle.
        shift = [int(rng.integers(-(n // 4), n // 4 + 1)) for n in shape]
        moved: npt.NDArray[np.int64] = centre + np.array(shift, np.int64)
        return moved


def spots_of(
    volume: Prepared, corrected: npt.NDArray[np.bool_] | None = None
) -> dict[str, npt.NDArray[np.int32]]:
    """Return voxels on which crops may be centred: ``corrected``, ``rare`` and ``reviewed``.

    Where nothing is known to be corrected, every class has an equal share of ``corrected``.
    """
    rng = np.random.default_rng(0)
    vouched = np.ones(volume.ids.shape, bool) if volume.reviewed is None else volume.reviewed
    classes = _class_map(volume.ids, volume.categories)
    classes = np.where(vouched, classes, 0)
    present = [int(c) for c in np.unique(classes) if c]
    by_class = {c: _some(classes == c, rng) for c in present}
    counts = {c: int((classes == c).sum()) for c in present}
    empty = np.zeros((0, volume.ids.ndim), np.int32)
    rare = by_class[min(counts, key=lambda c: (counts[c], c))] if present else empty
    share = _SPOTS // max(1, len(present))
    changed = empty if corrected is None else _some(corrected & vouched, rng)
    if not len(changed) and present:
        changed = np.concatenate([found[:share] for found in by_class.values()])
    return {"corrected": changed, "rare": rare, "reviewed": _some(vouched, rng)}


def _class_map(ids: npt.NDArray[Any], categories: Mapping[int, int]) -> npt.NDArray[np.int64]:
    if not categories:
        return ids.astype(np.int64)
    table = np.zeros(int(max(ids.max(), max(categories))) + 1, np.int64)
    table[list(categories)] = list(categories.values())
    classes: npt.NDArray[np.int64] = table[ids]
    return classes


def _some(region: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.int32]:
    where = np.flatnonzero(region)
    if len(where) > _SPOTS:
        where = rng.choice(where, _SPOTS, replace=False)
    where = rng.permutation(where)
    return np.stack(np.unravel_index(where, region.shape), axis=1).astype(np.int32)


def _crop(
    folder: Path, centre: npt.NDArray[np.int64], size: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], dict[int, int]]:
    """Cut a box of `size`; a smaller volume repeats its edge, which counts as not reviewed."""
    data = np.load(folder / "data.npy", mmap_mode="r")
    ids = np.load(folder / "ids.npy", mmap_mode="r")
    box, pads = [], []
    for middle, want, have in zip(centre, size, ids.shape, strict=True):
        start = int(middle) - want // 2
        if want <= have:
            start = min(max(start, 0), have - want)
            box.append(slice(start, start + want))
            pads.append((0, 0))
        else:
            before = (want - have) // 2
            box.append(slice(0, have))
            pads.append((before, want - have - before))
    where = tuple(box)
    image = np.pad(np.asarray(data[(slice(None), *where)]), [(0, 0), *pads], mode="edge")
    cut = np.asarray(ids[where]).astype(np.int64)
    if (folder / "reviewed.npy").exists():
        vouched = np.load(folder / "reviewed.npy", mmap_mode="r")[where]
        cut = np.where(vouched, cut, IGNORE)
    cut = np.pad(cut, pads, constant_values=IGNORE)
    stored = json.loads((folder / "volume.json").read_text())["categories"]
    here = {int(i) for i in np.unique(cut) if i > 0} if stored else set()
    return image, cut, {int(k): int(v) for k, v in stored.items() if int(k) in here}
