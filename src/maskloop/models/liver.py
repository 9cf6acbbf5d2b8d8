"""The family ``liver``: one net finds the liver in an abdominal CT, a second the tumours in it.

Origin: the networks and weights of the Python package pyliverlesionseg 0.3 (KU Leuven), Apache-2.0
(https://www.apache.org/licenses/LICENSE-2.0). Its module ``cnn_liver_lesion_seg_CT_MR_functions``
is the recipe followed here: spacings, intensity map, fills, tile, thresholds, opening, largest
piece. Ours: the search for the abdomen (simpler), which tiles are run (a quarter of the recipe's),
the way back to the source grid (edges coincide). Licence of this code: BSD-3-Clause.
"""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from maskloop.core.boxes import box_of
from maskloop.core.errors import InputError, UnknownNameError
from maskloop.models import base
from maskloop.models.base import IGNORE, Batch, Segmentation, Volume
from maskloop.models.cards import ModelCard
from maskloop.models.livernets import LiverTumour, LiverUNet, centre, quick_lesions
from maskloop.ops import components
from maskloop.ops.candidates import Chances, encode
from maskloop.ops.device import CPU, Device, Rung, autocast, run_ladder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from maskloop.core.geometry import Box
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask

Region = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]
Steps = tuple[float, float, float]

Tile = tuple[int, ...]

# What a network takes, and what its output is smaller by at each end. The tiles are those of
# training: instance norm makes the result depend on them.
LIVER_TILE, LIVER_MARGIN = (162, 162, 189), (13, 13, 13)
LESION_TILE, LESION_MARGIN = (86, 172, 180), (22, 44, 44)
LIVER_SPACING: Steps = (3.0, 3.0, 3.0)
LESION_SPACING: Steps = (3.0, 1.0, 1.0)
_ABOVE_DOME_MM = 70.0
_LUNG_MM2 = 3000.0  # less air than this on every slice is bowel, not lung
_MASKED = np.float32(-0.5)


