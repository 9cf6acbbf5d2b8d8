"""MeshNet plane by plane is MeshNet in one piece, and brainchop's files become its weights."""

from __future__ import annotations

import dataclasses
import json
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from maskloop.core.errors import Cancelled, InputError, UnknownNameError, WeightsError
from maskloop.core.files import sha256_of
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.loop.load import load
from maskloop.models import meshnet, tfjs, weights
from maskloop.models.blocks import start_he
from maskloop.models.cards import ModelCard, WeightFile, all_cards, find_card
from maskloop.models.meshnet import FAMILY, PLANS, MeshNet, Plan
from maskloop.ops.device import CPU

LABELS = LabelTable.classes({1: "white matter", 2: "grey matter"})
BRAINCHOP = [card.name for card in all_cards() if card.name.startswith("brainchop")]
TINY = {"features": 4, "dilations": [1, 2, 4]}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Work on a cube of 32 mm: the ways through it are those of 256."""
    monkeypatch.setattr(meshnet, "SIDE", 32)
    return 32


def card(**told: object) -> ModelCard:
    plain = FAMILY.card("", LABELS)
    return dataclasses.replace(plain, parameters={**plain.parameters, **TINY, **told})


def network_of(card: ModelCard) -> MeshNet:
    """Return a random network that finds each of its classes somewhere in `head`."""
    torch.manual_seed(0)
    network = FAMILY.build(card).eval()
    assert isinstance(network, MeshNet)
    start_he(network)
    levels = torch.from_numpy(head(orientation="LIA").data / np.float32(212))[None, None]
    with torch.no_grad():
        scores = network(levels)[0].flatten(1)
        network.score.bias.copy_(-scores.median(dim=1).values)
    return network


def head(shape: tuple[int, int, int] = (22, 26, 30), orientation: str = "SPL") -> Image:
    """Return a bright ball with a darker one in it, off the middle, in noise."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    away = np.linalg.norm(grid - np.array(shape) * (0.45, 0.5, 0.6), axis=-1)
    pixels = np.where(away < 9, np.where(away < 5, 90, 200), 0)
    noise = np.random.default_rng(0).integers(0, 12, shape)
    axes, flips = Geometry.regular(shape, (1.0, 1.0, 1.0)).towards(orientation)
    geometry = Geometry.regular(shape, (1.0, 1.0, 1.0))
    turned = (pixels + noise).astype(np.uint8).transpose(axes)
    turned = turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    return Image(np.ascontiguousarray(turned), geometry.transposed(axes, flips))


def segment(network: MeshNet, image: Image, card: ModelCard) -> np.ndarray:
    return FAMILY.segment(network, image, card=card, device=CPU, job=Job()).ids


@pytest.mark.parametrize(
    ("variant", "classes", "count"),
    [
        ("width20", 3, 87_183),
        ("width5", 3, 5_598),
        ("width11", 3, 23_290),
        ("width21", 18, 96_408),
        ("width30", 18, 196_038),
        ("width30", 50, 197_030),
        ("staircase21", 104, 86_372),
        ("mindgrab15", 2, 146_237),
    ],
)
def test_the_networks_of_brainchop_have_their_parameters(
    variant: str, classes: int, count: int
) -> None:
    network = MeshNet(1, classes, PLANS[variant])
    assert sum(p.numel() for p in network.parameters()) == count
    assert all(layer.padding == layer.dilation for layer in network.hidden)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(3, (1, 4, 16, 2)),
        Plan(4, (16, 8, 1), "relu"),
        Plan(3, (4, 2, 1), "gelu", norm=True),
    ],
)
def test_plane_by_plane_is_the_same_as_in_one_piece(plan: Plan) -> None:
    torch.manual_seed(0)
    network = MeshNet(2, 3, plan).eval()
    volume = torch.randn(2, 41, 9, 8)
    with torch.inference_mode():
        whole = network(volume[None])[0]
        parts = {p.start: s.clone() for p, s in network.sweep(volume, Job())}
        found = torch.cat([parts[at] for at in sorted(parts)], dim=1)
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
        # Slabs that do not know of their neighbours give something else.
        alone = torch.cat([network(part[None])[0] for part in volume.split(16, dim=1)], dim=1)
    assert (alone - whole).abs().max() > 1e-2 * whole.abs().max()


def test_a_cancelled_sweep_stops_within_a_layer() -> None:
    job = Job()
    network = MeshNet(1, 2, Plan(2, (1, 1)))
    sweep = network.sweep(torch.zeros(1, 40, 4, 4), job)
    next(sweep)
    job.cancel()
    with pytest.raises(Cancelled):
        list(network.sweep(torch.zeros(1, 40, 4, 4), job))


