"""Objects from a field that points at their centres: cell nuclei that touch, told apart.

Papers: C. Stringer, T. Wang, M. Michaelos, M. Pachitariu, "Cellpose: a generalist algorithm for
cellular segmentation", Nature Methods 18, 2021, section "Methods" (a network predicts foreground
and a flow; pixels follow the flow, those that meet are one object; objects whose own flow differs
from the predicted one are dropped); D. Neven et al., "Instance Segmentation by Jointly Optimizing
Spatial Embeddings and Clustering Bandwidth", CVPR 2019 (each pixel points at its object's centre);
W. Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
Convolutional Neural Network", CVPR 2016 (pixels folded into channels, and back).

Here the flow is a direction to the centre, not the gradient of a heat diffusion: it follows from
ids by one sum an object, so that training makes its targets on the fly from whatever crop it is
given. All code is our own. The weights were trained by ``scripts/train_nuclei.py`` on pictures of
the 2018 Data Science Bowl (CC0) and are CC0 themselves.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.core.image import smallest_unsigned
from maskloop.core.labels import LabelTable
from maskloop.models import base, objects
from maskloop.models.base import IGNORE, Batch, Segmentation, Volume
from maskloop.models.cards import ModelCard
from maskloop.models.dense import fit_channels, require_usable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.mask import Mask
    from maskloop.ops.device import Device, Rung

_VARIANTS = {"small": (32, 64, 96, 128)}
_FOLD = 2  # pixels along an axis that become channels; a processor is four times faster for it
_NEAR = 3.0  # pixels from the centre within which vectors shrink to 0, so that pixels come to rest
_STRIDE = 16  # of the coarsest level
_STEPS = 160  # the way from the edge of the largest object the network can see whole
_AT_REST = 0.05  # pixels a step


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(taken, given, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(given)
        self.second = nn.Conv2d(given, given, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(given)
        self.shortcut = nn.Conv2d(taken, given, 1, bias=False) if taken != given else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(x)), inplace=True)
        inner = self.second_norm(self.second(inner))
        return functional.relu(inner + self.shortcut(x), inplace=True)


class FlowNet(nn.Module):
    """A residual U-Net on folded pixels with three outputs: logit of foreground, flow y, flow x.

    Batch norms, not group norms: in use they are constants, so that what a window holds elsewhere
    does not change a pixel's answer.

    Parameters
    ----------
    channels : int
        Of the picture.
    widths : tuple of int
        Features of each level, finest (half size) first.
    """

    def __init__(self, channels: int = 1, widths: tuple[int, ...] = _VARIANTS["small"]) -> None:
        super().__init__()
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            [
                _Block(channels * _FOLD**2, widths[0]),
                *(_Block(fine, coarse) for fine, coarse in steps),
            ]
        )
        self.narrow = nn.ModuleList([nn.Conv2d(coarse, fine, 1) for fine, coarse in steps])
        self.up = nn.ModuleList([_Block(fine, fine) for fine, _ in steps])
        self.head = nn.Conv2d(widths[0], 3 * _FOLD**2, 3, padding=1)
        self.keeps_statistics = False
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> FlowNet:
        """Set the mode; norms of a trained network stay: a few pictures would spoil them."""
        super().train(mode)
        if self.keeps_statistics:
            for part in self.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, 3, y, x)`` of ``(n, channels, y, x)``; any size of at least 1."""
        height, width = x.shape[-2:]
        x = functional.pad(x, (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")
        x = functional.pixel_unshuffle(x, _FOLD).contiguous(memory_format=torch.channels_last)
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for level in range(len(self.up) - 1, -1, -1):
            x = functional.interpolate(self.narrow[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](x + kept[level])
        x = functional.pixel_shuffle(self.head(x), _FOLD)
        return x[..., :height, :width]


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the network should say of a batch.

    Parameters
    ----------
    foreground : float tensor ``(n, y, x)``
        1 inside objects.
    flow : float tensor ``(n, 2, y, x)``
        Vectors (y, x) to the object's centre, of length 1 from `_NEAR` pixels outwards and
        shrinking to 0 at the centre; 0 outside objects.
    seen : bool tensor ``(n, y, x)``
        Pixels somebody reviewed.
    whole : bool tensor ``(n, y, x)``
        Pixels whose flow is known: those seen, less objects that run on into what was not.
    """

    foreground: Tensor
    flow: Tensor
    seen: Tensor
    whole: Tensor


def targets(ids: Tensor) -> Targets:
    """Return what the network should say where the objects are `ids` ``(n, y, x)``.

    The centre of an object is its mean pixel, or where that lies outside it (a crescent), the
    object's pixel nearest to that. An object cut by the border of the picture has the centre of
    the part that is there.
    """
    count, height, width = ids.shape
    is_object = ids > 0
    seen = ids != IGNORE
    flow = torch.zeros((count, 2, height, width), device=ids.device)
    whole = seen.clone()
    sample, y, x = is_object.nonzero(as_tuple=True)
    if len(sample):
        top = int(ids.max()) + 1
        _, number = torch.unique(sample * top + ids[sample, y, x], return_inverse=True)
        points = torch.stack([y, x], dim=1).to(torch.float32)
        way = _centres(number, points)[number] - points
        length = way.norm(dim=1, keepdim=True).clamp_min(_NEAR)
        flow[sample, :, y, x] = way / length
        near_unseen = functional.max_pool2d((~seen).float()[:, None], 3, 1, 1)[:, 0] > 0
        cut = torch.zeros(int(number.max()) + 1, device=ids.device)
        cut.index_add_(0, number, near_unseen[sample, y, x].float())
        whole[sample, y, x] = cut[number] == 0
    return Targets(is_object.float(), flow, seen, whole)


def _centres(number: Tensor, points: Tensor) -> Tensor:
    """Return the centre of each object from its pixels ``(n, 2)`` and whose each one is."""
    count = int(number.max()) + 1
    sums = torch.zeros((count, 2), device=points.device).index_add_(0, number, points)
    sizes = torch.zeros(count, device=points.device).index_add_(
        0, number, torch.ones_like(points[:, 0])
    )
    mean = sums / sizes[:, None]
    gap = (points - mean[number]).square().sum(dim=1)
    least = torch.full((count,), torch.inf, device=points.device)
    least = least.scatter_reduce(0, number, gap, "amin")
    place = torch.arange(len(points), device=points.device)
    first = torch.full((count,), len(points), device=points.device)
    is_nearest = gap == least[number]
    first = first.scatter_reduce(0, number[is_nearest], place[is_nearest], "amin")
    return torch.where(least[:, None] < 1, mean, points[first])


def loss(predicted: Tensor, wanted: Targets) -> Tensor:
    """Return cross-entropy plus soft Dice of the foreground plus the squared error of the flow.

    The flow counts inside objects and, weaker, as 0 outside. Unreviewed pixels count nowhere.
    """
    seen = wanted.seen.float()
    logit, flow = predicted[:, 0], predicted[:, 1:]
    entropy = functional.binary_cross_entropy_with_logits(
        logit, wanted.foreground, weight=seen, reduction="sum"
    ) / seen.sum().clamp_min(1)
    chance = logit.sigmoid() * seen
    both = (chance * wanted.foreground).sum()
    dice = 1 - (2 * both + 1) / (chance.sum() + (wanted.foreground * seen).sum() + 1)
    error = (flow - wanted.flow).square().sum(dim=1)
    inside = wanted.foreground * wanted.whole
    outside = (1 - wanted.foreground) * wanted.whole
    pull = (error * inside).sum() / inside.sum().clamp_min(1)
    rest = (error * outside).sum() / outside.sum().clamp_min(1)
    return entropy + dice + 2 * pull + 0.5 * rest


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the three outputs become objects.

    Parameters
    ----------
    threshold : float
        Least probability of a foreground pixel.
    least_area : int
        Of an object, in pixels.
    error : float
        Greatest mean squared difference between an object's own flow and the predicted one.
    together : float
        Meeting points closer than this part of their objects' common radius are one.
    """

    threshold: float = 0.5
    least_area: int = 12
    error: float = 0.5
    together: float = 0.4

    @classmethod
    def of(cls, card: ModelCard) -> Decoding:
        """Return what the card's ``decoding`` says, ours where it says nothing."""
        return cls(**card.parameters.get("decoding", {}))


def decode(
    scores: npt.NDArray[np.float32], how: Decoding | None = None
) -> tuple[npt.NDArray[Any], dict[int, float]]:
    """Return object ids ``(y, x)`` and the score of each, from scores ``(3, y, x)``.

    Parameters
    ----------
    scores : float32 array
        Logit of the foreground, flow y, flow x.
    how : Decoding, optional
        Thresholds.

    Returns
    -------
    ids : array of unsigned int
        From 1, in order of first pixel.
    scores : dict of int to float
        Mean foreground probability times the agreement of the flow, 0 to 1.
    """
    how = how or Decoding()
    bar = float(np.log(how.threshold / (1 - how.threshold)))
    y, x = np.nonzero(scores[0] > bar)
    shape = scores.shape[1:]
    if len(y) < how.least_area:
        return np.zeros(shape, dtype=np.uint8), {}
    flow = torch.from_numpy(np.ascontiguousarray(scores[1:]))
    ends = follow(flow, torch.from_numpy(np.stack([y, x], axis=1)))
    number = _meeting(ends, shape, how)
    ids = np.zeros(shape, dtype=np.int32)
    ids[y, x] = number
    ids = _tidied(ids, how.least_area)
    return _judged(ids, scores, how)


def follow(flow: Tensor, start: Tensor, steps: int = _STEPS) -> Tensor:
    """Return where pixels ``(n, 2)`` end that walk along `flow` ``(2, y, x)``, one pixel a step.

    Those that have come to rest are taken out of the walk every ten steps.
    """
    height, width = flow.shape[1:]
    ends = start.to(torch.float32)
    walking = torch.arange(len(ends))
    highest = torch.tensor([height - 1, width - 1], dtype=torch.float32)
    field = flow[None].flip(1)  # grid_sample speaks (x, y)
    to_unit = 2 / highest.clamp_min(1)
    for first in range(0, steps, 10):
        points = ends[walking]
        for _ in range(min(10, steps - first)):
            grid = (points * to_unit - 1).flip(1)[None, None]
            found = functional.grid_sample(
                field, grid, mode="bilinear", padding_mode="border", align_corners=True
            )
            move = found[0, :, 0].T.flip(1)
            points = torch.minimum((points + move).clamp_min(0), highest)
        ends[walking] = points
        walking = walking[move.square().sum(dim=1) > _AT_REST**2]
        if not len(walking):
            break
    return ends


def _meeting(ends: Tensor, shape: tuple[int, ...], how: Decoding) -> npt.NDArray[np.int32]:
    """Return for each pixel the number (from 1) of the point where it meets others; 0 for none.

    The density of ends is climbed to its peaks, in steps of the highest pixel within two; peaks
    that are too close for two objects are one.
    """
    from scipy import ndimage

    height, width = shape
    cell = ends.round().long()
    flat = (cell[:, 0] * width + cell[:, 1]).numpy()
    counts = np.bincount(flat, minlength=height * width).reshape(shape).astype(np.float32)
    density = torch.from_numpy(ndimage.gaussian_filter(counts, 1.0, truncate=2.0, mode="constant"))
    _, higher = functional.max_pool2d(density[None, None], 5, 1, 2, return_indices=True)
    upward = higher.flatten().numpy()
    peak = upward[flat]
    while (upward[peak] != peak).any():
        peak = upward[peak]
    places, number = np.unique(peak, return_inverse=True)
    mass = np.bincount(number)
    merged = _one_object(np.stack(np.divmod(places, width), axis=1), mass, how.together)
    found = merged[number]
    large = np.bincount(found) >= how.least_area
    return np.where(large[found], found + 1, 0).astype(np.int32)


def _one_object(
    places: npt.NDArray[np.int64], mass: npt.NDArray[np.int64], together: float
) -> npt.NDArray[np.int64]:
    """Return the number of the object of each peak: peaks near each other are one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    reach = together * float(np.sqrt(2 * mass.max() / np.pi))
    pairs = cKDTree(places).query_pairs(max(reach, 1.5), output_type="ndarray")
    gap = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    radius = np.sqrt(mass[pairs].sum(axis=1) / np.pi)
    pairs = pairs[gap < together * radius]
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(mass),) * 2)
    found: npt.NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def _tidied(ids: npt.NDArray[np.int32], least_area: int) -> npt.NDArray[np.int32]:
    """Return each object as its largest piece with its holes filled, those too small left out."""
    from scipy import ndimage

    tidy = np.zeros_like(ids)
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is None:
            continue
        region = ids[box] == number
        pieces, count = ndimage.label(region)
        if count > 1:
            region = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
        if np.count_nonzero(region) < least_area:
            continue
        filled = ndimage.binary_fill_holes(region)
        view = tidy[box]
        view[filled & ((ids[box] == 0) | region)] = number
    return tidy


def _judged(
    ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32], how: Decoding
) -> tuple[npt.NDArray[Any], dict[int, float]]:
    """Drop objects whose own flow is not the predicted one; renumber the rest and score them."""
    own = targets(torch.from_numpy(ids.astype(np.int64))[None]).flow[0].numpy()
    inside = ids > 0
    belongs = ids[inside]
    top = int(ids.max(initial=0)) + 1
    sizes = np.bincount(belongs, minlength=top).clip(1)
    gap = np.square(own[:, inside] - scores[1:, inside]).sum(axis=0)
    error = np.bincount(belongs, weights=gap, minlength=top) / sizes
    chance = 1 / (1 + np.exp(-scores[0, inside]))
    sure = np.bincount(belongs, weights=chance, minlength=top) / sizes
    present = np.bincount(belongs, minlength=top) > 0
    kept = np.flatnonzero(present & (error <= how.error))
    _, first = np.unique(ids, return_index=True)
    order = dict(zip(np.unique(ids).tolist(), first.tolist(), strict=True))
    kept = np.array(sorted(kept.tolist(), key=order.__getitem__), dtype=np.int64)
    lookup = np.zeros(top, dtype=smallest_unsigned(len(kept)))
    lookup[kept] = np.arange(1, len(kept) + 1)
    agreement = np.clip(1 - error / 2, 0, 1)
    return lookup[ids], {i: float(sure[k] * agreement[k]) for i, k in enumerate(kept, start=1)}


def seen_by_network(image: Image) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return a picture as the network sees it, ``(1, y, x)``, and notes: `unit_of`, `curved`."""
    unit, notes = unit_of(image)
    return curved(unit), notes


def unit_of(image: Image) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return the luminance of a picture from 0 to 1, ``(1, y, x)``, objects bright, and notes.

    The 1st and 99.8th percentile become 0 and 1. A picture whose background is bright (its median
    lies above the middle) is turned over. A picture of one value becomes 0.
    """
    stacked, notes = fit_channels(image, 1)
    data = np.asarray(stacked, dtype=np.float32).reshape(1, *image.geometry.shape[-2:])
    if not np.isfinite(data).all():
        msg = f"expected finite pixel values in {image.name!r}, got NaN or infinity; replace them"
        raise InputError(msg)
    low, high = (float(n) for n in np.percentile(data, (1.0, 99.8)))
    if not high > low:
        low, high = float(data.min()), float(data.max())
    if not high > low:
        return np.zeros_like(data), (*notes, "the picture has one value everywhere")
    unit = (data - np.float32(low)) / np.float32(high - low)
    if float(np.median(unit)) > 0.5:
        unit = 1 - unit
        notes = (*notes, "bright background: turned over")
    return unit, notes


def curved(unit: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the square root, odd round 0, of values held within -0.2 and 2.

    Faint nuclei beside bright ones are not lost so.
    """
    held = np.clip(unit, -0.2, 2.0)
    found: npt.NDArray[np.float32] = np.sign(held) * np.sqrt(np.abs(held))
    return found.astype(np.float32, copy=False)


class FlowsFamily:
    """Networks of foreground and flow; stateless.

    `card.parameters`: ``tile`` (512: side of a window), ``overlap`` (0.25), ``batch`` (2),
    ``patch`` ([160, 160]), ``decoding`` (the fields of `Decoding`).
    """

    name = "flows"
    title = "Flows to object centres"
    tasks: tuple[str, ...] = ("instance",)
    ndims: tuple[int, ...] = (2,)
    variants: tuple[str, ...] = tuple(_VARIANTS)
    is_trainable = True

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for objects of one class."""
        variant = variant or "small"
        if variant not in _VARIANTS:
            raise UnknownNameError.of("variant of flows", variant, list(_VARIANTS))
        if len(labels) > 1:
            msg = (
                f"expected one class of objects for the family 'flows', got "
                f"{', '.join(labels.names.values())}; choose another family or merge the classes"
            )
            raise InputError(msg)
        return ModelCard(
            name=f"flows-{variant}",
            title="Flows to object centres, untrained",
            family=self.name,
            variant=variant,
            task="instance",
            ndim=2,
            labels=labels or LabelTable.classes(["object"]),
            modality="grey or RGB picture",
            channels=1,
            licence="BSD-3-Clause",
            parameters={"patch": [160, 160]},
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights."""
        if card.variant not in _VARIANTS:
            raise UnknownNameError.of("variant of flows", card.variant, list(_VARIANTS))
        return FlowNet(card.channels, _VARIANTS[card.variant])

    def load(self, card: ModelCard, files: Mapping[str, Path]) -> nn.Module:
        """Return the network with the weights in `files`; from now on its norms stay."""
        network = base.load_strict(self.build(card), files, name=card.name)
        network.keeps_statistics = True  # type: ignore[assignment]  # a plain attribute of FlowNet
        return network

    def segment(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return one id an object on the image's grid.

        Fields are predicted window by window and blended; the whole picture is then decoded once,
        so that there are no seams.
        """
        from maskloop.ops.device import ladder, run_ladder
        from maskloop.ops.tiling import predict_scores

        _require_picture(image, card)
        data, notes = seen_by_network(image)
        side = int(card.parameters.get("tile", 512))
        tile = tuple(min(side, n + -n % _STRIDE) for n in data.shape[1:])

        def attempt(rung: Rung) -> npt.NDArray[np.float32]:
            network.to(rung.device.torch).eval()
            return predict_scores(
                data,
                network,
                tile=rung.tile or tile,
                classes=3,
                overlap=float(card.parameters.get("overlap", 0.25)),
                device=rung.device,
                batch=rung.batch,
                job=job,
            )

        rungs = ladder(
            device,
            int(card.parameters.get("batch", 2)),
            tile,
            smallest_tile=tuple(min(128, n) for n in tile),
            multiple=_STRIDE,
        )
        if data.any():
            fields = run_ladder(rungs, attempt, job)
            job.report("objects", 0, 1)
            ids, scores = decode(fields, Decoding.of(card))
            job.report("objects", 1, 1)
        else:
            ids, scores = np.zeros(data.shape[1:], dtype=np.uint8), {}
        category = next(iter(card.labels.names.values()), "object")
        table = objects.table(scores, dict.fromkeys(scores, category), scores, author=card.name)
        return Segmentation(ids.reshape(image.geometry.shape), table, notes)

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: npt.NDArray[np.bool_] | None,
        job: Job,
    ) -> list[Volume]:
        """Return the picture as the network sees it, with its objects' ids, at its own size.

        A class map is split into connected objects first.
        """
        job.check()
        mask.require_on(image)
        _require_picture(image, card)
        data, _ = seen_by_network(image)
        ids, categories, ignored = _objects_of(mask, card)
        if ignored is not None:
            reviewed = ~ignored if reviewed is None else reviewed & ~ignored
        flat = data.shape[1:]
        return [
            Volume(
                data,
                ids.reshape(flat),
                None if reviewed is None else reviewed.reshape(flat),
                categories,
            )
        ]

    def patch(self, card: ModelCard) -> tuple[int, ...]:
        """Return the training patch in pixels; the card's, else 160 squared."""
        return tuple(card.parameters.get("patch", (160, 160)))

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return the loss of one batch; its targets are made from the ids as they are."""
        network.train()
        ids = batch.ids
        if batch.categories and any(batch.categories):
            ids = _known_only(ids, batch.categories)
        return loss(network(batch.images), targets(ids))

    def augmentation(self, card: ModelCard) -> frozenset[str]:
        """Return what the card allows; else everything that a picture from above survives."""
        told = card.parameters.get("augmentation")
        free = (
            "mirror_x", "mirror_y", "rotate", "scale", "elastic", "gamma", "noise", "blur"
        )  # fmt: skip
        return frozenset(free if told is None else told)


def _known_only(ids: Tensor, categories: list[Mapping[int, int]]) -> Tensor:
    """Return ids without those objects that belong to no class of the card."""
    kept = ids.clone()
    for one, known in zip(kept, categories, strict=True):
        wanted = torch.tensor(list(known), dtype=one.dtype, device=one.device)
        one[(one > 0) & ~torch.isin(one, wanted)] = 0
    return kept


def _require_picture(image: Image, card: ModelCard) -> None:
    shape = image.geometry.shape
    if len(shape) == 3 and shape[0] != 1:
        msg = (
            f"expected one picture (y, x) for model {card.name!r}, got the volume {image.name!r} "
            f"of shape {shape}; choose one slice: objects are not joined from slice to slice"
        )
        raise InputError(msg)
    require_usable(image, card)


def _objects_of(
    mask: Mask, card: ModelCard
) -> tuple[npt.NDArray[Any], dict[int, int], npt.NDArray[np.bool_] | None]:
    """Return object ids, the class index of each, and where the loss must not look."""
    lookup, ignored = base.class_indices(mask, card)
    unseen = np.isin(mask.data, ignored) if ignored else None
    if mask.labels.kind == "objects":
        return mask.data, {i: 1 for i in mask.ids() if lookup[i]}, unseen
    from maskloop.ops.components import label

    ids, count = label(lookup[mask.data] == 1)
    return ids, dict.fromkeys(range(1, count + 1), 1), unseen


FAMILY = FlowsFamily()
