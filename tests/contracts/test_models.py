"""What every model family and every card on the shelf promises, ours and other packages'."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.models import FAMILIES, LISTED, cards, weights
from maskloop.models.base import IGNORE, Batch, Family, Volume, load_strict, write_state
from maskloop.models.cards import ModelCard
from maskloop.ops.device import CPU

# A family of an extra that is not installed is not there to keep promises.
NAMES = [
    name
    for name in FAMILIES
    if name not in LISTED or not LISTED[name].needs or find_spec(LISTED[name].needs[0])
]
CARDS = {card.name: card for card in cards.all_cards()}
VARIANTS = [(name, variant) for name in NAMES for variant in FAMILIES.get(name).variants or ("",)]
AUGMENTATIONS = {"mirror_x", "mirror_y", "mirror_z", "rotate", "scale"}
AUGMENTATIONS |= {"elastic", "elastic_grid", "gamma", "noise", "blur"}
LIGHT = {"fcn": "8s", "torchsemantic": "lraspp_mobilenet_v3_large", "liver": "liver"}
MIXED = LabelTable([Label(1, "nucleus", is_thing=True), Label(2, "matrix")])
_PICTURE = {"shortest": 64, "longest": 96, "patch": [64, 64]}
_TINY = {"backbone": "resnet18", "width": 0.25, "features": 16, "patch": [64, 64]}
SMALL: dict[str, dict[str, object]] = {
    "adaptis": {"width": 0.25, "features": 16, "patch": [64, 64], "points": 4},
    "deeplab": {"width": 0.125, "patch": [64, 64]},
    "fcn": {"width": 0.0625, "patch": [64, 64]},
    "instancefcn": {
        **_PICTURE,
        "backbone": "resnet18",
        "width": 0.25,
        "features": 32,
        "proposals": 20,
    },
    "liver": {"liver_tile": [54, 54, 54], "lesions_tile": [62, 100, 100]},
    "maskrcnn": {**_PICTURE, "proposals": 20, "detections": 10, "samples": 16, "norm": "group"},
    "meshnet": {"features": 4, "dilations": [1, 2, 1], "patch": [24, 24, 24]},
    "panoptic": {
        **_PICTURE,
        "proposals": 20,
        "detections": 10,
        "samples": 16,
        "norm": "group",
        "backbone": "resnet18",
        "width": 0.25,
        "features": 16,
        "least_stuff": 1,
    },
    "patchnet": {"width": 0.25, "patch": [110, 110]},
    "polarmask": {**_TINY, "convs": 2, "detections": 20},
    "segnet": {"width": 0.125, "patch": [64, 64]},
    "smp": {"encoder": "mobilenet_v2", "patch": [64, 64]},
    "solo": {**_TINY, "grids": [8, 6, 5, 4, 3], "convs": 2, "detections": 20},
    "torchsemantic": _PICTURE,
    "unet": {"width": 0.0625, "patch": [188, 188], "tile": [236, 236]},
    "yolact": {
        "backbone": "resnet18",
        "width": 0.25,
        "features": 16,
        "patch": [64, 64],
        "least_score": 0.05,
    },
}


def quick(card: ModelCard) -> ModelCard:
    """Return the card with little for the network to see at once: its promises are the same."""
    return dataclasses.replace(card, parameters={**card.parameters, **SMALL.get(card.family, {})})


def fresh(name: str) -> ModelCard:
    """Return the card of an untrained network of the family's lightest variant."""
    family = FAMILIES.get(name)
    labels = LabelTable.classes({1: "liver", 2: "tumour"})
    if name == "flows":
        labels = LabelTable([Label(1, "nucleus", is_thing=True)])
    if "panoptic" in family.tasks:
        labels = MIXED
    return quick(family.card(LIGHT.get(name, family.variants[0]), labels))