@pytest.mark.parametrize("orientation", ["LIA", "RAS", "PSR", "IRA"])
def test_a_volume_of_any_orientation_has_the_same_answer(small: int, orientation: str) -> None:
    plain = card()
    network = network_of(plain)
    known = segment(network, head(orientation="LIA"), plain)
    image = head(orientation=orientation)
    found = segment(network, image, plain)
    assert found.shape == image.geometry.shape
    axes, flips = image.geometry.towards("LIA")
    turned = found.transpose(axes)
    turned = turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    assert len(np.unique(known)) > 1
    assert (turned == known).mean() > 0.999
    # A network that is shown the axes as they come answers otherwise.
    if orientation != "LIA":
        unturned = segment(network, image, card(orientation=image.geometry.orientation))
        assert (unturned != found).mean() > 0.01


def test_the_grid_is_brought_to_one_millimetre_and_back(small: int) -> None:
    image = head()
    coarse = Image(image.data[::2, ::2, ::2], Geometry.regular((11, 13, 15), (2.0, 2.0, 2.0)))
    plain = card()
    found = segment(network_of(plain), coarse, plain)
    assert found.shape == coarse.geometry.shape
    assert found.any()


def test_what_lies_outside_the_cube_is_not_looked_at_and_said(small: int) -> None:
    heard: list[str] = []
    job = Job(lambda progress: heard.append(progress.note))
    shape = (20, 20, 60)
    pixels = np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8)
    image = Image(pixels, Geometry.regular(shape, (1.0, 1.0, 1.0)))
    plain = card(orientation="SPL")
    network = network_of(plain)
    with torch.no_grad():
        network.score.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    found = FAMILY.segment(network, image, card=plain, device=CPU, job=job).ids
    axis = int(np.argmax(found.shape))
    inside = np.flatnonzero(found.any(axis=tuple(a for a in range(3) if a != axis)))
    assert (inside[0], inside[-1]) == (14, 45)
    assert any("wider than 32 mm" in note for note in heard)


def test_the_largest_piece_is_kept_and_probabilities_say_the_same(small: int) -> None:
    image = head()
    data = image.data.copy()
    data[1:4, 1:4, 1:4] = 255
    image = dataclasses.replace(image, data=data)
    plain, kept = card(threshold=0.3), card(threshold=0.3, largest=True)
    network = network_of(plain)
    every, one = segment(network, image, plain), segment(network, image, kept)
    assert ndimage.label(every > 0, np.ones((3, 3, 3)))[1] > 1
    assert ndimage.label(one > 0, np.ones((3, 3, 3)))[1] == 1
    assert ((one == every) | (one == 0)).all()
    chances = FAMILY.probabilities(network, image, card=kept, device=CPU, job=Job())
    assert chances.shape == (3, *image.geometry.shape)
    assert (chances.argmax(0) == one).all()
    assert np.abs(chances.sum(0) - 1).max() < 1e-5


def test_a_second_network_gives_the_box(small: int) -> None:
    """What it calls background is not shown to the first."""
    told = {"outputs": 2, "features": 2, "dilations": [1], "activation": "relu"}
    plain = card(crop=told)
    network = network_of(plain)
    assert network.crop is not None
    with torch.no_grad():
        for part in network.crop.parameters():
            part.zero_()
        network.crop.hidden[0].weight[:, :, 1, 1, 1] = 1
        network.crop.score.weight[1] = 1
        network.crop.score.bias[1] = -1.2  # bright enough: the outer ball
        network.score.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    image = head(orientation="LIA")
    found = segment(network, image, plain)
    bright = ndimage.find_objects((image.data > 150).astype(int))[0]
    assert ndimage.find_objects((found > 0).astype(int))[0] == bright


@pytest.mark.parametrize("rule", ["quantile", "range"])
def test_levels_are_those_of_brainchop(rule: str) -> None:
    cube = (np.random.default_rng(0).gamma(1, 30, (9, 11, 13)) % 256).astype(np.uint8)
    ordered = np.sort(cube.ravel()).astype(float)
    low, high = ordered[0], ordered[-1]
    if rule == "quantile":
        low = ordered[int(np.floor(0.05 * cube.size))]
        high = ordered[int(np.ceil(0.95 * cube.size)) - 1]
    found = meshnet._levelled(cube, {"levels": rule})
    np.testing.assert_allclose(found, (cube - low) / (high - low), rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="'quantile'"):
        meshnet._levelled(cube, {"levels": "other"})


