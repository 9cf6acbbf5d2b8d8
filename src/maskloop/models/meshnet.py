"""MeshNet: dilated convolutions at full resolution, for whole MR volumes of the head.

Papers: A. Fedorov, J. Johnson, E. Damaraju, A. Ozerin, V. Calhoun, S. Plis, "End-to-end learning of
brain tissue segmentation from imperfect labeling", IJCNN 2017 (the network, Table I); M. Masoud, F.
Hu, S. Plis, "Brainchop: In-browser MRI volumetric segmentation and rendering", Journal of Open
Source Software, 2023 (the models, and how a volume is brought to them). Written for maskloop; no
code of others. Licence of the code: BSD-3-Clause; of the brainchop weights: MIT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.boxes import box_of
from maskloop.core.errors import InputError, UnknownNameError, WeightsError
from maskloop.core.image import smallest_unsigned
from maskloop.models import tfjs
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.ops import candidates, components
from maskloop.ops.device import ladder, run_ladder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from maskloop.core.geometry import Box
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.models.base import Volume
    from maskloop.ops.device import Device, Rung

SIDE = 256  # voxels of 1 mm: the cube that all of these networks were trained on
_PLANES = 16  # of a volume, convolved at a time: the memory above that of one layer's features
_SURE = 30.0  # score of background where the network did not look
_EPSILON = 1e-5

_WAVE = (1, 2, 4, 8, 16, 8, 4, 2, 1)
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu_,
    "elu": F.elu_,
    "gelu": F.gelu,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a MeshNet is made of.

    Parameters
    ----------
    features : int
        Of every hidden layer.
    dilations : tuple of int
        One a hidden layer.
    activation : {"relu", "elu", "gelu"}
    norm : bool
        Whether each hidden layer has an instance norm without weights instead of a bias.
    """

    features: int
    dilations: tuple[int, ...] = _WAVE
    activation: str = "elu"
    norm: bool = False


PLANS = {
    "width20": Plan(20),
    "width5": Plan(5, activation="relu"),
    "width11": Plan(11, (1, 2, 4, 8, 4, 2, 2, 1), "relu"),
    "width21": Plan(21),
    "width30": Plan(30),
    "staircase21": Plan(21, (1, 2, 2, 4, 4, 8, 8, 16), "relu"),
    "mindgrab15": Plan(15, (16, 8, 4, 2, 1) * 5, "gelu", norm=True),
}