class LiverFamily:
    """Liver and tumours in CT; fine-tuning trains the lesion net unless the card says ``liver``."""

    name = "liver"
    title = "Liver and liver tumour nets (KU Leuven)"
    tasks: tuple[str, ...] = ("semantic",)
    ndims: tuple[int, ...] = (3,)
    variants: tuple[str, ...] = ("lesions", "liver")
    is_trainable = True

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of the untrained networks; `variant` is the one that training changes."""
        variant = variant or "lesions"
        if variant not in self.variants:
            raise UnknownNameError.of("variant of liver", variant, list(self.variants))
        _require_two(labels)
        return ModelCard(
            name=f"liver-{variant}",
            title=f"{self.title}, untrained",
            family=self.name,
            variant=variant,
            labels=labels,
            modality="CT",
            spacing=LESION_SPACING if variant == "lesions" else LIVER_SPACING,
            sources=("https://pypi.org/project/pyliverlesionseg/0.3/",),
            parameters={"train": variant},
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return both networks with random weights."""
        _require_two(card.labels)
        # Channels last halves the time of a tile on a CPU (docs/reference/liver-tumour.md).
        return LiverTumour().to(memory_format=torch.channels_last_3d)

    def load(self, card: ModelCard, files: Mapping[str, Path]) -> nn.Module:
        """Return both networks with the weights in `files`."""
        return base.load_strict(self.build(card), files, name=card.name)

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return the logits of the network that `card` trains."""
        found: Tensor = getattr(network, card.variant)(images)
        return found

    def segment(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return 1 liver, 2 tumour on the image's own grid."""
        return _segment(network, image, card, device, job, wants_chances=False)

    def segment_with_chances(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return the same, and how likely tumour is where none was drawn."""
        return _segment(network, image, card, device, job, wants_chances=True)

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: Region | None,
        job: Job,
    ) -> list[Volume]:
        """Return the case as the trained network sees it; the liver comes from the mask."""
        mask.require_on(image)
        scan = Scan.of(image, card)
        lookup, ignored = base.class_indices(mask, card)
        if ignored:
            seen = ~np.isin(mask.data, ignored)
            reviewed = seen if reviewed is None else reviewed & seen
        classes = scan.turned(lookup[mask.data])
        seen = np.ones(classes.shape, bool) if reviewed is None else scan.turned(reviewed)
        if not (classes > 0).any():
            msg = (
                f"expected liver or tumour in mask {mask.name!r} to train {card.name!r}, got none; "
                f"paint the liver or leave the case out"
            )
            raise InputError(msg)
        make = _liver_volume if _trained(card) == "liver" else _lesion_volume
        return [make(scan, classes, seen, self.patch(card))]

    def patch(self, card: ModelCard) -> tuple[int, ...]:
        """Return the trained network's own tile: instance norm makes the result depend on it."""
        return _tile(card, _trained(card))

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return soft Dice plus cross-entropy where the tile has output that was reviewed."""
        from maskloop.ops.losses import dice_ce

        network = cast("LiverTumour", network)
        is_liver = _trained(card) == "liver"
        logits = (network.liver if is_liver else network.lesions)(batch.images)
        ids = centre(batch.ids.unsqueeze(1), logits.shape[2:]).squeeze(1)
        target = (ids >= (1 if is_liver else 2)).long()
        target[ids == IGNORE] = IGNORE
        # A sigmoid is the softmax of its logit beside 0.
        return dice_ce(torch.cat([torch.zeros_like(logits), logits], 1), target, ignore=IGNORE)

    def augmentation(self, card: ModelCard) -> frozenset[str]:
        """Return what the authors trained with: mirrored left to right, and noise."""
        return frozenset(card.parameters.get("augmentation", ("mirror_x", "noise")))


def _segment(
    network: nn.Module,
    image: Image,
    card: ModelCard,
    device: Device,
    job: Job,
    *,
    wants_chances: bool,
) -> Segmentation:
    both = cast("LiverTumour", network)
    scan = Scan.of(image, card)
    liver_id, tumour_id = card.labels
    ids = np.zeros(scan.data.shape, np.uint8)
    codes = np.zeros(scan.data.shape, np.uint8) if wants_chances else None
    notes = list(scan.notes)
    with _stoppable(both, job):
        tile = _tile(card, "liver")
        liver = find_liver(both.liver, scan, tile=tile, device=device, job=job)
        if liver.any():
            tile = _tile(card, "lesions")
            view = lesion_view(scan, liver)
            chance = lesion_chance(both.lesions, view, tile=tile, device=device, job=job)
            ids[liver] = liver_id
            ids[view.box][drawn_lesions(view, chance, scan)] = tumour_id
            if codes is not None:
                codes[view.box] = encode(view.on_scan(chance, scan)[None])
        else:
            notes.append("no liver was found: the mask is empty")
    chances = None if codes is None else Chances(scan.back(codes), (tumour_id,))
    back = np.ascontiguousarray(scan.back(ids))
    return Segmentation(back, card.labels, tuple(notes), chances=chances)


def _trained(card: ModelCard) -> str:
    return str(card.parameters.get("train", card.variant or "lesions"))


def _tile(card: ModelCard, part: str) -> Tile:
    """Return what a network takes: as trained, unless the card of another training says else."""
    plain = LIVER_TILE if part == "liver" else LESION_TILE
    return tuple(int(n) for n in card.parameters.get(f"{part}_tile", plain))


def _output(tile: Tile, margin: Sequence[int]) -> Tile:
    return tuple(t - 2 * m for t, m in zip(tile, margin, strict=True))


def _require_two(labels: LabelTable) -> None:
    if len(labels) != 2:
        msg = (
            f"expected two labels, liver then tumour, for family 'liver', got {labels!r}; "
            f"merge or add labels"
        )
        raise InputError(msg)


@contextmanager
def _stoppable(network: nn.Module, job: Job) -> Iterator[None]:
    """Let the job stop the work before each convolution: a tile takes many seconds on a CPU."""
    hooks = [
        layer.register_forward_pre_hook(lambda *_: job.check())
        for layer in network.modules()
        if isinstance(layer, nn.Conv3d)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A CT turned so that z, y, x run to S, A, R.

    Parameters
    ----------
    data : array ``(z, y, x)``
        Hounsfield units, any real dtype; a view where it can be.
    spacing : tuple of float
        In mm along (z, y, x).
    axes, flips : tuple
        How the image's axes were turned.
    notes : tuple of str
        What a person should know about the input.
    """

    data: npt.NDArray[Any]
    spacing: Steps
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, image: Image, card: ModelCard) -> Scan:
        """Return the turned scan.

        Raises
        ------
        InputError
            If the image cannot be a CT.
        """
        words = card.why_not(
            ndim=image.geometry.ndim,
            channels=image.channels,
            frames=image.frames if image.has_time else 0,
            name=image.name,
        )
        if words:
            raise InputError(words)
        if image.channels != 1:
            msg = (
                f"expected a CT with one value a voxel for model {card.name!r}, got "
                f"{image.channels} channels in {image.name!r}; choose one channel"
            )
            raise InputError(msg)
        image = image.channel(0)
        data, notes = _hounsfield(image)
        axes, flips = image.geometry.towards("SAR")
        geometry = image.geometry.transposed(axes, flips)
        scan = cls(data, cast("Steps", geometry.spacing), axes, flips, notes)
        return cls(scan.turned(data), scan.spacing, axes, flips, notes)

    def turned(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array on the image's grid turned like the scan."""
        return np.flip(data.transpose(self.axes), self._flipped)

    def back(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array on the scan's grid turned back to the image's axes."""
        return np.flip(data, self._flipped).transpose(np.argsort(self.axes))

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self.flips) if flip)


def _hounsfield(image: Image) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    data, notes = image.data, []
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        data = np.nan_to_num(data, nan=-1024.0, posinf=3071.0, neginf=-1024.0)
        notes.append("voxels that are not numbers were taken as air")
    low, high = float(data.min()), float(data.max())
    if low >= 0 and high <= 255:
        msg = (
            f"expected a CT in Hounsfield units (air -1000, liver about 50 to 120), got "
            f"{image.name!r} with values {low:g} to {high:g}; export the scan with its rescale "
            f"slope and intercept, not as a picture"
        )
        raise InputError(msg)
    if low >= 0:
        notes.append(
            f"no value below 0 (range {low:g} to {high:g}): this does not look like Hounsfield "
            f"units, check the rescale intercept"
        )
    return data, tuple(notes)


def find_liver(network: LiverUNet, scan: Scan, *, tile: Tile, device: Device, job: Job) -> Region:
    """Return the liver (tumours in it included) on the scan's grid."""
    from scipy import ndimage

    box = find_abdomen(scan, _output(tile, LIVER_MARGIN))
    job.report("preparing the liver net", 0)
    image = liver_input(scan.data[box], scan.spacing)
    chance = run_liver(network, image, tile=tile, device=device, job=job)
    around = ndimage.generate_binary_structure(3, 2)
    opened = ndimage.binary_erosion(chance > 0.5, around)
    found = np.zeros(scan.data.shape, bool)
    if not opened.any():
        return found
    piece = ndimage.binary_dilation(components.largest(opened, connectivity=6), around)
    shape = found[box].shape
    near = resample(piece.astype(np.float32), LIVER_SPACING, scan.spacing, shape, area=False) > 0
    found[box] = near & (resample(chance, LIVER_SPACING, scan.spacing, shape, area=False) > 0.5)
    return found


def liver_input(data: npt.NDArray[Any], spacing: Steps) -> Field:
    """Return what the liver net sees of a cropped scan: 3 mm, median-filtered, -0.5 to 0.5."""
    from scipy import ndimage

    half: Steps = (1.5, 1.5, 1.5)
    fine = ndimage.median_filter(resample(data, spacing, half), size=3)
    return intensity(resample(fine, half, LIVER_SPACING))


def intensity(hounsfield: npt.NDArray[Any]) -> Field:
    """Return -200 to 200 HU as -0.5 to 0.5, clipped."""
    share = np.asarray(hounsfield, np.float32) / np.float32(1000)
    return np.asarray(np.clip(share, -0.2, 0.2) * np.float32(2.5), np.float32)


def run_liver(network: LiverUNet, image: Field, *, tile: Tile, device: Device, job: Job) -> Field:
    """Return the chance of liver for each voxel of `image`, which fits into the net's output."""
    whole = np.zeros(tile, np.float32)  # 0 around the scan, as trained: -0.5 costs 4 Dice points
    first = [t // 2 - n // 2 for t, n in zip(tile, image.shape, strict=True)]
    here = tuple(slice(f, f + n) for f, n in zip(first, image.shape, strict=True))
    whole[here] = image

    def attempt(rung: Rung) -> Field:
        network.to(rung.device.name)
        with torch.inference_mode(), autocast(rung.device):
            logits = network(torch.from_numpy(whole)[None, None].to(rung.device.name))
        return cast("Field", torch.sigmoid(logits.float())[0, 0].cpu().numpy())

    job.report("liver", 0, 1)
    output = run_ladder(_rungs(device, 1), attempt, job)
    job.report("liver", 1, 1)
    chance = np.zeros(tile, np.float32)
    chance[tuple(slice(m, m + n) for m, n in zip(LIVER_MARGIN, output.shape, strict=True))] = output
    return chance[here]


def find_abdomen(scan: Scan, most: Tile) -> Box:
    """Return the box of the body below a plane 70 mm above the lungs' lower end.

    The largest piece of soft tissue on a grid of about 3 mm. Without lungs in view the top is the
    scan's. No side is longer than the liver net's output, `most` voxels of 3 mm: too much is cut
    off at the feet, or at both sides.
    """
    from scipy import ndimage

    thin = [max(1, round(3.0 / s)) for s in scan.spacing]
    coarse = np.asarray(scan.data[tuple(slice(None, None, k) for k in thin)])
    steps = [k * s for k, s in zip(thin, scan.spacing, strict=True)]
    tissue = coarse > -150
    eroded = ndimage.binary_erosion(tissue, border_value=1)
    body = eroded if eroded.any() else tissue
    if not body.any():
        return tuple(slice(0, n) for n in scan.data.shape)
    body = components.largest(body, connectivity=6)
    box = list(ndimage.find_objects(body.astype(np.uint8))[0])
    top = _top(coarse[(slice(None), *box[1:])], steps)
    box[0] = slice(0, min(coarse.shape[0], top))
    found = []
    for axis, (part, k, n) in enumerate(zip(box, thin, scan.data.shape, strict=True)):
        low, high = max(0, (part.start - 1) * k), min(n, (part.stop + 1) * k)
        length = max(1, int(most[axis] * LIVER_SPACING[axis] / scan.spacing[axis]))
        if high - low > length:
            low = high - length if axis == 0 else (low + high - length) // 2
            high = low + length
        found.append(slice(low, high))
    return tuple(found)


def _top(coarse: npt.NDArray[Any], steps: Sequence[float]) -> int:
    """Return the slice that lies 70 mm above the lungs' lower end, or the number of slices."""
    from scipy import ndimage

    pieces, count = components.label(coarse < -600, connectivity=6)
    sides = [pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]]
    is_inside = np.ones(count + 1, bool)
    is_inside[0] = False
    for side in sides:
        is_inside[np.unique(side)] = False
    area = is_inside[pieces].sum(axis=(1, 2)) * steps[1] * steps[2]
    area = ndimage.uniform_filter1d(area.astype(float), max(1, round(20 / steps[0])))
    if area.max() < _LUNG_MM2:
        return len(coarse)
    dome = int(area.argmax())
    while dome > 0 and area[dome] > area.max() / 2:
        dome -= 1
    return dome + round(_ABOVE_DOME_MM / steps[0])


@dataclass(frozen=True, slots=True, eq=False)
class LesionView:
    """What the lesion net sees.

    Parameters
    ----------
    data : float32 array ``(z, y, x)``
        1 x 1 x 3 mm in the box of the twice-dilated liver; -0.5 outside that.
    liver : bool array
        The liver on the same grid.
    box : Box
        Of the scan, that was resampled.
    grid : tuple of int
        Shape of `box` at 1 x 1 x 3 mm.
    inner : Box
        Where `data` lies in it.
    """

    data: Field
    liver: Region
    box: Box
    grid: tuple[int, ...]
    inner: Box

    def on_scan(self, values: Field, scan: Scan) -> Field:
        """Return values of the net's grid in `box` of the scan, 0 beyond where it looked."""
        whole = np.zeros(self.grid, np.float32)
        whole[self.inner] = values
        shape = [part.stop - part.start for part in self.box]
        return resample(whole, LESION_SPACING, scan.spacing, shape, area=False)


def lesion_view(scan: Scan, liver: Region) -> LesionView:
    """Return the lesion net's view of the scan, given the liver on the scan's grid."""
    from scipy import ndimage

    margin = [math.ceil(15 / s) for s in scan.spacing]
    box = box_of(liver.view(np.uint8), 1, margin=margin)
    if box is None:
        msg = "expected a liver to look for tumours in, got an empty region; find the liver first"
        raise InputError(msg)
    data = resample(intensity(scan.data[box]), scan.spacing, LESION_SPACING)
    inside = resample(liver[box].astype(np.float32), scan.spacing, LESION_SPACING) > 0.5
    if not inside.any():  # a liver of less than a voxel: keep what there is of it
        inside = resample(liver[box].astype(np.float32), scan.spacing, LESION_SPACING) > 0
    near = ndimage.binary_dilation(inside, ndimage.generate_binary_structure(3, 2), iterations=2)
    inner = ndimage.find_objects(near.astype(np.uint8))[0]
    masked = np.where(near, data, _MASKED)[inner]
    return LesionView(np.ascontiguousarray(masked), inside[inner], box, data.shape, inner)


def lesion_chance(
    network: LiverUNet, view: LesionView, *, tile: Tile, device: Device, job: Job
) -> Field:
    """Return the chance of tumour on the net's grid."""
    starts = cover(view.liver, _output(tile, LESION_MARGIN))
    return run_lesions(network, view.data, starts, tile=tile, device=device, job=job)


def drawn_lesions(view: LesionView, chance: Field, scan: Scan) -> Region:
    """Return the tumours in the view's box of the scan's grid."""
    # As the recipe does: a voxel of the scan that any part of a lesion's voxel reaches is tumour.
    return view.on_scan((chance > 0.5).astype(np.float32), scan) > 1e-6


def run_lesions(
    network: LiverUNet,
    data: Field,
    starts: Sequence[tuple[int, ...]],
    *,
    tile: Tile,
    device: Device,
    job: Job,
) -> Field:
    """Return the chance of tumour in `data`, 0 where no tile's output lies.

    Out of memory, the batch shrinks, then the CPU takes over. The tile never changes.
    """

    def attempt(rung: Rung) -> Field:
        network.to(rung.device.name)
        chance = np.zeros(data.shape, np.float32)
        groups = [starts[i : i + rung.batch] for i in range(0, len(starts), rung.batch)]
        for group in job.track(groups, "tumours"):
            cut = np.stack([cut_tile(data, start, tile) for start in group])
            tiles = torch.from_numpy(cut)[:, None]
            if rung.device.kind == "cpu":
                logits = torch.cat(
                    [quick_lesions(network, t[None], check=job.check) for t in tiles]
                )
            else:
                with torch.inference_mode(), autocast(rung.device):
                    logits = network(tiles.to(rung.device.name))
            for start, output in zip(group, torch.sigmoid(logits.float())[:, 0].cpu(), strict=True):
                put_tile(chance, output.numpy(), start)
        return chance

    return run_ladder(_rungs(device, 4 if device.kind == "cuda" else 1), attempt, job)


def _rungs(device: Device, batch: int) -> list[Rung]:
    rungs = [Rung(device, n) for n in sorted({batch, 1}, reverse=True)]
    return rungs if device.kind == "cpu" else [*rungs, Rung(CPU, 1)]


def cut_tile(data: Field, start: Sequence[int], tile: Tile = LESION_TILE) -> Field:
    """Return the input whose output begins at `start`; 0 beyond the data, as trained."""
    found = np.zeros(tile, np.float32)
    into, of = [], []
    for s, m, t, n in zip(start, LESION_MARGIN, tile, data.shape, strict=True):
        low, high = max(0, s - m), min(n, s - m + t)
        of.append(slice(low, high))
        into.append(slice(low - s + m, high - s + m))
    found[tuple(into)] = data[tuple(of)]
    return found


def put_tile(whole: Field, output: Field, start: Sequence[int]) -> None:
    """Write the part of `output` that lies in `whole`, in place."""
    into, of = [], []
    for s, o, n in zip(start, output.shape, whole.shape, strict=True):
        low, high = max(0, s), min(n, s + o)
        into.append(slice(low, high))
        of.append(slice(low - s, high - s))
    whole[tuple(into)] = output[tuple(of)]


def cover(region: Region, size: Sequence[int]) -> list[tuple[int, ...]]:
    """Return starts of boxes of `size` that hold each voxel of `region` exactly once.

    The region's box is split along one axis into as few slabs as hold it, each slab's own box along
    the next, and so on; the order of axes that needs the fewest boxes wins. Starts may lie outside
    the array. No box is without a voxel of the region.
    """
    orders = itertools.permutations(range(region.ndim))
    best = min((_split(region, size, order) for order in orders), key=len)
    return [tuple(start[axis] for axis in range(region.ndim)) for start in best]


def _split(region: Region, size: Sequence[int], order: Sequence[int]) -> list[dict[int, int]]:
    """Return for each box its start along each axis in `order`."""
    axis, rest = order[0], order[1:]
    hit = np.flatnonzero(region.any(axis=tuple(a for a in range(region.ndim) if a != axis)))
    if not len(hit):
        return []
    step, length = size[axis], int(hit[-1] - hit[0] + 1)
    count = math.ceil(length / step)
    first = int(hit[0]) - (count * step - length) // 2
    starts = []
    for start in range(first, first + count * step, step):
        slab = region.take(range(max(0, start), min(region.shape[axis], start + step)), axis)
        inner = _split(slab, size, rest) if rest else [{}] * bool(slab.any())
        starts += [{axis: start, **found} for found in inner]
    return starts


def resample(
    data: npt.NDArray[Any],
    spacing: Steps,
    wanted: Steps,
    shape: Sequence[int] | None = None,
    *,
    area: bool = True,
) -> Field:
    """Return `data` on a grid about the same centre, with exactly the wanted spacing.

    Linear where the grid gets finer, the mean over each new voxel where it gets coarser, as the
    recipe does.

    Parameters
    ----------
    data : array ``(z, y, x)``
    spacing, wanted : tuple of float
        In mm along (z, y, x).
    shape : sequence of int, optional
        Of the result; else as many voxels as reach the far end.
    area : bool
        Whether to average where the grid gets coarser; else linear there too.
    """
    # The axis that shrinks most goes first: the others then have less to do.
    for axis in sorted(range(3), key=lambda a: spacing[a] / wanted[a]):
        n = data.shape[axis]
        count = (
            shape[axis] if shape is not None else math.ceil(n * spacing[axis] / wanted[axis] - 1e-6)
        )
        if count == n and abs(spacing[axis] - wanted[axis]) < 1e-6:
            continue
        weights = _weights(n, spacing[axis] / wanted[axis], count, area)
        data = np.moveaxis(
            np.tensordot(weights, data.astype(np.float32, copy=False), (1, axis)), 0, axis
        )
    return np.ascontiguousarray(data, np.float32)


def _weights(n: int, zoom: float, count: int, area: bool) -> Field:
    """Return the matrix ``(count, n)`` that resamples one axis."""
    middles = (np.arange(count) - (count - 1) / 2) / zoom + (n - 1) / 2
    old = np.arange(n)
    if zoom >= 1 or not area:
        middles = np.clip(middles, 0, n - 1)
        shares = np.clip(1 - np.abs(middles[:, None] - old), 0, None)
    else:
        half = 0.5 / zoom
        high = np.minimum(middles[:, None] + half, old + 0.5)
        low = np.maximum(middles[:, None] - half, old - 0.5)
        shares = np.clip(high - low, 0, None)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)


def _lesion_volume(scan: Scan, classes: npt.NDArray[Any], seen: Region, tile: Tile) -> Volume:
    view = lesion_view(scan, classes > 0)
    pads = []
    for n, margin, wanted in zip(view.data.shape, LESION_MARGIN, tile, strict=True):
        more = max(0, wanted - n - 2 * margin)
        pads.append((margin + more // 2, margin + more - more // 2))
    ids = np.zeros(view.data.shape, np.uint8)
    ids[view.liver] = 1
    tumour = resample((classes[view.box] == 2).astype(np.float32), scan.spacing, LESION_SPACING)
    ids[tumour[view.inner] > 0.5] = 2
    known = resample(seen[view.box].astype(np.float32), scan.spacing, LESION_SPACING)
    reviewed = known[view.inner] > 0.999
    return Volume(
        np.pad(view.data, pads)[None],
        np.pad(ids, pads),
        np.pad(reviewed, pads),
    )


def _liver_volume(scan: Scan, classes: npt.NDArray[Any], seen: Region, tile: Tile) -> Volume:
    box = find_abdomen(scan, _output(tile, LIVER_MARGIN))
    image = liver_input(scan.data[box], scan.spacing)
    share = resample(
        (classes[box] > 0).astype(np.float32), scan.spacing, LIVER_SPACING, image.shape
    )
    known = resample(seen[box].astype(np.float32), scan.spacing, LIVER_SPACING, image.shape)
    pads = [
        (t // 2 - n // 2, t - n - (t // 2 - n // 2)) for t, n in zip(tile, image.shape, strict=True)
    ]
    return Volume(
        np.pad(image, pads)[None],
        np.pad((share > 0.5).astype(np.uint8), pads),
        np.pad(known > 0.999, pads),
    )


FAMILY = LiverFamily()
