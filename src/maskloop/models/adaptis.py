"""AdaptIS: the object at a point; every object of a picture by points that it proposes itself.

Paper: K. Sofiiuk, O. Barinova, A. Konushin, "AdaptIS: Adaptive Instance Selection Network", ICCV
2019, Fig. 2 and 3, sections 3 and 4. Written from the paper; the authors' releases (MPL-2.0) are
not used, and no weights of theirs. Networks in `maskloop.models.adaptisnet`, losses in
`maskloop.models.adaptistargets`, drawing in `maskloop.models.adaptispicks`. Licence of the code:
BSD-3-Clause.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskloop.core.errors import InputError, UnknownNameError, WeightsError
from maskloop.models import adaptistargets as goals
from maskloop.models.adaptisnet import AdaptIS, AtrousDecoder, Seen, ToyUNet, sampled_at
from maskloop.models.adaptispicks import Drawn, Picking, drawn, on_image, picked
from maskloop.models.base import Answer, Sight
from maskloop.models.bounds import require_sound
from maskloop.models.instances import InstanceFamily, Targets, names_of, posed_for, view_of
from maskloop.models.objects import Found
from maskloop.models.pyramid import NORMS, trunk_of
from maskloop.ops.components import largest
from maskloop.ops.device import autocast, ladder, run_ladder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.models.base import Volume
    from maskloop.models.cards import ModelCard
    from maskloop.models.pasting import View
    from maskloop.ops.device import Device, Rung

_TITLES = {"toy": "AdaptIS, the toy U-Net", "resnet50": "AdaptIS, ResNet-50 at stride 4"}
_FEATURES = {"toy": 32, "resnet50": 128}
_REACH = {"toy": 42.0, "resnet50": 280.0}
_OUTWARD = {"toy": (0.2, -1.7), "resnet50": (1.0, 0.0)}
_SEMANTIC = 0.75  # weight of the loss of classes
# Optimiser, rate, reach and points as the paper has them (sections 4.1 and 4.2). It counts epochs,
# 170 of its toy pictures and 258 of Cityscapes: patch, batch and the steps they make of that are
# our reading.
_PAPER: dict[str, dict[str, Any]] = {  # Any: JSON
    "toy": {
        "rate": 5e-4,
        "weight_decay": 0.0,
        "batch": 14,
        "steps": 121_000,
        "parameters": {
            "patch": [96, 96],
            "head_window": 0,
            "reach": 42,
            "points": 6,
            "proposal_points": 48,
        },
    },
    "resnet50": {
        "optimiser": "sgd",
        "momentum": 0.9,
        "rate": 0.01,
        "schedule": "poly",
        "weight_decay": 1e-4,
        "batch": 8,
        "steps": 93_000,
        "parameters": {
            "patch": [400, 800],
            "head_window": 0,
            "reach": 280,
            "points": 6,
            "proposal_points": 32,
        },
    },
}


class AdaptISFamily(InstanceFamily):
    """AdaptIS on its toy U-Net, or on a dilated residual network; stateless.

    The paper trains in two stages: all but the proposals; then, with all else frozen, those. Here
    both go on in every step of the one loop, and neither disturbs the other: what the proposals
    learn from is computed as when predicting, without gradients, and their head reads features
    that no gradient flows back into (a test says so). Early in a training they learn from poor
    masks; later steps put that right.

    `card.parameters`, besides those of `InstanceFamily`: ``width`` (1.0), ``features`` (32, or 128:
    of the features and heads), ``norm`` (``"batch"``), ``backbone`` (``"resnet50"``, of that
    variant), ``head_window`` (side in the network's pixels of what is looked at round a point;
    0: the whole picture, as in the paper), ``reach`` (pixels that count as 1 in relative
    coordinates; both found by `survey` where a fresh card is silent), ``points`` (8: in objects of
    a picture, in training), ``proposal_points`` (10: of one object of a picture, in training),
    ``threshold`` (0.5), ``things`` (0.6), ``proposal`` (0.35), ``least_pixels`` (10),
    ``most_shared`` (0.4): see `Picking`.
    """

    name = "adaptis"
    title = "AdaptIS (Sofiiuk 2019)"
    variants: tuple[str, ...] = tuple(_TITLES)
    trunk = "backbone.trunk."

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`."""
        variant = self.known(variant)
        return self.fresh(
            variant,
            labels,
            _TITLES[variant],
            {
                # A network that begins from nothing takes what grey means from the picture.
                "normalise": "zscore" if variant == "toy" else "imagenet",
                "heads": ["semantic.9."],
                "recipe": {"rate": 1e-3, "batch": 4, "steps": 1500},
                "recipes": {"paper": _PAPER[variant]},
            },
            sources=("doi:10.1109/ICCV.2019.00745",),
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        require_sound(card)
        told, variant = card.parameters, self.known(card.variant)
        norm = str(told.get("norm", "batch"))
        if norm not in NORMS:
            raise UnknownNameError.of("norm", norm, list(NORMS))
        make = NORMS[norm]
        features = int(told.get("features", _FEATURES[variant]))
        if features < 2:
            msg = f"expected 2 features or more, got {features}; correct the card"
            raise InputError(msg)
        backbone: ToyUNet | AtrousDecoder
        if variant == "toy":
            width = float(told.get("width", 1.0))
            backbone = ToyUNet(card.channels, features, width=width, make=make)
        else:
            backbone = AtrousDecoder(trunk_of(card, dilated=(5,)), features, make=make)
        outputs = int(told.get("outputs", len(card.labels) + 1))
        return AdaptIS(backbone, features, outputs, make=make, outward=_OUTWARD[variant]).eval()

    def begin(self, card: ModelCard, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the network on a classifier's residual network, or on one of the family.

        The toy has no residual network: it begins on one of the family alone.
        """
        if self.known(card.variant) == "resnet50":
            return super().begin(card, state)
        if not any(key.startswith("backbone.down.") for key in state):
            msg = (
                f"expected a network with a residual backbone to begin on a classifier, got "
                f"{card.name!r}; choose the variant resnet50, or leave out the start"
            )
            raise WeightsError(msg)
        toy = AdaptISFamily()
        toy.trunk = "backbone."  # by which a whole network of the family is known
        return InstanceFamily.begin(toy, card, state)

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return scores of classes, the worth of points and the object at the middle, as maps."""
        parts = _checked(network)
        seen = parts(images)
        height, width = images.shape[2:]
        middle = torch.tensor([[height / 2, width / 2]], device=images.device)
        first = torch.zeros(1, dtype=torch.int64, device=images.device)
        rules = rules_of(card)
        logits, _ = parts.objects_at(seen, first, middle, side=0, reach=rules.reach)
        return torch.cat([seen.classes[:1], seen.proposals[:1], logits[None]], dim=1)

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        """Return the objects in one view, by the network's own points, the best first."""
        parts, rules = _checked(network), rules_of(card)
        seen = _seen(parts, view.picture, device)
        names = names_of(card)
        found = []
        for one in picked(parts, seen, rules, size=view.seen):
            region = on_image(one, view, parts.stride, rules.threshold)
            if region is None:
                continue
            box, chances = region
            # An object is one piece: scraps elsewhere are of others.
            is_in = largest(chances > rules.threshold)
            score = one.worth * float(chances[is_in].mean())
            category = _category(one, seen, names, rules.threshold)
            found.append(Found(box, is_in, score, category))
        return found

    def survey(self, card: ModelCard, volumes: Iterable[Volume]) -> ModelCard:
        """Return the card with a window and a reach that fit the objects of the training cases.

        Nine objects of ten fit into the window whichever of their pixels is the point; for one
        that does not, a wider window is looked at (`drawn`). What a card tells stays, and all of
        that of a trained network.
        """
        told = card.parameters
        if card.weights or ("head_window" in told and "reach" in told):
            return card
        sides = [side for volume in volumes for side in _sides(volume)]
        if not sides:
            return card
        largest = float(np.percentile(sides, 90))
        window = int(np.clip(-(-2 * largest // 32) * 32, 64, 512))
        fitted = {"head_window": window, "reach": window // 2}
        return replace(card, parameters={**told, **fitted, **_only(told, fitted)})

    def losses(
        self, network: nn.Module, images: Tensor, targets: Sequence[Targets], *, card: ModelCard
    ) -> Tensor:
        """Return the loss of objects at points, of classes (times 0.75), and of proposals."""
        parts, rules = _checked(network), rules_of(card)
        seen = parts(images)
        size = images.shape[2:]
        classes = torch.stack([goals.class_map(one) for one in targets])
        loss = _SEMANTIC * goals.class_loss(_enlarged(seen.classes, size), classes)
        filled = [n for n, one in enumerate(targets) if len(one)]
        if not filled:
            return loss + 0 * sum(p.sum() for p in parts.parameters() if p.requires_grad)
        count = int(card.parameters.get("points", 8))
        points, which, truth = [], [], []
        for n in filled:
            places, numbers = goals.points_in(targets[n], count)
            points.append(places)
            which += [n] * count
            truth += [targets[n].masks[i] for i in numbers.tolist()]
        asked = torch.tensor(which, device=images.device)
        logits, starts = _masks(parts, seen, asked, torch.cat(points), rules)
        unseen = goals.windows_of([targets[n].unseen for n in which], starts, logits)
        loss = loss + goals.object_loss(logits, goals.windows_of(truth, starts, logits), ~unseen)
        count = int(card.parameters.get("proposal_points", 10))
        return (
            loss
            + torch.stack(
                [_proposal_loss(parts, seen, n, targets[n], count, rules) for n in filled]
            ).mean()
        )

    def look(
        self,
        network: nn.Module,
        image: Image,
        *,
        card: ModelCard,
        device: Device,
        job: Job,
        near: tuple[int, int] | None = None,
    ) -> Sight:
        """Return what of the image does not depend on a point; see `Clicks.look`."""
        posed = posed_for(image, card)
        shape = posed.data.shape[1:]
        side = int(card.parameters.get("window", 1024)) or max(shape)
        tile = tuple(min(side, n) for n in shape)

        def attempt(rung: Rung) -> Sight:
            network.to(rung.device.torch).eval()
            box = _round(near, rung.tile or tile, shape)
            view = view_of(posed.data[(slice(None), *box)], card, self.multiple, rung.device)
            with torch.inference_mode():
                seen = _seen(_checked(network), view.picture, rung.device)
            return Sight(box, (view, seen))

        least = tuple(min(256, n) for n in tile)
        return run_ladder(ladder(device, 1, tile, smallest_tile=least), attempt, job)

    def answer(
        self, network: nn.Module, sight: Sight, point: tuple[int, int], *, card: ModelCard
    ) -> Answer | None:
        """Return the object at a point of the image; see `Clicks.answer`."""
        view, seen = sight.kept
        parts, rules = _checked(network), rules_of(card)
        at = [
            (index - part.start + 0.5) / ratio - 0.5
            for index, part, ratio in zip(point, sight.box, view.ratio, strict=True)
        ]
        with torch.inference_mode():
            place = torch.tensor([at], device=seen.features.device)
            one = Drawn(*next(drawn(parts, seen, place, rules)))
            region = on_image(one, view, parts.stride, rules.threshold)
            if region is None:
                return None
            category = _category(one, seen, names_of(card), rules.threshold)
        box = tuple(
            slice(part.start + whole.start, part.stop + whole.start)
            for part, whole in zip(region[0], sight.box, strict=True)
        )
        return Answer(box, region[1], rules.threshold, category)


def rules_of(card: ModelCard) -> Picking:
    """Return by what rules a card's network draws."""
    told, usual = card.parameters, Picking()
    return Picking(
        side=int(told.get("head_window", 0)),
        reach=float(told.get("reach", _REACH.get(card.variant, usual.reach))),
        threshold=float(told.get("threshold", usual.threshold)),
        things=float(told.get("things", usual.things)),
        proposal=float(told.get("proposal", usual.proposal)),
        least_area=int(told.get("least_pixels", usual.least_area)),
        most_shared=float(told.get("most_shared", usual.most_shared)),
    )


def _checked(network: nn.Module) -> AdaptIS:
    if not isinstance(network, AdaptIS):
        msg = f"expected an AdaptIS, got {type(network).__name__}; build it from its card"
        raise InputError(msg)
    return network


def _seen(network: AdaptIS, picture: Tensor, device: Device) -> Seen:
    with autocast(device):
        seen: Seen = network(picture)
    return Seen(
        seen.features.float(), seen.told.float(), seen.classes.float(), seen.proposals.float()
    )


def _only(told: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:  # Any: JSON
    return {key: told[key] for key in keys if key in told}


def _sides(volume: Volume) -> list[int]:
    """Return the longer side of each object, in pixels of the network."""
    from scipy import ndimage

    places = ndimage.find_objects(np.asarray(volume.ids).astype(np.int64))
    return [
        max(part.stop - part.start for part in box)
        for number, box in enumerate(places, start=1)
        if box is not None and number in volume.categories
    ]


def _enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _masks(
    network: AdaptIS, seen: Seen, which: Tensor, points: Tensor, rules: Picking
) -> tuple[Tensor, Tensor]:
    """Return logits ``(p, h, w)`` of pixels, and the pixels from which their windows go."""
    logits, starts = network.objects_at(
        seen, which, points.float(), side=rules.side, reach=rules.reach
    )
    size = [n * network.stride for n in logits.shape[1:]]
    return _enlarged(logits[:, None], size)[:, 0], starts * network.stride


def _proposal_loss(
    network: AdaptIS, seen: Seen, number: int, targets: Targets, count: int, rules: Picking
) -> Tensor:
    """Return how badly the worth of points in one object of a picture is told."""
    points, chosen = goals.points_of_one(targets, count)
    mask = targets.masks[chosen]
    which = torch.full((count,), number, device=points.device)
    with torch.no_grad(), as_used(network.head):
        logits, starts = _masks(network, seen, which, points, rules)
        truth, unseen = (
            goals.windows_of([one] * count, starts, logits) for one in (mask, targets.unseen)
        )
        is_in = logits.sigmoid() > rules.threshold
        worth = goals.worth(goals.overlaps(is_in, truth, ~unseen, int(mask.sum())))
    cells = (points.float() + 0.5) / network.stride - 0.5
    told = sampled_at(seen.proposals, which, cells)[:, 0].float()
    return functional.binary_cross_entropy_with_logits(told, worth)


@contextmanager
def as_used(part: nn.Module) -> Iterator[None]:
    """Let a part answer as it will when predicting; each of its modules is as before afterwards."""
    modes = [(module, module.training) for module in part.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _category(one: Drawn, seen: Seen, names: Mapping[int, str], threshold: float) -> str:
    """Return the class that the pixels of an object most look like."""
    scores = seen.classes[(0, slice(None), *one.place)].softmax(0)
    means = scores[:, one.chances > threshold].mean(1)
    return names[max(names, key=lambda output: float(means[output]))]


def _round(
    near: tuple[int, int] | None, tile: Sequence[int], shape: Sequence[int]
) -> tuple[slice, ...]:
    """Return a box of size `tile` in `shape` with a point as near to its middle as can be."""
    middle = near or [n // 2 for n in shape]
    starts = [
        min(max(at - side // 2, 0), n - side)
        for at, side, n in zip(middle, tile, shape, strict=True)
    ]
    return tuple(slice(a, a + side) for a, side in zip(starts, tile, strict=True))


FAMILY = AdaptISFamily()