class MeshNet(nn.Module):
    """3-cube convolutions at full resolution, each with its own dilation, and a 1-cube one.

    Parameters
    ----------
    channels, classes : int
    plan : Plan
    """

    def __init__(self, channels: int, classes: int, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        widths = [channels, *[plan.features] * len(plan.dilations)]
        self.hidden = nn.ModuleList(
            nn.Conv3d(a, b, 3, padding=d, dilation=d, bias=not plan.norm)
            for a, b, d in zip(widths, widths[1:], plan.dilations, strict=False)
        )
        self.score = nn.Conv3d(plan.features, classes, 1)
        self.crop: MeshNet | None = None  # finds the box that this one is shown

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``(n, classes, z, y, x)`` of ``(n, channels, z, y, x)``."""
        act = _ACTIVATIONS[self.plan.activation]
        for layer in self.hidden:
            x = layer(x)
            x = act(F.instance_norm(x, eps=_EPSILON) if self.plan.norm else x)
        found: Tensor = self.score(x)
        return found

    @torch.inference_mode()
    def sweep(self, volume: Tensor, job: Job) -> Iterator[tuple[slice, Tensor]]:
        """Yield the scores ``(classes, planes, y, x)`` of a volume ``(channels, z, y, x)``.

        The same numbers as `forward`, with one set of features in memory: a layer overwrites what
        the one before left, plane by plane, and remembers the few planes it still needs.
        """
        features = volume.new_empty((self.plan.features, *volume.shape[1:]))
        taken = volume
        for layer in job.track(self.hidden, "layers"):
            _overwrite(layer, taken, features, job)
            if self.plan.norm:
                _normalise(features)
            for planes in _slabs(volume.shape[1]):
                features[:, planes] = _ACTIVATIONS[self.plan.activation](features[:, planes])
            taken = features
        for planes in _slabs(volume.shape[1]):
            yield planes, self.score(features[None, :, planes])[0]


def _overwrite(layer: nn.Module, taken: Tensor, out: Tensor, job: Job) -> None:
    """Put a layer's answer to `taken` into `out`, which may be the same tensor."""
    if not isinstance(layer, nn.Conv3d):
        msg = f"expected a convolution, got {type(layer).__name__}"
        raise TypeError(msg)
    reach, depth = layer.dilation[0], taken.shape[1]
    behind = taken[:, :0].clone()  # the old planes below those to come, as far as they reach
    for planes in _slabs(depth):
        job.check()
        ahead = min(depth, planes.stop + reach)
        slab = torch.cat([behind, taken[:, planes.start : ahead]], dim=1)
        first = planes.start - behind.shape[1]
        behind = slab[:, max(0, planes.stop - reach - first) : planes.stop - first].clone()
        missing = max(0, reach - planes.start), max(0, planes.stop + reach - depth)
        slab = F.pad(slab, (0, 0, 0, 0, *missing))[None]
        out[:, planes] = F.conv3d(
            slab, layer.weight, layer.bias, padding=(0, reach, reach), dilation=reach
        )[0]


def _slabs(depth: int) -> list[slice]:
    return [slice(at, min(at + _PLANES, depth)) for at in range(0, depth, _PLANES)]


def _normalise(features: Tensor) -> None:
    """Bring each channel of ``(c, z, y, x)`` to mean 0 and variance 1, in place."""
    for channel in features:
        mean = channel.mean(dtype=torch.float64).float()
        channel -= mean
        channel *= torch.rsqrt(channel.square().mean(dtype=torch.float64) + _EPSILON).float()


class MeshNetFamily(DenseFamily):
    """MeshNet on MR volumes, brought to a cube of 256 mm as brainchop does.

    `card.parameters` read here, besides those of `DenseFamily`: ``features``, ``dilations``,
    ``activation``, ``norm`` (of a `Plan`; else those of the variant), ``levels`` (``"range"``:
    smallest and largest value become 0 and 1; ``"quantile"``: those of 5 and 95 %), ``threshold``
    (share of the largest value from which a voxel belongs to the head; the network sees the head's
    box alone), ``rim`` (voxels added round that box), ``largest`` (whether the largest connected
    piece alone is kept), ``crop`` (such parameters of a second network, whose answer gives the box
    instead of the head).
    """

    name = "meshnet"
    title = "MeshNet"
    ndims = (3,)
    variants = tuple(PLANS)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network for T1-weighted heads."""
        variant = self.known(variant)
        return ModelCard(
            name=f"{self.name}-{variant}",
            title="MeshNet, untrained",
            family=self.name,
            variant=variant,
            labels=labels,
            modality="MR, T1-weighted head",
            spacing=(1.0, 1.0, 1.0),
            licence="BSD-3-Clause",
            sources=("arXiv:1612.00940", "doi:10.21105/joss.05098"),
            parameters={
                "orientation": "LIA",
                "levels": "range",
                "patch": [64, 64, 64],
                "batch": 1,
                "heads": ["score"],
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; with the one that finds its box, if any."""
        network = MeshNet(card.channels, len(card.labels) + 1, plan_of(card, card.parameters))
        crop = card.parameters.get("crop")
        if crop:
            network.crop = MeshNet(card.channels, int(crop["outputs"]), plan_of(card, crop))
        return network

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
        """Return class indices on the grid of `data`, layer by layer; see `MeshNet.sweep`."""
        if self.settles(card):
            return super().infer(network, data, card=card, device=device, job=job, things=things)
        return self._whole(network, data, card, device, job, things)

    def scores(
        self,
        network: nn.Module,
        data: npt.NDArray[np.float32],
        *,
        card: ModelCard,
        device: Device,
        job: Job,
    ) -> npt.NDArray[np.float32]:
        """Return class scores ``(k, *spatial)`` on the grid of `data`."""
        found = _outside(len(card.labels) + 1, data.shape[1:])
        self._whole(network, data, card, device, job, (), found)
        return found

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: npt.NDArray[np.bool_] | None,
        job: Job,
    ) -> list[Volume]:
        """Return the case on the network's grid, its levels as the network will see them."""
        volumes = super().prepare(image, mask, card=card, reviewed=reviewed, job=job)
        return [replace(v, data=_levelled(to_bytes(v.data), card.parameters)) for v in volumes]

    def _whole(
        self,
        network: nn.Module,
        data: npt.NDArray[np.float32],
        card: ModelCard,
        device: Device,
        job: Job,
        things: tuple[int, ...],
        scores: npt.NDArray[np.float32] | None = None,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]:
        """Return class indices and codes of `things`; fill `scores` where given."""
        from maskloop.ops.tiling import Watch

        if not isinstance(network, MeshNet):
            msg = f"expected a MeshNet, got {type(network).__name__}; build it from its card"
            raise InputError(msg)
        held, place = _middles(data.shape[1:], (SIDE,) * 3)
        cube = np.zeros((len(data), *(SIDE,) * 3), dtype=np.uint8)
        cube[:, *place] = to_bytes(data)[:, *held]
        if math.prod(data.shape[1:]) > math.prod(p.stop - p.start for p in held):
            job.say(f"the volume is wider than {SIDE} mm: its rim was not looked at")
        ids = np.zeros(cube.shape[1:], dtype=smallest_unsigned(len(card.labels)))
        watch = Watch(things, np.zeros(cube.shape[1:], np.uint8)) if things else None
        full = None if scores is None else _outside(len(scores), ids.shape)

        def attempt(rung: Rung) -> None:
            network.to(rung.device.torch).eval()
            box = self._box(network, cube, card, rung.device, job)
            seen = torch.from_numpy(_levelled(cube, card.parameters)[:, *box])
            for planes, part in network.sweep(seen.to(rung.device.torch), job):
                at = (slice(box[0].start + planes.start, box[0].start + planes.stop), *box[1:])
                ids[at] = part.argmax(0).cpu().numpy()
                if full is not None:
                    full[:, *at] = part.cpu().numpy()
                if watch is not None:
                    chances = part.softmax(0)[list(things)].cpu().numpy()
                    watch.codes[at] = candidates.encode(chances)

        run_ladder(ladder(device, 1), attempt, job)
        if card.parameters.get("largest", False):
            stray = (ids > 0) & ~components.largest(ids > 0)
            ids[stray] = 0
            if full is not None:
                full[:, stray] = _outside(len(full), (1,))
        if scores is not None and full is not None:
            scores[:, *held] = full[:, *place]
        return _within(ids, data.shape[1:], held, place), (
            None if watch is None else _within(watch.codes, data.shape[1:], held, place)
        )

    def _box(
        self,
        network: MeshNet,
        cube: npt.NDArray[np.uint8],
        card: ModelCard,
        device: Device,
        job: Job,
    ) -> Box:
        """Return the part of the cube that the network is shown."""
        told = card.parameters
        if network.crop is None:
            return _head(_levelled(cube, told)[0], told)
        levels = _levelled(cube, told["crop"])
        head = _head(levels[0], told["crop"])
        region = np.zeros(cube.shape[1:], dtype=bool)
        seen = torch.from_numpy(levels[:, *head]).to(device.torch)
        for planes, part in network.crop.sweep(seen, job):
            region[head][planes] = (part.argmax(0) > 0).cpu().numpy()
        found = box_of(region, 1, margin=int(told.get("rim", 0)))
        return head if found is None else found


