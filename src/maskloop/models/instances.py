"""Body of networks that find objects: how they see a picture, by windows, and how they learn."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskloop.core.errors import UnknownNameError, WeightsError
from maskloop.models import base, objects
from maskloop.models.base import IGNORE, Batch, Segmentation, Volume
from maskloop.models.bounds import require_sound
from maskloop.models.cards import ModelCard
from maskloop.models.objects import Found, scale_to
from maskloop.models.pasting import View
from maskloop.models.posing import Pose, pose, require_usable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.geometry import Box
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.ops.device import Device, Rung

_UNSEEN = 0.5  # a box with more than this part unreviewed is no proof of background


def cpu_recipe(**more: Any) -> dict[str, Any]:  # Any: JSON
    """Return the recipe for two processor cores: a small network, which trains within the hour.

    `more` are parameters of the card besides backbone, widths and patch.
    """
    small = {"backbone": "resnet18", "width": 0.5, "features": 64, "patch": [256, 256]}
    return {"steps": 1500, "rate": 1e-3, "batch": 4, "parameters": {**small, **more}}


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The objects of one picture, to learn from.

    Parameters
    ----------
    boxes : float32 Tensor ``(n, 4)``
        x0, y0, x1, y1 in pixels of the network; the far edges are exclusive.
    labels : int64 Tensor ``(n,)``
        Class index, from 1.
    masks : bool Tensor ``(n, y, x)``
    unseen : bool Tensor ``(y, x)``
        Where nobody looked: no proof of background.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    unseen: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class InstanceFamily:
    """What families of objects share; a family adds names, `card`, `build`, `find`, `losses`.

    `card.parameters` read here, besides those of `pose`: how large the network sees the picture
    (``shortest``, ``longest``: sides; or ``squashed``: ``[y, x]``, whatever the shape; or
    ``enlarge``: a factor; its own size where none is told), ``window`` (pixels of the image up to
    which a side is seen at once; 0 for any, as where sides are told, else 1024), ``overlap`` (0.25:
    share of a window),
    ``joining`` (0.5: IoU above which objects of two windows are one), ``patch``, ``augmentation``
    (list of names), ``least_area`` (0: pixels of the image below which an object is dropped),
    ``most_covered`` (1: share of an object that better ones may cover; with more it is dropped),
    ``outputs`` (class outputs of the network where they are not the labels plus one: then a
    label's id is its output).
    """

    name = ""
    title = ""
    tasks: tuple[str, ...] = ("instance",)
    ndims: tuple[int, ...] = (2,)
    variants: tuple[str, ...] = ()
    is_trainable = True
    multiple = 32
    """Rows and columns the network sees are padded to a multiple of this, unless squashed."""
    spare_outputs = 1
    """Class outputs beyond the labels: 1 where the background is one, 0 where it is none."""
    trunk = "trunk."
    """What the names of the residual network's tensors begin with."""

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network; see `Family.card`."""
        raise NotImplementedError

    def known(self, variant: str) -> str:
        """Return `variant`, the first named where it is empty; raise `UnknownNameError` if none."""
        variant = variant or self.variants[0]
        if variant not in self.variants:
            raise UnknownNameError.of(f"variant of {self.name}", variant, list(self.variants))
        return variant

    def fresh(
        self,
        variant: str,
        labels: LabelTable,
        title: str,
        parameters: Mapping[str, Any],  # Any: JSON
        *,
        limits: Sequence[str] = (),
        sources: Sequence[str] = (),
    ) -> ModelCard:
        """Return the card of an untrained network for colour pictures."""
        return ModelCard(
            name=f"{self.name}-{variant}",
            title=f"{title}, untrained",
            family=self.name,
            variant=variant,
            task=self.tasks[0],
            ndim=2,
            labels=labels,
            modality="RGB photograph",
            channels=3,
            licence="BSD-3-Clause",
            limits=tuple(limits),
            sources=tuple(sources),
            # Objects are not joined from slice to slice: volumes are refused.
            parameters={"normalise": "imagenet", "slices": False, **parameters},
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; see `Family.build`."""
        raise NotImplementedError

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        """Return the objects in one view, in pixels of the image it stands for.

        Parameters
        ----------
        network : Module
            In eval mode, on `device`; gradients are off.
        view : View
            Its picture is on `device`.
        card : ModelCard
        device : Device
            For mixed precision, where the family allows it.
        """
        raise NotImplementedError

    def losses(
        self, network: nn.Module, images: Tensor, targets: Sequence[Targets], *, card: ModelCard
    ) -> Tensor:
        """Return the scalar loss of a batch ``(n, c, y, x)``; each picture is reviewed in part."""
        raise NotImplementedError

    def load(self, card: ModelCard, files: Mapping[str, Path]) -> nn.Module:
        """Return the network with the weights in `files`, in eval mode."""
        return base.load_strict(self.build(card), files, name=card.name)

    def begin(self, card: ModelCard, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the network of `card` on a classifier's residual network, all else random.

        Or on a whole network of the family, of which a card of other classes keeps all but the
        heads that it names.
        """
        network = self.build(card)
        own = network.state_dict()
        if any(key.startswith(self.trunk) for key in state):
            found = dict(state)
            heads = () if card.weights else tuple(map(str, card.parameters.get("heads", ())))
            wanted = [key for key in own if not key.startswith(heads)]
        else:
            found = {f"{self.trunk}{key}": value for key, value in state.items()}
            wanted = [key for key in own if key.startswith(self.trunk)]
        # Published frozen norms have counted no batches.
        wanted = [k for k in wanted if k in found or not k.endswith("num_batches_tracked")]
        wrong = [k for k in wanted if k not in found or found[k].shape != own[k].shape]
        if wrong or not wanted:
            msg = (
                f"expected the weights of a network as wide and deep as that of {card.name!r}, got "
                f"none or others for {len(wrong)} of {len(wanted)} tensors "
                f"({', '.join(wrong[:2])}, ...); choose a start that fits, and leave out `width`"
            )
            raise WeightsError(msg)
        network.load_state_dict({**own, **{key: found[key] for key in wanted}})
        return network

    def objects(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> tuple[list[Found], tuple[str, ...]]:
        """Return all that the network finds on the image's grid, overlaps as they are, and notes.

        Steps down the memory ladder.
        """
        from maskloop.ops.device import ladder, run_ladder

        require_sound(card)
        require_usable(image, card)
        posed = posed_for(image, card)
        shape = posed.data.shape[1:]
        told = _window(card)
        side = told or max(shape)
        tile = tuple(min(side, n) for n in shape)

        def attempt(rung: Rung) -> list[Found]:
            network.to(rung.device.torch).eval()
            parts = []
            boxes = windows(shape, rung.tile or tile, float(card.parameters.get("overlap", 0.25)))
            for box in job.track(boxes, "windows"):
                cut = posed.data[(slice(None), *box)]
                seen = view_of(cut, card, self._grain(card), rung.device)
                with torch.inference_mode():
                    parts.append((box, self.find(network, seen, card=card, device=rung.device)))
            return objects.joined(parts, least_iou=float(card.parameters.get("joining", 0.5)))

        least = tuple(min(256, n) for n in tile) if told else None
        found = run_ladder(ladder(device, 1, tile, smallest_tile=least), attempt, job)
        least_area = int(card.parameters.get("least_area", 0))
        kept = [one for one in found if np.count_nonzero(one.region) >= max(least_area, 1)]
        return kept, posed.notes

    def segment(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return one id an object on the image's grid, overlaps settled by score."""
        found, notes = self.objects(network, image, card=card, device=device, job=job)
        keep = 1 - float(card.parameters.get("most_covered", 1.0))
        settled = objects.settle(found, image.geometry.shape, author=card.name, keep=keep)
        if settled.covered:
            notes = (*notes, f"{settled.covered} objects lay mostly under better ones: dropped")
        return Segmentation(settled.ids, settled.labels, notes, settled.lost, objects=tuple(found))

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: npt.NDArray[np.bool_] | None,
        job: Job,
    ) -> list[Volume]:
        """Return the picture at the network's size with its objects' ids.

        A class map is split into connected objects first.
        """
        job.check()
        require_sound(card)
        mask.require_on(image)
        require_usable(image, card)
        ids, categories, ignored = objects_of(mask, card)
        if ignored is not None:
            reviewed = ~ignored if reviewed is None else reviewed & ~ignored
        data = resized(torch.from_numpy(posed_for(image, card).data), card).numpy()
        size = data.shape[1:]
        seen = None if reviewed is None else _nearest(reviewed, size)
        return [Volume(data, _nearest(ids, size), seen, categories)]

    def patch(self, card: ModelCard) -> tuple[int, ...]:
        """Return the training patch on the resized picture; the card's, else 256 squared."""
        require_sound(card)
        return tuple(card.parameters.get("patch", (256, 256)))

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return `losses` of the pictures that somebody reviewed at least in part."""
        seen = [i for i, ids in enumerate(batch.ids) if bool((ids != IGNORE).any())]
        if not seen:
            return nothing(network)
        images, ids = padded(batch.images[seen], batch.ids[seen], self._grain(card))
        categories = batch.categories or [{}] * len(batch.ids)
        targets = [targets_of(one, categories[i]) for i, one in zip(seen, ids, strict=True)]
        return self.losses(network, images, targets, card=card)

    def _grain(self, card: ModelCard) -> int:
        return 1 if card.parameters.get("squashed") else self.multiple

    def augmentation(self, card: ModelCard) -> frozenset[str]:
        """Return what the card allows; else mirroring, small turns, scale, gamma, noise, blur."""
        told = card.parameters.get("augmentation")
        free = ("mirror_x", "rotate", "scale", "gamma", "noise", "blur")
        return frozenset(free if told is None else told)


def _window(card: ModelCard) -> int:
    told = card.parameters
    return int(told.get("window", 0 if told.get("shortest") or told.get("squashed") else 1024))


def posed_for(image: Image, card: ModelCard) -> Pose:
    """Return `image` as `pose` does; normalised by ImageNet's rule where the card is silent."""
    told = {"normalise": "imagenet", **card.parameters}
    return pose(image, replace(card, parameters=told))


def names_of(card: ModelCard) -> dict[int, str]:
    """Return the class name of each output of the network; one without a label is left out."""
    if "outputs" in card.parameters:
        return card.labels.names
    return {k: card.labels[i].name for k, i in enumerate(card.labels, start=1)}


def listed(
    regions: Sequence[tuple[Box, npt.NDArray[np.bool_]] | None],
    labels: Sequence[int],
    scores: Sequence[float],
    card: ModelCard,
) -> list[Found]:
    """Return objects from what `maskloop.models.pasting` gives, their outputs and scores."""
    names = names_of(card)
    return [
        Found(part[0], part[1], float(score), names[int(label)])
        for part, label, score in zip(regions, labels, scores, strict=True)
        if part is not None and int(label) in names
    ]


def windows(shape: Sequence[int], tile: Sequence[int], overlap: float) -> list[Box]:
    """Return boxes of size `tile` that cover `shape` and overlap by at least a share of it."""
    along = []
    for n, side in zip(shape, tile, strict=True):
        step = max(1, int(side * (1 - overlap)))
        count = 1 + max(0, -(-(n - side) // step))
        starts = np.linspace(0, max(0, n - side), count).round().astype(int)
        along.append([slice(int(a), int(a) + min(side, n)) for a in starts])
    return list(itertools.product(*along))


def resized(data: Tensor, card: ModelCard) -> Tensor:
    """Return a picture ``(c, y, x)`` as large as the card wants it: bilinear, no antialiasing."""
    told = card.parameters
    if told.get("squashed"):
        size = tuple(int(n) for n in told["squashed"])
        return functional.interpolate(data[None], size=size, mode="bilinear")[0]
    if told.get("shortest"):
        factor = scale_to(data.shape[-2:], int(told["shortest"]), int(told.get("longest", 1 << 30)))
    else:
        factor = float(told.get("enlarge", 1.0))
    if factor == 1.0:
        return data
    return functional.interpolate(
        data[None], scale_factor=factor, mode="bilinear", recompute_scale_factor=True
    )[0]


def view_of(data: npt.NDArray[np.float32], card: ModelCard, multiple: int, device: Device) -> View:
    """Return a normalised picture ``(c, y, x)`` as the network sees it."""
    size = int(data.shape[1]), int(data.shape[2])
    seen = resized(torch.from_numpy(np.ascontiguousarray(data)), card)
    height, width = int(seen.shape[1]), int(seen.shape[2])
    picture = functional.pad(seen, _lacking(height, width, multiple))
    return View(picture[None].to(device.torch), (height, width), size)


def _lacking(height: int, width: int, multiple: int) -> tuple[int, int, int, int]:
    """Return what to pad to whole steps of the network: two or more, or norms see one value."""
    down, across = (max(-n % multiple, 2 * multiple - n) for n in (height, width))
    return 0, across, 0, down


def padded(images: Tensor, ids: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Return a batch padded at its far ends to whole steps of the network, unreviewed there."""
    pads = _lacking(int(images.shape[-2]), int(images.shape[-1]), multiple)
    return functional.pad(images, pads), functional.pad(ids, pads, value=IGNORE)


def targets_of(ids: Tensor, categories: Mapping[int, int]) -> Targets:
    """Return the objects of one patch of ids ``(y, x)``; ids of no known class are background."""
    known = [i for i in torch.unique(ids).tolist() if i > 0 and i in categories]
    wanted = torch.tensor(known, dtype=ids.dtype, device=ids.device)
    masks = ids[None] == wanted[:, None, None]
    sides = []
    for axis in (1, 2):  # columns, then rows: x before y
        hit = masks.any(axis).to(torch.int8)
        n = hit.shape[1]
        sides += [hit.argmax(1), n - hit.flip(1).argmax(1)]
    x0, x1, y0, y1 = sides
    labels = torch.tensor([categories[i] for i in known], dtype=torch.int64, device=ids.device)
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    return Targets(boxes, labels, masks, ids == IGNORE)


def nothing(network: nn.Module) -> Tensor:
    """Return a loss of 0 that gradients can be taken of: of a batch that nobody reviewed."""
    return torch.stack([p.sum() for p in network.parameters() if p.requires_grad]).sum() * 0


def unseen_share(boxes: Tensor, unseen: Tensor) -> Tensor:
    """Return which part of each box ``(n, 4)``, x0 y0 x1 y1, nobody looked at.

    Parameters
    ----------
    boxes : Tensor ``(n, 4)``
    unseen : bool Tensor ``(y, x)``
    """
    total = functional.pad(unseen.float().cumsum(0).cumsum(1), (1, 0, 1, 0))
    height, width = unseen.shape
    x0, x1 = (boxes[:, i].round().long().clamp(0, width) for i in (0, 2))
    y0, y1 = (boxes[:, i].round().long().clamp(0, height) for i in (1, 3))
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0)).clamp(min=1)


def is_unseen(boxes: Tensor, unseen: Tensor) -> Tensor:
    """Return which boxes lie more than half where nobody looked: they prove no background."""
    return unseen_share(boxes, unseen) > _UNSEEN


def objects_of(
    mask: Mask, card: ModelCard
) -> tuple[npt.NDArray[Any], dict[int, int], npt.NDArray[np.bool_] | None]:
    """Return object ids, the class index of each, and where the loss must not look."""
    lookup, ignored = base.class_indices(mask, card)
    unseen = np.isin(mask.data, ignored) if ignored else None
    if mask.labels.kind == "objects":
        categories = {i: int(lookup[i]) for i in mask.ids() if lookup[i]}
        return mask.data, categories, unseen
    from maskloop.ops.components import label

    whole = np.zeros(mask.data.shape, dtype=np.uint32)
    categories = {}
    for index in range(1, len(card.labels) + 1):
        ids, count = label(lookup[mask.data] == index)
        whole[ids > 0] = ids[ids > 0] + np.uint32(len(categories))
        start = len(categories)
        categories.update({start + i: index for i in range(1, count + 1)})
    return whole, categories, unseen


def _nearest(values: npt.NDArray[Any], size: tuple[int, ...]) -> npt.NDArray[Any]:
    from maskloop.ops import resample

    if values.shape == size:
        return values
    is_region = values.dtype == np.bool_
    found = resample.nearest(values.view(np.uint8) if is_region else values, size)
    return found.astype(bool) if is_region else found
