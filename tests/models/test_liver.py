from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.errors import Cancelled, InputError, WeightsError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.models import cards, liver, livernets, weights
from maskloop.models.base import IGNORE, Batch
from maskloop.models.cards import ModelCard
from maskloop.models.liver import FAMILY, Scan
from maskloop.models.livernets import LiverTumour, LiverUNet
from maskloop.ops.device import CPU
from maskloop.ops.phantom import phantom_ct

SMALL = {"liver_tile": [54, 54, 54], "lesions_tile": [62, 100, 100]}
LABELS = LabelTable.classes({1: "liver", 2: "tumour"})


def small_card(variant: str = "lesions") -> ModelCard:
    card = FAMILY.card(variant, LABELS)
    return dataclasses.replace(card, parameters={**card.parameters, **SMALL})


@pytest.fixture(scope="module")
def network() -> LiverTumour:
    torch.manual_seed(0)
    found = FAMILY.build(small_card()).eval()
    assert isinstance(found, LiverTumour)
    return found


def test_the_two_networks_have_the_published_parameters() -> None:
    with torch.device("meta"):
        network = LiverTumour()
    counts = {
        name: (sum(p.numel() for p in part.parameters()), len(list(part.parameters())))
        for name, part in network.named_children()
    }
    assert counts == {"liver": (3_874_961, 30), "lesions": (3_464_221, 42)}


@pytest.mark.parametrize(
    ("part", "into", "margin"),
    [
        ("liver", (54, 27, 81), liver.LIVER_MARGIN),
        ("lesions", (62, 100, 92), liver.LESION_MARGIN),
        pytest.param("liver", (162, 162, 189), (13, 13, 13), marks=pytest.mark.slow),
        pytest.param("lesions", (86, 172, 180), (22, 44, 44), marks=pytest.mark.slow),
    ],
)
def test_outputs_are_smaller_than_tiles_by_the_published_margins(
    network: LiverTumour, part: str, into: tuple[int, ...], margin: tuple[int, ...]
) -> None:
    with torch.inference_mode():
        found = network.get_submodule(part)(torch.zeros(1, 1, *into))
    assert found.shape[2:] == tuple(n - 2 * m for n, m in zip(into, margin, strict=True))


def test_a_turned_keras_kernel_correlates_as_its_author_meant() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 1, 2, 1)).astype(np.float32)  # (x, y, z, in, out)
    image = rng.normal(size=(7, 6, 5, 2)).astype(np.float32)  # (x, y, z, channel)
    wanted = sum(
        ndimage.correlate(image[..., c], kernel[..., c, 0], mode="constant")[1:-1, 1:-1]
        for c in range(2)
    )
    turned = torch.from_numpy(livernets.turned(kernel))
    ours = torch.nn.functional.conv3d(torch.from_numpy(image.transpose(3, 2, 1, 0))[None], turned)
    np.testing.assert_allclose(ours[0, 0].numpy().transpose(2, 1, 0), wanted, atol=1e-5)


def write_keras(path: Path, *, is_residual: bool) -> LiverUNet:
    """Write a random network as Keras would, and return it."""
    import h5py

    torch.manual_seed(1)
    network = LiverUNet(is_residual=is_residual)
    with h5py.File(path, "w") as file:
        for number, (_, layer) in enumerate(network.convolutions(), start=1):
            group = file.create_group(f"conv3d_{number}/conv3d_{number}")
            kernel = layer.weight.detach().numpy().transpose(4, 3, 2, 1, 0)
            group["kernel:0"], group["bias:0"] = kernel, layer.bias.detach().numpy()
        file["header/voxel_size"] = [1.0, 1.0, 3.0]
    return network


def test_converted_weights_load_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    parts = {}
    for name in ("liver", "lesions"):
        parts[name] = write_keras(tmp_path / f"{name}.hdf5", is_residual=name == "lesions")
        for again in ("a", "b"):
            livernets.convert(tmp_path / f"{name}.hdf5", tmp_path / f"{name}-{again}.safetensors")
    files = {n: tmp_path / f"{n}-a.safetensors" for n in parts}
    for name, path in files.items():
        assert path.read_bytes() == (tmp_path / f"{name}-b.safetensors").read_bytes()
    network = FAMILY.load(small_card(), files)
    state = network.state_dict()
    for name, part in parts.items():
        for key, value in part.state_dict().items():
            torch.testing.assert_close(state[f"{name}.{key}"], value, rtol=0, atol=0)


