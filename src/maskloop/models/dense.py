"""Body of voxel-wise networks: tile what is posed for the net, bring the labels back."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.core.image import smallest_unsigned
from maskloop.models import base
from maskloop.models.base import IGNORE, Batch, Segmentation, Volume
from maskloop.models.posing import levelled, pose, require_usable, slices_of
from maskloop.ops import candidates, guided, resample
from maskloop.ops.candidates import Chances

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor, nn

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.models.cards import ModelCard
    from maskloop.ops.device import Device, Rung


def label_ids(labels: LabelTable) -> npt.NDArray[Any]:
    """Return the label id of each class index: 0, then the table's ids in order."""
    ids = [0, *labels]
    return np.array(ids, dtype=smallest_unsigned(max(ids)))


def _slice_note(planes: Sequence[Image], axis: int) -> str:
    return f"2D network: {len(planes)} slices along axis {axis} one by one"


class DenseFamily:
    """What voxel-wise families share; a family adds names, `card` and `build`.

    `card.parameters` read here, besides those of `pose`: ``tile`` (voxels; the patch where not
    told), ``patch``, ``overlap`` (0.5), ``batch`` (4), ``margin`` (0: voxels at a tile's rim that
    are not trusted), ``fixed_tile`` (False: whether a smaller tile would change the result),
    ``multiple`` (1: what a tile's sides must be divisible by), ``grain`` (1: what the places of
    tiles must be divisible by, so that all pool the same voxels together), ``whole`` (0: voxels up
    to which an image is seen at once, not by tiles), ``augmentation`` (list of names), ``heads``
    (names of the tensors that belong to the classes), ``loss`` (``"cross-entropy"``; Dice plus
    cross-entropy where not told), ``refine`` (a `maskloop.ops.guided.Refinement`: draws the
    answer's edges to the picture's).
    """

    name = ""
    title = ""
    tasks: tuple[str, ...] = ("semantic",)
    ndims: tuple[int, ...] = (2, 3)
    variants: tuple[str, ...] = ()
    is_trainable = True

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network; see `Family.card`."""
        raise NotImplementedError

    def known(self, variant: str) -> str:
        """Return `variant`, the first named where it is empty; raise `UnknownNameError` if none."""
        variant = variant or self.variants[0]
        if variant not in self.variants:
            raise UnknownNameError.of(f"variant of {self.name}", variant, list(self.variants))
        return variant

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; see `Family.build`."""
        raise NotImplementedError

    def load(self, card: ModelCard, files: Mapping[str, Path]) -> nn.Module:
        """Return the network with the weights in `files`, in eval mode."""
        return base.load_strict(self.build(card), files, name=card.name)

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return class scores ``(n, k, *spatial)`` of a batch, before any softmax."""
        found: Tensor = network(images)
        return found

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return `logits`, to be looked at."""
        return self.logits(network, images)

    def settles(self, card: ModelCard) -> bool:
        """Whether the highest score is not yet the answer: `settle` is to be asked."""
        return bool(card.parameters.get("refine"))

    def settle(
        self,
        chances: npt.NDArray[np.float32],
        data: npt.NDArray[np.float32],
        *,
        card: ModelCard,
    ) -> npt.NDArray[np.float32]:
        """Return probabilities that also heed what is around a voxel.

        Parameters
        ----------
        chances : float32 array ``(k, *spatial)``
            Of every class, the background first; they sum to 1. May be overwritten.
        data : float32 array ``(c, *spatial)``
            The posed picture.
        card : ModelCard

        Returns
        -------
        float32 array ``(k, *spatial)``
            They sum to 1.
        """
        asked = guided.Refinement.of(card.parameters.get("refine"))
        return chances if asked is None else guided.refine(chances, data, asked)

    def segment(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return the label of each voxel on the image's own grid."""
        return self._segment(network, image, card, device, job, things=())

    def segment_with_chances(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return the same labels, and how likely things are where they were not drawn."""
        return self._segment(network, image, card, device, job, things=base.things_of(card))

    def _segment(
        self,
        network: nn.Module,
        image: Image,
        card: ModelCard,
        device: Device,
        job: Job,
        *,
        things: tuple[int, ...],
    ) -> Segmentation:
        require_usable(image, card)
        if image.geometry.ndim == card.ndim:
            ids, chances, notes = self._segment_one(network, image, card, device, job, things)
            return Segmentation(ids, card.labels, notes, chances=chances)
        image, card, notes = levelled(image, card)
        axis, planes = slices_of(image)
        found, codes = [], []
        for plane in job.track(planes, "slices"):
            ids, chances, more = self._segment_one(network, plane, card, device, job, things)
            found.append(ids)
            if chances is not None:
                codes.append(chances.codes)
        note = _slice_note(planes, axis)
        ids = np.moveaxis(np.stack(found), 0, axis)
        chances = Chances(np.moveaxis(np.stack(codes), 0, axis), things) if codes else None
        return Segmentation(ids, card.labels, (note, *notes, *more), chances=chances)

    def _segment_one(
        self,
        network: nn.Module,
        image: Image,
        card: ModelCard,
        device: Device,
        job: Job,
        things: tuple[int, ...],
    ) -> tuple[npt.NDArray[Any], Chances | None, tuple[str, ...]]:
        posed = pose(image, card)
        lookup = label_ids(card.labels)
        watched = tuple(int(np.flatnonzero(lookup == i)[0]) for i in things)
        indices, codes = self.infer(
            network, posed.data, card=card, device=device, job=job, things=watched
        )
        chances = None
        if codes is not None:
            found = Chances(codes, things).on_shape(posed.turned.shape)
            chances = replace(found, codes=posed.unturn(found.codes))
        if indices.shape != posed.turned.shape:
            indices = resample.labels(indices, posed.turned.shape, n=len(card.labels) + 1)
        return lookup[posed.unturn(indices)], chances, posed.notes

    def infer(
        self,
        network: nn.Module,
        data: npt.NDArray[np.float32],
        *,
        card: ModelCard,
        device: Device,
        job: Job,
        things: tuple[int, ...] = (),
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]:
        """Return class indices on the grid of `data` (or on the image's), by tiles.

        Steps down the memory ladder; the tile stays where the card says ``fixed_tile``. Beside
        them, on the same grid, the codes of `Chances` for the class indices in `things`; None
        where there are none. Scores of the whole exist only where `settles` says so.
        """
        from maskloop.ops import tiling

        if self.settles(card):
            chances = self._chances(network, data, card, device, job)
            codes = candidates.encode(chances[list(things)]) if things else None
            return winners(chances), codes
        watch = tiling.Watch(things) if things else None
        run = partial(tiling.predict_labels, watch=watch)
        indices = self._by_tiles(run, network, data, card, device, job)
        return indices, None if watch is None else watch.codes

    def scores(
        self,
        network: nn.Module,
        data: npt.NDArray[np.float32],
        *,
        card: ModelCard,
        device: Device,
        job: Job,
    ) -> npt.NDArray[np.float32]:
        """Return class scores ``(k, *spatial)`` on the grid of `data`, by tiles."""
        from maskloop.ops import tiling

        return self._by_tiles(tiling.predict_scores, network, data, card, device, job)

    def probabilities(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> npt.NDArray[np.float32]:
        """Return ``(1 + labels, *shape of the image)``: background, then the card's labels.

        They sum to 1. Between the voxels of the network's grid they are interpolated linearly.
        """
        require_usable(image, card)
        if image.geometry.ndim == card.ndim:
            found, notes = self._probabilities_one(network, image, card, device, job)
        else:
            image, card, notes = levelled(image, card)
            axis, planes = slices_of(image)
            found = np.empty((len(card.labels) + 1, *image.geometry.shape), np.float32)
            slices = np.moveaxis(found, axis + 1, 0)
            for number, plane in enumerate(job.track(planes, "slices")):
                slices[number], more = self._probabilities_one(network, plane, card, device, job)
            notes = (_slice_note(planes, axis), *notes, *more)
        for note in notes:
            job.say(note)
        return found

    def _probabilities_one(
        self, network: nn.Module, image: Image, card: ModelCard, device: Device, job: Job
    ) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        posed = pose(image, card)
        chances = self._chances(network, posed.data, card, device, job)
        if chances.shape[1:] != posed.turned.shape:
            chances = np.stack([resample.linear(one, posed.turned.shape) for one in chances])
        return np.ascontiguousarray([posed.unturn(one) for one in chances]), posed.notes

    def _chances(
        self,
        network: nn.Module,
        data: npt.NDArray[np.float32],
        card: ModelCard,
        device: Device,
        job: Job,
    ) -> npt.NDArray[np.float32]:
        """Return settled probabilities on the grid of `data`."""
        scores = self.scores(network, data, card=card, device=device, job=job)
        chances = chances_of(scores)
        return self.settle(chances, data, card=card) if self.settles(card) else chances

    def _by_tiles(
        self,
        run: Callable[..., npt.NDArray[Any]],  # Any: label ids or scores, as `run` returns
        network: nn.Module,
        data: npt.NDArray[np.float32],
        card: ModelCard,
        device: Device,
        job: Job,
    ) -> npt.NDArray[Any]:
        """Return what `run`, a function of `maskloop.ops.tiling`, makes of `data`."""
        from maskloop.ops.device import run_ladder

        tile = self.tile(card, data.shape[1:])

        def attempt(rung: Rung) -> npt.NDArray[Any]:
            network.to(rung.device.torch).eval()
            return run(
                data,
                lambda images: self.logits(network, images),
                tile=rung.tile or tile,
                overlap=float(card.parameters.get("overlap", 0.5)),
                classes=len(card.labels) + 1,
                device=rung.device,
                batch=rung.batch,
                margin=card.parameters.get("margin", 0),
                grain=int(card.parameters.get("grain", 1)),
                job=job,
            )

        return run_ladder(self.rungs(card, device, tile), attempt, job)

    def tile(self, card: ModelCard, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the window for an image of `shape`: all of it where ``whole`` allows."""
        multiple = int(card.parameters.get("multiple", 1))
        if math.prod(shape) <= int(card.parameters.get("whole", 0)):
            return tuple(n + -n % multiple for n in shape)
        told = card.parameters.get("tile", self.patch(card))
        return tuple(int(n) for n in told)

    def rungs(self, card: ModelCard, device: Device, tile: tuple[int, ...]) -> list[Rung]:
        """Return what to try, in order, when memory runs out; first of all windows of `tile`."""
        from maskloop.ops.device import ladder

        multiple = int(card.parameters.get("multiple", 1))
        told = tuple(int(n) for n in card.parameters.get("tile", self.patch(card)))
        least = tuple(
            min(n, max(multiple, t // 4 // multiple * multiple))
            for n, t in zip(tile, told, strict=True)
        )
        return ladder(
            device,
            int(card.parameters.get("batch", 4)),
            tile,
            smallest_tile=None if card.parameters.get("fixed_tile", False) else least,
            multiple=multiple,
        )

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: npt.NDArray[np.bool_] | None,
        job: Job,
    ) -> list[Volume]:
        """Return the case on the network's grid: class indices, unreviewed voxels marked."""
        mask.require_on(image)
        require_usable(image, card)
        lookup, ignored = base.class_indices(mask, card)
        indices = lookup[mask.data]
        if ignored:
            seen = ~np.isin(mask.data, ignored)
            reviewed = seen if reviewed is None else reviewed & seen
        if image.geometry.ndim == card.ndim:
            return [_prepared(image, indices, reviewed, card)]
        image, card, _ = levelled(image, card)
        axis, planes = slices_of(image)
        maps = np.moveaxis(indices, axis, 0)
        seen_maps = None if reviewed is None else np.moveaxis(reviewed, axis, 0)
        return [
            _prepared(plane, maps[i], None if seen_maps is None else seen_maps[i], card)
            for i, plane in enumerate(job.track(planes, "slices"))
        ]

    def patch(self, card: ModelCard) -> tuple[int, ...]:
        """Return the training patch; the card's, else 96 cubed or 256 squared."""
        return tuple(card.parameters.get("patch", (96,) * 3 if card.ndim == 3 else (256,) * 2))

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return the loss that the card names, over the voxels somebody reviewed."""
        from maskloop.ops.losses import cross_entropy, dice_ce

        logits = self.logits(network, batch.images)
        loss = cross_entropy if card.parameters.get("loss") == "cross-entropy" else dice_ce
        return loss(logits, middle_of(batch.ids, logits), ignore=IGNORE)

    def augmentation(self, card: ModelCard) -> frozenset[str]:
        """Return what the card allows; where it is silent, all but mirroring for volumes.

        A mirrored abdomen has its liver on the wrong side.
        """
        told = card.parameters.get("augmentation")
        if told is not None:
            return frozenset(told)
        free = {"rotate", "scale", "elastic", "gamma", "noise", "blur"}
        return frozenset(free if card.ndim == 3 else free | {"mirror_y", "mirror_x"})


def chances_of(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return probabilities of scores ``(k, *spatial)``, in place: their softmax.

    Raises
    ------
    InputError
        If a score is not finite.
    """
    scores -= scores.max(axis=0)
    np.exp(scores, out=scores)
    total = scores.sum(axis=0)
    if not np.isfinite(total).all():
        msg = (
            "expected finite scores from the network, got infinity or not-a-number; "
            "run it on the processor (cpu), or check the weights"
        )
        raise InputError(msg)
    scores /= total
    return scores


def winners(chances: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Return the class index of the highest probability, the lowest such index on a tie."""
    found: npt.NDArray[Any] = chances.argmax(axis=0)
    return found.astype(smallest_unsigned(len(chances) - 1))


def middle_of(ids: Tensor, logits: Tensor) -> Tensor:
    """Return the ids ``(n, *spatial)`` that lie under scores of unpadded convolutions."""
    for axis, n in enumerate(logits.shape[2:], start=1):
        ids = ids.narrow(axis, (ids.shape[axis] - n) // 2, n)
    return ids


def _with_rim(volume: Volume, margin: int) -> Volume:
    """Return a case with its border mirrored outwards: windows at its edge see what tiles see.

    Nobody reviewed the rim, so that nothing is learnt from it and crops are not centred on it.
    """
    pads = [(margin, margin)] * volume.ids.ndim
    seen = np.ones(volume.ids.shape, bool) if volume.reviewed is None else volume.reviewed
    return replace(
        volume,
        data=np.pad(volume.data, [(0, 0), *pads], mode="reflect"),
        ids=np.pad(volume.ids, pads),
        reviewed=np.pad(seen, pads),
    )


def _prepared(
    image: Image,
    indices: npt.NDArray[Any],
    reviewed: npt.NDArray[np.bool_] | None,
    card: ModelCard,
) -> Volume:
    posed = pose(image, card)
    shape = posed.data.shape[1:]
    ids, seen = posed.turn(indices), None if reviewed is None else posed.turn(reviewed)
    if shape != ids.shape:
        ids = resample.labels(ids, shape, n=len(card.labels) + 1)
        if seen is not None:
            seen = resample.nearest(seen.view(np.uint8), shape).astype(bool)
    volume = Volume(
        posed.data,
        np.ascontiguousarray(ids),
        None if seen is None else np.ascontiguousarray(seen),
    )
    margin = int(card.parameters.get("margin", 0))
    return _with_rim(volume, margin) if margin else volume