def suitable(card: ModelCard) -> Image:
    """Return a small image of the kind the card names."""
    rng = np.random.default_rng(0)
    if card.ndim == 3:
        shape = (20, 34, 30)
        return Image(
            rng.integers(-150, 250, shape).astype(np.int16),
            Geometry.regular(shape, (3.0, 2.5, 2.5)),
        )
    shape = (48, 56)
    size = (*shape, 3) if card.channels == 3 else shape
    pixels = rng.integers(0, 256, size, dtype=np.uint8)
    return Image(pixels, Geometry.pixels(shape), has_channels=card.channels == 3)


def truth(image: Image, card: ModelCard) -> Mask:
    """Return two blobs of the card's first and last label, objects where the task wants them."""
    ids = np.zeros(image.geometry.shape, np.uint8)
    middle = tuple(slice(n // 4, n // 2) for n in ids.shape)
    corner = tuple(slice(n // 2 + 2, n - 3) for n in ids.shape)
    first, last = min(card.labels), max(card.labels)
    if card.task == "instance":
        ids[middle], ids[corner] = 1, 2
        rows = [(1, card.labels[first].name), (2, card.labels[last].name)]
        return Mask.like(image, ids, LabelTable(Label(i, f"{n} {i}", category=n) for i, n in rows))
    ids[middle], ids[corner] = first, last
    return Mask.like(image, ids, card.labels)


def as_batch(case: Volume, patch: tuple[int, ...]) -> Batch:
    """Return the middle of a volume, cut and padded to the patch, and its mirror image."""
    data, ids = case.data, case.ids.astype(np.int64)
    for axis, (have, want) in enumerate(zip(ids.shape, patch, strict=True)):
        start = max(0, (have - want) // 2)
        keep = slice(start, start + want)
        ids = ids[(slice(None),) * axis + (keep,)]
        data = data[(slice(None),) * (axis + 1) + (keep,)]
    lacks = [want - have for have, want in zip(ids.shape, patch, strict=True)]
    pads = [(n // 2, n - n // 2) for n in lacks]
    data = np.pad(data, [(0, 0), *pads])
    ids = np.pad(ids, pads, constant_values=IGNORE)
    return Batch(
        torch.from_numpy(np.stack([data, data[..., ::-1]])),
        torch.from_numpy(np.stack([ids, ids[..., ::-1]])),
        [dict(case.categories)] * 2,
    )


@pytest.fixture(scope="module")
def networks() -> Iterator[dict[str, torch.nn.Module]]:
    return {}


def network_of(name: str, kept: dict[str, torch.nn.Module]) -> torch.nn.Module:
    if name not in kept:
        torch.manual_seed(0)
        kept[name] = FAMILIES.get(name).build(fresh(name))
    return kept[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_family_answers_the_whole_protocol(name: str) -> None:
    family = FAMILIES.get(name)
    assert isinstance(family, Family)
    assert family.name == name
    assert family.title
    assert set(family.tasks) <= set(cards.TASKS)
    assert set(family.ndims) <= {2, 3}
    for method in ("segment", "prepare", "train_step"):
        wanted = inspect.signature(getattr(Family, method)).parameters
        assert list(inspect.signature(getattr(family, method)).parameters) == list(wanted)[1:]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_fresh_card_is_untrained_and_survives_json(name: str, variant: str) -> None:
    family = FAMILIES.get(name)
    labels = LabelTable([Label(1, "nucleus", is_thing=True)])
    if name != "flows" and "instance" not in family.tasks:
        labels = LabelTable.classes({1: "liver", 2: "tumour"})
    if "panoptic" in family.tasks:
        labels = MIXED
    card = family.card(variant, labels)
    assert (card.family, card.variant, card.status) == (name, variant, "untrained")
    assert card.weights == ()
    assert card.labels == labels
    assert card.task in family.tasks
    assert card.ndim in family.ndims
    assert len(family.patch(card)) == card.ndim
    assert family.augmentation(card) <= AUGMENTATIONS
    assert ModelCard.from_json(card.to_json()) == card


@pytest.mark.parametrize("name", NAMES)
def test_weights_there_and_back_are_the_same_network(
    name: str, networks: dict[str, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = network_of(name, networks)
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    write_state(network, path)
    again = FAMILIES.get(name).load(fresh(name), {path.name: path})
    assert not again.training
    state = again.state_dict()
    assert set(state) == set(network.state_dict())
    for key, value in network.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_ids_lie_on_the_images_grid_with_known_labels(
    name: str, networks: dict[str, torch.nn.Module]
) -> None:
    card = fresh(name)
    image = suitable(card)
    before = image.data.copy()
    found = FAMILIES.get(name).segment(
        network_of(name, networks).eval(), image, card=card, device=CPU, job=Job()
    )
    mask = Mask.like(image, found.ids, found.labels)
    assert found.ids.dtype.kind == "u"
    assert set(mask.ids()) <= set(found.labels)
    known = {row.name for row in card.labels.values()}
    if card.task == "instance":
        assert {row.category for row in found.labels.values()} <= known
        assert all(row.is_thing for row in found.labels.values())
    elif card.task == "panoptic":
        assert {row.category for row in found.labels.values() if row.is_thing} <= {"nucleus"}
        assert {row.name for row in found.labels.values() if not row.is_thing} <= {"matrix"}
    else:
        assert {row.name for row in found.labels.values()} == known
    np.testing.assert_array_equal(image.data, before)


@pytest.mark.parametrize("name", [n for n in NAMES if FAMILIES.get(n).is_trainable])
def test_a_training_step_has_a_finite_loss_and_gradients(
    name: str, networks: dict[str, torch.nn.Module]
) -> None:
    family, card = FAMILIES.get(name), fresh(name)
    image = suitable(card)
    cases = family.prepare(image, truth(image, card), card=card, reviewed=None, job=Job())
    assert cases
    for case in cases:
        assert case.data.dtype == np.float32
        assert case.data.shape[0] == card.channels
        assert case.data.shape[1:] == case.ids.shape
        assert len(case.ids.shape) == card.ndim
        assert case.ids.any()
    network = network_of(name, networks).train()
    loss = family.train_step(network, as_batch(cases[0], family.patch(card)), card=card)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().sum() > 0 for g in gradients)
    network.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", [n for n in NAMES if FAMILIES.get(n).is_trainable])
def test_nothing_is_learnt_from_an_image_nobody_reviewed(
    name: str, networks: dict[str, torch.nn.Module]
) -> None:
    family, card = FAMILIES.get(name), fresh(name)
    image = suitable(card)
    (case, *_) = family.prepare(image, truth(image, card), card=card, reviewed=None, job=Job())
    batch = as_batch(case, family.patch(card))
    unseen = Batch(batch.images, torch.full_like(batch.ids, IGNORE), [{}, {}])
    network = network_of(name, networks).train()
    loss = family.train_step(network, unseen, card=card)
    assert torch.isfinite(loss)
    if loss.requires_grad:
        loss.backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in network.parameters())
    network.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", [n for n, c in CARDS.items() if weights.present(c)])
def test_shipped_weights_load_strictly(name: str) -> None:
    card = CARDS[name]
    files = weights.paths(card)
    network = FAMILIES.get(card.family).load(card, files)
    assert not network.training
    assert all(torch.isfinite(v).all() for v in network.state_dict().values())


@pytest.mark.parametrize("name", list(CARDS))
def test_a_card_builds_its_network(name: str) -> None:
    card = CARDS[name]
    family = FAMILIES.get(card.family)
    assert card.variant in (*family.variants, "")
    assert card.task in family.tasks
    assert card.ndim in family.ndims
    with torch.device("meta"):
        network = family.build(card)
    assert sum(p.numel() for p in network.parameters()) > 1000


@pytest.mark.parametrize("name", NAMES)
def test_naming_a_family_imports_none(name: str) -> None:
    code = (
        "import sys; from maskloop.models import FAMILIES; "
        f"assert {name!r} in FAMILIES; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_wrong_network_is_refused_by_the_shipped_weights() -> None:
    from maskloop.core.errors import WeightsError

    card = CARDS["phantom-liver"]
    with pytest.raises(WeightsError, match="missing"):
        load_strict(torch.nn.Linear(2, 2), weights.paths(card), name=card.name)