def _head(levels: npt.NDArray[np.float32], told: Mapping[str, Any]) -> Box:  # Any: JSON
    """Return the box of what is brighter than the threshold, with its rim."""
    least = float(told.get("threshold", 0.0)) * float(levels.max(initial=0))
    box = box_of(levels > least, 1, margin=int(told.get("rim", 0)))
    return tuple(slice(0, n) for n in levels.shape) if box is None else box


def plan_of(card: ModelCard, told: Mapping[str, Any]) -> Plan:  # Any: JSON
    """Return the plan that parameters tell, or that of the card's variant."""
    if "features" not in told:
        if card.variant not in PLANS:
            raise UnknownNameError.of(f"variant of {card.family}", card.variant, list(PLANS))
        return PLANS[card.variant]
    plan = Plan(
        int(told["features"]),
        tuple(int(n) for n in told["dilations"]),
        str(told.get("activation", "elu")),
        bool(told.get("norm", False)),
    )
    if plan.activation not in _ACTIVATIONS:
        raise UnknownNameError.of("activation", plan.activation, list(_ACTIVATIONS))
    return plan


def to_bytes(data: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return a volume in 256 levels, as FreeSurfer's conforming leaves it.

    Whole numbers from 0 to 255 stay. Others are stretched from the smallest value to that below
    which 99.9 % of the voxels other than 0 lie.
    """
    low, high = float(data.min(initial=0)), float(data.max(initial=0))
    if low >= 0 and 1 < high <= 255 and bool((data == np.rint(data)).all()):
        return data.astype(np.uint8)
    bright = data[data != 0]
    top = float(np.quantile(bright, 0.999, method="lower")) if bright.size else 0.0
    scaled = (data - np.float32(low)) * np.float32(255 / max(top - low, 1e-6))
    found: npt.NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return found


def _levelled(
    cube: npt.NDArray[np.uint8],
    told: Mapping[str, Any],  # Any: JSON
) -> npt.NDArray[np.float32]:
    """Return bytes mapped to about 0 to 1, as ``levels`` says."""
    rule = told.get("levels", "range")
    if rule == "range":
        low, high = int(cube.min(initial=255)), int(cube.max(initial=0))
    elif rule == "quantile":
        ranks = np.cumsum(np.bincount(cube.ravel(), minlength=256))
        low = int(np.searchsorted(ranks, math.floor(0.05 * cube.size), side="right"))
        high = int(np.searchsorted(ranks, math.ceil(0.95 * cube.size) - 1, side="right"))
    else:
        msg = f"expected levels 'range' or 'quantile', got {rule!r}; correct the card's parameters"
        raise InputError(msg)
    return (cube.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1))


def _middles(have: Sequence[int], want: Sequence[int]) -> tuple[Box, Box]:
    """Return the part of an array, and where it goes in another, so that their middles meet."""
    sizes = [min(h, w) for h, w in zip(have, want, strict=True)]
    held, place = (
        tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(lengths, sizes, strict=True))
        for lengths in (have, want)
    )
    return held, place


def _within(
    cube: npt.NDArray[Any], shape: Sequence[int], held: Box, place: Box
) -> npt.NDArray[Any]:  # Any: the dtype stays
    found = np.zeros(tuple(shape), dtype=cube.dtype)
    found[held] = cube[place]
    return found


def _outside(classes: int, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return scores of a place that was not looked at: background."""
    found = np.zeros((classes, *shape), dtype=np.float32)
    found[0] = _SURE
    return found


def convert(source: Path, target: Path) -> None:
    """Write the weights of the brainchop model in the folder `source` as safetensors."""
    _write(state_of(source / "model.json"), target)


def convert_crop(source: Path, target: Path) -> None:
    """Write them as those of the network that finds the box of another one."""
    _write({f"crop.{k}": v for k, v in state_of(source / "model.json").items()}, target)


def _write(state: Mapping[str, npt.NDArray[np.float32]], target: Path) -> None:
    from safetensors.numpy import save_file

    save_file({key: state[key] for key in sorted(state)}, target)


def state_of(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors of a brainchop model under the names of `MeshNet`.

    Raises
    ------
    WeightsError
        If its layers are not those of a MeshNet.
    """
    layers, tensors = tfjs.read(path)
    names = [n["config"]["name"] for n in layers if n["class_name"] == "Conv3D"]
    state: dict[str, npt.NDArray[np.float32]] = {}
    for number, name in enumerate(names):
        ours = "score" if name == names[-1] else f"hidden.{number}"
        kernel = tensors.pop(f"{name}/kernel", None)
        if kernel is None or kernel.ndim != 5:
            msg = (
                f"expected the kernel of a 3D convolution under {name!r} in {path}, got "
                f"{'none' if kernel is None else kernel.shape}; give a brainchop model"
            )
            raise WeightsError(msg)
        # Keras has (z, y, x, in, out), torch (out, in, z, y, x).
        state[f"{ours}.weight"] = np.ascontiguousarray(kernel.transpose(4, 3, 0, 1, 2))
        if f"{name}/bias" in tensors:
            state[f"{ours}.bias"] = tensors.pop(f"{name}/bias")
    if tensors or not names:
        msg = f"expected the layers of a MeshNet in {path}, got also {sorted(tensors)}; {_WHICH}"
        raise WeightsError(msg)
    return state


_WHICH = "give a model of the folder public/models of github.com/neuroneural/brainchop"

FAMILY = MeshNetFamily()