def test_values_become_bytes_without_the_brightest_thousandth() -> None:
    whole = np.arange(256, dtype=np.float32).reshape(1, 4, 8, 8)
    assert (meshnet.to_bytes(whole) == whole).all()
    values = np.linspace(-50, 949, 1000, dtype=np.float32).reshape(1, 10, 10, 10)
    values.flat[-1] = 1e6
    found = meshnet.to_bytes(values)
    assert found.min() == 0
    assert found.max() == 255
    assert found.flat[500] == pytest.approx(255 * 500 / 998, abs=1)
    assert not meshnet.to_bytes(np.zeros((1, 3, 3, 3), np.float32)).any()


def published(folder: Path, *, features: int = 3, classes: int = 2, dilation: int = 2) -> Path:
    """Write a MeshNet of one hidden layer as TensorFlow.js holds it."""
    rng = np.random.default_rng(1)
    tensors = {
        "conv3d_0/kernel": rng.normal(size=(3, 3, 3, 1, features)),
        "conv3d_0/bias": rng.normal(size=features),
        "output/kernel": rng.normal(size=(1, 1, 1, features, classes)),
        "output/bias": rng.normal(size=classes),
    }
    layers = [
        {"class_name": "InputLayer", "config": {"name": "input"}},
        {"class_name": "Conv3D", "config": {"name": "conv3d_0", "dilation_rate": [dilation] * 3}},
        {"class_name": "Activation", "config": {"name": "activation_1", "activation": "elu"}},
        {"class_name": "Conv3D", "config": {"name": "output"}},
    ]
    manifest = [
        {"name": key, "shape": list(value.shape), "dtype": "float32"}
        for key, value in tensors.items()
    ]
    found = {
        "format": "layers-model",
        "modelTopology": {"model_config": {"config": {"layers": layers}}},
        "weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": manifest}],
    }
    raw = b"".join(value.astype("<f4").tobytes() for value in tensors.values())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.bin").write_bytes(raw[:50])
    (folder / "b.bin").write_bytes(raw[50:])
    (folder / "model.json").write_text(json.dumps(found))
    return folder / "model.json"


def by_keras(path: Path, volume: np.ndarray) -> np.ndarray:
    """Return what the network of `published` answers to ``(z, y, x)``, kernel by kernel."""
    _, tensors = tfjs.read(path)
    hidden = []
    for k in range(tensors["conv3d_0/bias"].size):
        spread = np.zeros((5, 5, 5))
        spread[::2, ::2, ::2] = tensors["conv3d_0/kernel"][..., 0, k]
        found = ndimage.correlate(volume.astype(float), spread, mode="constant")
        found += tensors["conv3d_0/bias"][k]
        hidden.append(np.where(found > 0, found, np.expm1(found)))
    last = tensors["output/kernel"][0, 0, 0]
    return np.einsum("kzyx,kc->czyx", np.stack(hidden), last) + tensors["output/bias"].reshape(
        -1, 1, 1, 1
    )


def test_a_published_network_answers_as_keras_would(tmp_path: Path) -> None:
    path = published(tmp_path)
    volume = np.random.default_rng(2).normal(size=(7, 8, 9)).astype(np.float32)
    network = MeshNet(1, 2, Plan(3, (2,))).eval()
    state = {k: torch.from_numpy(v) for k, v in meshnet.state_of(path).items()}
    network.load_state_dict(state)
    expected = by_keras(path, volume)
    with torch.inference_mode():
        found = network(torch.from_numpy(volume)[None, None])[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        # Kernels whose axes are taken in another order give another answer.
        network.hidden[0].weight.copy_(state["hidden.0.weight"].transpose(2, 4))
        swapped = network(torch.from_numpy(volume)[None, None])[0].numpy()
    assert np.abs(swapped - expected).max() > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "graph-model"}, "graph-model"),
        ({"paths": ["../a.bin"]}, "plain file name"),
        ({"paths": ["/etc/passwd"]}, "plain file name"),
        ({"paths": ["absent.bin"]}, "absent.bin"),
        ({"paths": ["a.bin"]}, "bytes of weights"),
        ({"dtype": "uint8"}, "uint8"),
    ],
)
def test_files_that_are_not_such_a_model_are_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = published(tmp_path)
    found = json.loads(path.read_text())
    group = found["weightsManifest"][0]
    found["format"] = change.get("format", found["format"])
    group["paths"] = change.get("paths", group["paths"])
    group["weights"][0]["dtype"] = change.get("dtype", "float32")
    path.write_text(json.dumps(found))
    with pytest.raises(WeightsError, match=words):
        tfjs.read(path)
    path.write_text("{")
    with pytest.raises(WeightsError, match=r"expected a TensorFlow\.js model"):
        tfjs.read(path)