@pytest.mark.parametrize("content", [b"not hdf5", b""])
def test_a_damaged_hdf5_is_refused_in_three_parts(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.hdf5"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"expected Keras weights .* fetch the file again"):
        livernets.convert(path, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_another_network_is_not_converted(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "w.hdf5", "w") as file:
        file["conv3d_1/conv3d_1/kernel:0"] = np.zeros((3, 3, 3, 1, 1))
    with pytest.raises(WeightsError, match="expected 15 or 21 convolutions"):
        livernets.convert(tmp_path / "w.hdf5", tmp_path / "w.safetensors")


def test_a_cube_on_an_enlarged_tensor_is_eight_small_cubes() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 3, 4, 5, 6), torch.randn(2, 3, 3, 3, 3)
    large = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")
    torch.testing.assert_close(
        livernets.enlarged_convolution(x, weight),
        torch.nn.functional.conv3d(large, weight),
        rtol=1e-4,
        atol=1e-4,
    )


def liver_like(shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tile with a blob of random values, -0.5 in the box round it, 0 beyond that."""
    rng = np.random.default_rng(0)
    tile = np.zeros(shape, np.float32)
    tile[5:-8, 20:-4, :-30] = -0.5
    tile[20:40, 40:70, 30:60] = rng.uniform(-0.4, 0.5, (20, 30, 30))
    return torch.from_numpy(tile)[None, None]


@pytest.mark.parametrize("shape", [(62, 100, 116), (70, 100, 100)])
def test_the_quick_way_equals_the_network(network: LiverTumour, shape: tuple[int, ...]) -> None:
    tile = liver_like(shape)
    with torch.no_grad():
        wanted = network.lesions(tile)
    found = livernets.quick_lesions(network.lesions, tile)
    scale = float(wanted.std())
    assert scale > 0
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * max(scale, 1.0))


def test_the_quick_way_equals_the_network_where_nothing_is_still(network: LiverTumour) -> None:
    tile = torch.from_numpy(np.random.default_rng(2).normal(size=(1, 1, 62, 100, 100))).float()
    with torch.no_grad():
        wanted = network.lesions(tile)
    found = livernets.quick_lesions(network.lesions, tile)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_the_network_sees_a_reversed_z(network: LiverTumour) -> None:
    tile = liver_like((62, 100, 100))
    with torch.no_grad():
        plain, reversed_ = network.lesions(tile), network.lesions(tile.flip(2)).flip(2)
    assert float((plain - reversed_).abs().max()) > 10 * 1e-4


def test_a_scan_reaches_the_network_with_the_head_up_in_all_48_poses() -> None:
    shape, card = (5, 6, 7), small_card()
    plain = Geometry.regular(shape, (3.0, 2.0, 1.0))
    data = np.arange(210, dtype=np.int16).reshape(shape) - 100
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product([False, True], repeat=3):
            turned = data.transpose(axes)
            turned = np.flip(turned, [a for a, f in enumerate(flips) if f])
            scan = Scan.of(Image(turned, plain.transposed(axes, flips)), card)
            np.testing.assert_array_equal(scan.data, data)
            assert scan.spacing == pytest.approx((3.0, 2.0, 1.0))
            np.testing.assert_array_equal(scan.back(scan.data), turned)


@given(
    region=st.builds(
        lambda seed, shape: np.random.default_rng(seed).random(shape) > 0.97,
        st.integers(0, 1000),
        st.tuples(*[st.integers(1, 30)] * 3),
    )
)
@settings(max_examples=60, deadline=None)
def test_tiles_cover_each_voxel_of_the_region_exactly_once(region: np.ndarray) -> None:
    size = (4, 9, 7)
    starts = liver.cover(region, size)
    count = np.zeros(region.shape, int)
    for start in starts:
        box = tuple(slice(max(0, s), max(0, s + n)) for s, n in zip(start, size, strict=True))
        assert region[box].any()
        count[box] += 1
    assert (count[region] == 1).all()
    assert (count <= 1).all()


def test_a_box_of_liver_takes_no_more_tiles_than_its_own_grid() -> None:
    assert len(liver.cover(np.ones((62, 212, 202), bool), (42, 84, 92))) == 2 * 3 * 3


def test_what_is_cut_and_put_back_is_the_same() -> None:
    data = np.random.default_rng(0).random((50, 90, 100)).astype(np.float32)
    tile, margin = (62, 100, 100), liver.LESION_MARGIN
    inner = tuple(slice(m, t - m) for m, t in zip(margin, tile, strict=True))
    found = np.zeros_like(data)
    size = [s.stop - s.start for s in inner]
    for start in liver.cover(np.ones(data.shape, bool), size):
        liver.put_tile(found, liver.cut_tile(data, start, tile)[inner], start)
    np.testing.assert_array_equal(found, data)


@pytest.mark.parametrize("wanted", [1.0, 1.5, 2.0, 3.7])
def test_resampling_keeps_a_ramp_in_its_place(wanted: float) -> None:
    spacing = (2.0, 2.0, 2.0)
    ramp = np.arange(40, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32) * 2
    found = liver.resample(ramp, spacing, (wanted, 2.0, 2.0))[:, 1, 1]
    middles = (np.arange(len(found)) - (len(found) - 1) / 2) * wanted + 39.0
    inside = slice(2, -2)
    np.testing.assert_allclose(found[inside], middles[inside], atol=0.02 * wanted)


def test_the_abdomen_starts_above_the_dome_and_fits_the_output() -> None:
    shape, spacing = (220, 150, 190), (3.0, 3.0, 3.0)
    data = np.full(shape, -1000, np.int16)
    data[:, 20:130, 15:175] = 40
    data[150:, 40:100, 30:80] = -850  # lungs, from 450 mm up
    data[150:, 40:100, 110:160] = -850
    scan = Scan(data, spacing, (0, 1, 2), (False,) * 3, ())
    z, y, x = liver.find_abdomen(scan, (136, 136, 163))
    assert z.stop == pytest.approx(150 + 70 / 3, abs=5)
    assert z.stop - z.start == 136
    assert y.start <= 20 < 130 <= y.stop
    assert x.start <= 15 < 175 <= x.stop


def image_of(data: np.ndarray, **more: bool) -> Image:
    return Image(data, Geometry.regular(data.shape[:3], (3.0, 3.0, 3.0)), **more)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            Image(np.zeros((40, 50), np.int16), Geometry.pixels((40, 50))),
            "expected a volume .* choose a 2D model",
        ),
        (
            image_of(np.zeros((8, 9, 10, 3), np.int16), has_channels=True),
            "expected a CT with one value a voxel .* got 3 channels .* choose one channel",
        ),
        (
            image_of(np.arange(720).reshape(8, 9, 10).astype(np.float32) % 256),
            "expected a CT in Hounsfield units .* values 0 to 255; export the scan",
        ),
    ],
)
def test_what_cannot_be_a_ct_is_refused_in_three_parts(image: Image, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Scan.of(image, small_card())


def test_values_without_an_intercept_are_remarked_on() -> None:
    data = np.arange(720).reshape(8, 9, 10).astype(np.int16) * 3
    (note,) = Scan.of(image_of(data), small_card()).notes
    assert "no value below 0" in note


def test_a_scan_without_a_liver_gives_an_empty_mask_and_says_so(network: LiverTumour) -> None:
    image = image_of(np.full((20, 21, 22), -1000, np.int16))
    with torch.no_grad():
        network.liver.head.bias.fill_(-1e4)
    found = FAMILY.segment(network, image, card=small_card(), device=CPU, job=Job())
    with torch.no_grad():
        network.liver.head.bias.zero_()
    assert not found.ids.any()
    assert "no liver was found: the mask is empty" in found.notes


def test_stop_is_heard_between_convolutions(network: LiverTumour) -> None:
    image, _ = phantom_ct(0)
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        FAMILY.segment(network, image, card=small_card(), device=CPU, job=job)
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_out_of_memory_ends_on_the_cpu_with_the_same_tile(
    network: LiverTumour, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    tries = itertools.count()

    def failing(net: LiverUNet, tile: torch.Tensor, **_: object) -> torch.Tensor:
        seen.append(tuple(tile.shape))
        if next(tries) == 0:
            msg = "DefaultCPUAllocator: not enough memory"
            raise RuntimeError(msg)
        return torch.zeros(1, 1, 18, 12, 12)

    monkeypatch.setattr(liver, "quick_lesions", failing)
    monkeypatch.setattr(liver, "_rungs", lambda *_: [liver.Rung(CPU, 2), liver.Rung(CPU, 1)])
    job = Job()
    tile = (62, 100, 100)
    starts = [(0, 0, 0), (18, 0, 0)]
    data = np.zeros((36, 12, 12), np.float32)
    chance = liver.run_lesions(network.lesions, data, starts, tile=tile, device=CPU, job=job)
    assert (chance == 0.5).all()
    assert set(seen) == {(1, 1, *tile)}
    assert any("memory ran out" in note for note in job.notes)


@pytest.mark.parametrize("variant", ["lesions", "liver"])
def test_training_sees_the_masks_liver_and_ignores_what_nobody_reviewed(variant: str) -> None:
    image, mask = phantom_ct(3, shape=(40, 60, 60), spacing=(4.0, 4.0, 4.0), lesions=(3, 3))
    card = small_card(variant)
    room = {**card.parameters, "liver_tile": [108, 108, 108]}  # the whole scan fits in its output
    card = dataclasses.replace(card, parameters=room)
    reviewed = np.zeros(mask.data.shape, bool)
    reviewed[20:] = True
    (case,) = FAMILY.prepare(image, mask, card=card, reviewed=reviewed, job=Job())
    assert case.reviewed is not None
    assert case.data.shape[1:] == case.ids.shape == case.reviewed.shape
    assert all(n >= t for n, t in zip(case.ids.shape, FAMILY.patch(card), strict=True))
    assert 0.2 < case.reviewed[case.ids > 0].mean() < 0.9
    volume = float(np.prod(FAMILY.card(variant, LABELS).spacing or ()))
    tumour = 2 if variant == "lesions" else 1
    wanted = (mask.data >= tumour).sum() * image.geometry.voxel_size
    assert (case.ids >= tumour).sum() * volume == pytest.approx(wanted, rel=0.2)
    if variant == "lesions":
        outside = (case.ids == 0) & (case.data[0] != 0)
        assert (case.data[0][outside] == -0.5).mean() > 0.5


def test_a_mask_without_liver_cannot_be_trained_on() -> None:
    image, mask = phantom_ct(3, shape=(20, 30, 30), spacing=(6.0, 6.0, 6.0))
    empty = Mask.like(image, np.zeros_like(mask.data), LABELS)
    with pytest.raises(InputError, match="expected liver or tumour"):
        FAMILY.prepare(image, empty, card=small_card(), reviewed=None, job=Job())


@pytest.mark.parametrize("variant", ["lesions", "liver"])
def test_a_training_step_learns_in_the_tiles_output_only(variant: str) -> None:
    card = small_card(variant)
    network = FAMILY.build(card).train()
    shape = FAMILY.patch(card)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, *shape))).float()
    ids = torch.full((1, *shape), IGNORE)
    ids[:, 0] = 2  # beyond the output: no voxel that counts
    loss = FAMILY.train_step(network, Batch(images, ids), card=card)
    assert float(loss.detach()) == 0
    ids[:] = 1
    ids[:, :, 50:] = 2
    loss = FAMILY.train_step(network, Batch(images, ids), card=card)
    loss.backward()
    part = network.get_submodule(variant)
    other = network.get_submodule("liver" if variant == "lesions" else "lesions")
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in part.parameters())
    assert all(p.grad is None for p in other.parameters())


def real(shared_data: Path) -> tuple[ModelCard, torch.nn.Module]:
    card = cards.find_card("liver-tumour")
    files = weights.fetch(card, source=shared_data / "weights" / "pyliverlesionseg")
    return card, FAMILY.load(card, files)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_liver_of_a_real_ct_at_3_mm(shared_data: Path) -> None:
    from maskloop.loop.load import load, load_mask

    folder = shared_data / "ct_liver" / "ircadb17"
    card, network = real(shared_data)
    scan = Scan.of(load(folder / "ct_3mm.nii.gz"), card)
    truth = scan.turned(load_mask(folder / "labels_3mm.nii.gz").data) > 0
    parts = network.get_submodule("liver")
    assert isinstance(parts, LiverUNet)
    found = liver.find_liver(parts, scan, tile=liver.LIVER_TILE, device=CPU, job=Job())
    assert dice(found, truth) >= 0.94
    upside = dataclasses.replace(scan, data=scan.data[::-1])
    wrong = liver.find_liver(parts, upside, tile=liver.LIVER_TILE, device=CPU, job=Job())[::-1]
    assert dice(wrong, truth) < dice(found, truth) - 0.02


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_liver_and_tumours_of_a_real_dicom_series(shared_data: Path, tmp_path: Path) -> None:
    import zipfile

    import nibabel

    from maskloop.loop.load import load

    folder = shared_data / "ct_liver" / "ircadb17"
    with zipfile.ZipFile(folder / "PATIENT_DICOM.zip") as archive:
        archive.extractall(tmp_path)
    series = next(p.parent for p in sorted(tmp_path.rglob("image_0")))
    image = load(series)
    card, network = real(shared_data)
    found = FAMILY.segment(network, image, card=card, device=CPU, job=Job())
    assert found.ids.shape == image.geometry.shape
    assert image.geometry.spacing == pytest.approx((1.6, 0.743, 0.743), abs=1e-4)
    # The file's axes run the same way as the DICOM's rows, columns and slices.
    truth = np.asarray(nibabel.load(folder / "labels.nii.gz").dataobj).transpose(2, 1, 0)
    assert dice(found.ids > 0, truth > 0) >= 0.95
    assert dice(found.ids == 2, truth == 2) >= 0.55