def test_another_network_is_not_taken_for_a_meshnet(tmp_path: Path) -> None:
    path = published(tmp_path)
    found = json.loads(path.read_text())
    found["modelTopology"]["model_config"]["config"]["layers"][1]["class_name"] = "Dense"
    path.write_text(json.dumps(found))
    with pytest.raises(WeightsError, match="public/models"):
        meshnet.state_of(path)


def pinned(folder: Path) -> ModelCard:
    """Return a card that means the files of `published` and nothing else."""
    target = folder.parent / "made.safetensors"
    meshnet.convert(folder, target)
    files = {name: sha256_of(folder / name) for name in ("model.json", "a.bin", "b.bin")}
    told = {"name": folder.name, "files": files, "origin": "example.org"}
    source = {"folder": told, "convert": "maskloop.models.meshnet:convert"}
    weight = WeightFile("own.safetensors", sha256_of(target), target.stat().st_size, source)
    labels = LabelTable.classes({1: "brain"})
    plain = FAMILY.card("", labels)
    parameters = {**plain.parameters, "features": 3, "dilations": [2]}
    return dataclasses.replace(plain, name="own", weights=(weight,), parameters=parameters)


@pytest.mark.parametrize("around", [False, True])
def test_weights_come_from_a_folder_that_is_pointed_to(tmp_path: Path, around: bool) -> None:
    folder = published(tmp_path / "some_model").parent
    card = pinned(folder)
    assert not weights.present(card)
    files = weights.fetch(card, source=tmp_path if around else folder)
    assert weights.present(card)
    FAMILY.load(card, files)
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_without_the_folder_the_way_to_it_is_said(tmp_path: Path) -> None:
    folder = published(tmp_path / "some_model").parent
    card = pinned(folder)
    with pytest.raises(WeightsError, match=r"example\.org and run: maskloop weights fetch own"):
        weights.fetch(card)
    with pytest.raises(WeightsError, match=r"expected model\.json of model 'own'"):
        weights.fetch(card, source=tmp_path.parent)
    (folder / "b.bin").write_bytes(b"0" * len((folder / "b.bin").read_bytes()))
    with pytest.raises(WeightsError, match="as it was published"):
        weights.fetch(card, source=folder)
    assert not weights.present(card)
    assert "some_model" in weights.origin(card.weights[0])


def test_an_unknown_plan_is_named() -> None:
    with pytest.raises(UnknownNameError, match="width20"):
        FAMILY.card("width7", LABELS)
    with pytest.raises(UnknownNameError, match="elu"):
        FAMILY.build(card(activation="sine"))


@pytest.fixture(scope="session")
def brainchop(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the eight published models."""
    folder = tmp_path_factory.mktemp("brainchop")
    with zipfile.ZipFile(shared_data / "weights" / "brainchop" / "models.zip") as packed:
        packed.extractall(folder)
    return folder


@pytest.mark.parametrize("name", BRAINCHOP)
def test_a_brainchop_model_is_ready_once_its_files_are_pointed_to(
    brainchop: Path, name: str
) -> None:
    card = find_card(name)
    assert card.licence == "MIT"
    assert not weights.present(card)
    network = FAMILY.load(card, weights.fetch(card, source=brainchop))
    assert isinstance(network, MeshNet)
    assert network.score.out_channels == len(card.labels) + 1
    assert (network.crop is not None) == ("crop" in card.parameters)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_grey_and_white_matter_of_a_real_head_have_their_volumes(
    brainchop: Path, shared_data: Path
) -> None:
    """723 ml of grey and 561 ml of white matter were found by another program, within a tenth."""
    image = load(shared_data / "mri" / "brainchop_t1" / "t1_crop.nii.gz")
    card = find_card("brainchop-tissue")
    network = FAMILY.load(card, weights.fetch(card, source=brainchop))
    assert isinstance(network, MeshNet)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    white, grey = np.bincount(segment(network, image, card).ravel(), minlength=3)[1:] / 1000
    assert grey == pytest.approx(723, rel=0.1)
    assert white == pytest.approx(561, rel=0.1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.6e6  # kB
