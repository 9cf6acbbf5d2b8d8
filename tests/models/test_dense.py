"""Voxel-wise networks: what they see is posed as the card says; labels come back in place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.models import dense, posing
from maskloop.models.base import IGNORE, Batch, class_indices
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.ops.device import CPU

LABELS = LabelTable([Label(2, "dim"), Label(7, "bright")])


class Steps(nn.Module):
    """Class 0 below 100, 1 from 100, 2 from 200: exact, whatever the tile."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        value = x.mean(1, keepdim=True)
        distances = [(value - centre).abs() for centre in (50.0, 150.0, 250.0)]
        return -torch.cat(distances, dim=1) * self.scale


class StepFamily(DenseFamily):
    name = "steps"
    variants = ("only",)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        return card_of(labels=labels)

    def build(self, card: ModelCard) -> nn.Module:
        return Steps()


FAMILY = StepFamily()
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*order)
]


def card_of(ndim: int = 3, **told: object) -> ModelCard:
    fields: dict[str, object] = {"labels": LABELS, "ndim": ndim, **told}
    parameters = {"tile": (8,) * ndim, "batch": 2, **dict(fields.pop("parameters", {}))}  # type: ignore[call-overload]
    return ModelCard(name="s", title="s", family="steps", parameters=parameters, **fields)  # type: ignore[arg-type]


def volume(
    orientation: str = "SAR", spacing: tuple[float, ...] = (1, 1, 1), seed: int = 0
) -> Image:
    canonical = Geometry.regular((9, 11, 13), spacing)
    axes, flips = canonical.towards(orientation)
    data = np.random.default_rng(seed).integers(0, 300, canonical.shape).astype(np.int16)
    turned = data.transpose(axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    return Image(turned, canonical.transposed(axes, flips))


def expected(values: np.ndarray) -> np.ndarray:
    return np.select([values < 100, values < 200], [0, 2], 7)


def segment(image: Image, card: ModelCard, job: Job | None = None) -> dense.Segmentation:
    return FAMILY.segment(Steps(), image, card=card, device=CPU, job=job or Job())


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_is_shown_alike_and_answered_in_place(orientation: str) -> None:
    card = card_of(parameters={"orientation": "SAR"})
    image, canonical = volume(orientation), volume()
    posed = posing.pose(image, card)
    np.testing.assert_array_equal(posed.data[0], canonical.data)
    np.testing.assert_array_equal(posed.unturn(posed.turn(image.data)), image.data)
    found = segment(image, card)
    clear = image.data % 100 != 0  # halfway between two classes
    np.testing.assert_array_equal(found.ids[clear], expected(image.data)[clear])
    assert found.labels is card.labels


def test_a_photograph_is_not_turned() -> None:
    image = Image(np.arange(60, dtype=np.uint8).reshape(6, 10), Geometry.pixels((6, 10)))
    posed = posing.pose(image, card_of(2, parameters={"orientation": "SAR"}))
    np.testing.assert_array_equal(posed.data[0], image.data)


def test_resampling_there_and_back_keeps_a_ball() -> None:
    grid = Geometry.regular((20, 60, 60), (3, 1, 1))
    z, y, x = np.indices(grid.shape)
    ball = ((z - 10) * 3) ** 2 + (y - 30) ** 2 + (x - 28) ** 2 < 20**2
    card = card_of(spacing=(1.5, 1.5, 1.5), parameters={"tile": (16, 16, 16)})
    found = segment(Image(np.where(ball, 150, 50).astype(np.int16), grid), card)
    assert found.ids.shape == grid.shape
    both = np.count_nonzero((found.ids == 2) & ball)
    assert 2 * both / (np.count_nonzero(found.ids == 2) + np.count_nonzero(ball)) > 0.97


def test_the_network_sees_the_cards_spacing() -> None:
    posed = posing.pose(volume(spacing=(3, 1, 1)), card_of(spacing=(1.5, 2, 1)))
    assert posed.data.shape == (1, 18, 6, 13)
    assert posed.data.dtype == np.float32


def test_a_near_spacing_is_not_resampled() -> None:
    image = volume(spacing=(1.0005, 1, 1))
    posed = posing.pose(image, card_of(spacing=(1, 1, 1)))
    np.testing.assert_array_equal(posed.data[0], image.data)


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (
            Image(np.zeros((2, 4, 4, 4)), Geometry.regular((4, 4, 4), (1, 1, 1)), has_time=True),
            "frame",
        ),
        (
            Image(np.zeros((1, 4, 4, 4)), Geometry.regular((4, 4, 4), (1, 1, 1)), has_time=True),
            "frame",
        ),
        (Image(np.zeros((4, 4)), Geometry.pixels((4, 4))), "2D model"),
        (
            Image(
                np.zeros((4, 4, 4, 5)), Geometry.regular((4, 4, 4), (1, 1, 1)), has_channels=True
            ),
            "one channel",
        ),
    ],
)
def test_what_the_network_cannot_see_is_refused(image: Image, word: str) -> None:
    with pytest.raises(InputError, match=word):
        segment(image, card_of())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_goes_slice_by_slice_along_its_coarsest_axis(axis: int) -> None:
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    data = np.random.default_rng(0).integers(0, 300, (5, 6, 7)).astype(np.int16) // 100 * 100 + 50
    seen: list[tuple[int, ...]] = []

    class Watched(Steps):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape[2:]))
            return super().forward(x)

    image = Image(data, Geometry.regular(data.shape, spacing))
    card = card_of(2, parameters={"tile": (7, 7)})
    found = FAMILY.segment(Watched(), image, card=card, device=CPU, job=Job())
    np.testing.assert_array_equal(found.ids, expected(data))
    assert f"along axis {axis}" in found.notes[0]
    assert len(seen) == data.shape[axis]


def test_slices_of_a_wide_volume_are_stretched_together() -> None:
    data = np.zeros((2, 4, 4), np.int16)
    data[1] = 1000
    image = Image(data, Geometry.regular(data.shape, (2, 1, 1)))
    even, _, notes = posing.levelled(image, card_of(2, parameters={"normalise": "unit"}))
    assert even.data[0].max() == 0
    assert even.data[1].min() == 1
    assert "stretched" in notes[0]


@given(
    shape=st.tuples(*[st.integers(1, 19)] * 3),
    tile=st.tuples(*[st.integers(3, 12)] * 3),
    batch=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_the_answer_does_not_depend_on_the_tile(
    shape: tuple[int, ...], tile: tuple[int, ...], batch: int
) -> None:
    data = np.random.default_rng(sum(shape)).integers(0, 3, shape).astype(np.int16) * 100 + 50
    image = Image(data, Geometry.regular(shape, (1, 1, 1)))
    found = segment(image, card_of(parameters={"tile": tile, "batch": batch}))
    np.testing.assert_array_equal(found.ids, expected(data))


def fail_until(monkeypatch: pytest.MonkeyPatch, works: object) -> list[tuple[int, ...]]:
    """Make tiling run out of memory until `works(tile, batch)`; return the rungs seen."""
    from maskloop.ops import tiling

    plain, seen = tiling.predict_labels, []

    def scarce(*args: object, **told: object) -> object:
        seen.append((*told["tile"], told["batch"]))  # type: ignore[misc]
        if not works(told["tile"], told["batch"]):  # type: ignore[operator]
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return plain(*args, **told)  # type: ignore[arg-type]

    monkeypatch.setattr(tiling, "predict_labels", scarce)
    return seen


def test_out_of_memory_steps_down_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fail_until(monkeypatch, lambda tile, batch: batch == 1 and tile[0] <= 8)
    data = np.full((16, 16, 16), 150, np.int16)
    image, job = Image(data, Geometry.regular(data.shape, (1, 1, 1))), Job()
    card = card_of(parameters={"tile": (16, 16, 16), "batch": 4, "multiple": 4})
    found = segment(image, card, job)
    assert seen == [(16, 16, 16, 4), (16, 16, 16, 2), (16, 16, 16, 1), (8, 8, 8, 1)]
    assert (found.ids == 2).all()
    assert "8x8x8" in job.notes[0]


def test_a_fixed_tile_never_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskloop.core.errors import DeviceError

    seen = fail_until(monkeypatch, lambda tile, batch: False)
    card = card_of(parameters={"tile": (8, 8, 8), "batch": 2, "fixed_tile": True})
    with pytest.raises(DeviceError, match="memory"):
        segment(volume(), card)
    assert {rung[:3] for rung in seen} == {(8, 8, 8)}


def test_tiles_shrink_to_what_the_network_divides() -> None:
    card = card_of(parameters={"tile": (48, 24, 24), "multiple": 8, "batch": 1})
    for rung in FAMILY.rungs(card, CPU, (48, 24, 24)):
        assert rung.tile is not None
        assert all(n % 8 == 0 and n >= 8 for n in rung.tile)


def test_a_cancelled_job_stops() -> None:
    from maskloop.core.errors import Cancelled

    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        segment(volume(), card_of(), job)


def scores_of(image: Image, card: ModelCard, family: DenseFamily = FAMILY) -> np.ndarray:
    posed = posing.pose(image, card)
    return family.scores(Steps(), posed.data, card=card, device=CPU, job=Job())


@given(
    shape=st.tuples(*[st.integers(1, 19)] * 2),
    tile=st.tuples(*[st.integers(3, 12)] * 2),
    overlap=st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=15, deadline=None)
def test_scores_do_not_depend_on_the_tile(
    shape: tuple[int, ...], tile: tuple[int, ...], overlap: float
) -> None:
    image = Image(np.random.default_rng(0).random(shape) * 300, Geometry.pixels(shape))
    found = scores_of(image, card_of(2, parameters={"tile": tile, "overlap": overlap}))
    with torch.inference_mode():
        whole = Steps()(torch.from_numpy(image.data.astype(np.float32))[None, None])[0].numpy()
    np.testing.assert_allclose(found, whole, atol=1e-3)


def test_probabilities_are_the_softmax_of_the_scores() -> None:
    card = card_of(parameters={"orientation": "SAR"})
    image = volume("IPL")
    found = FAMILY.probabilities(Steps(), image, card=card, device=CPU, job=Job())
    wanted = torch.softmax(torch.from_numpy(scores_of(image, card)), 0).numpy()
    posed = posing.pose(image, card)
    for one, told in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, posed.unturn(told), atol=1e-6)
    lookup = dense.label_ids(card.labels)
    clear = image.data % 100 != 0
    np.testing.assert_array_equal(
        lookup[found.argmax(axis=0)][clear], segment(image, card).ids[clear]
    )


def test_probabilities_of_slices_lie_where_the_slices_do() -> None:
    data = np.random.default_rng(0).integers(0, 300, (5, 6, 7)).astype(np.int16) // 100 * 100 + 50
    image = Image(data, Geometry.regular(data.shape, (1, 4, 1)))
    job = Job()
    card = card_of(2, parameters={"tile": (7, 7)})
    found = FAMILY.probabilities(Steps(), image, card=card, device=CPU, job=job)
    np.testing.assert_array_equal(
        dense.label_ids(card.labels)[found.argmax(axis=0)], expected(data)
    )
    assert job.notes == ["2D network: 6 slices along axis 1 one by one"]


class Turned(StepFamily):
    """Settles by taking each probability for that of the next class."""

    def settles(self, card: ModelCard) -> bool:
        return bool(card.parameters.get("turn"))

    def settle(self, chances: np.ndarray, data: np.ndarray, *, card: ModelCard) -> np.ndarray:
        assert data.shape[1:] == chances.shape[1:]
        np.testing.assert_allclose(chances.sum(axis=0), 1, atol=1e-5)
        return np.roll(chances, 1, axis=0)


def test_a_family_may_settle_what_its_scores_say() -> None:
    data = np.full((6, 7, 8), 150, np.int16)
    image = Image(data, Geometry.regular(data.shape, (1, 1, 1)))
    family, card = Turned(), card_of(parameters={"turn": True})
    told = {"card": card, "device": CPU, "job": Job()}
    assert (family.segment(Steps(), image, **told).ids == 7).all()
    assert (family.probabilities(Steps(), image, **told).argmax(axis=0) == 2).all()
    with_chances = family.segment_with_chances(Steps(), image, **told)
    assert (with_chances.ids == 7).all()
    assert with_chances.chances is not None
    plain = family.segment(Steps(), image, card=card_of(), device=CPU, job=Job())
    assert (plain.ids == 2).all()


def test_scores_of_the_whole_exist_only_where_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: object, **told: object) -> None:
        raise AssertionError

    monkeypatch.setattr(StepFamily, "scores", never, raising=False)
    segment(volume(), card_of())
    with pytest.raises(AssertionError):
        segment(volume(), card_of(parameters={"refine": True}))


def test_a_card_that_says_refine_has_its_borders_drawn_to_the_picture() -> None:
    class Shifted(Steps):
        """The step's answer, two columns beside it."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.roll(x, 2, dims=3))

    data = np.full((24, 40), 50.0)
    data[:, 20:] = 150
    image = Image(data, Geometry.pixels(data.shape))
    drawn = {}
    for name, refine in (("plain", None), ("refined", {"radius": 6})):
        card = card_of(2, parameters={"tile": (24, 40), "refine": refine})
        found = FAMILY.segment(Shifted(), image, card=card, device=CPU, job=Job())
        drawn[name] = np.count_nonzero((found.ids != expected(data))[:, 4:-4])
    assert drawn["plain"] == 2 * 24
    assert drawn["refined"] == 0


def test_scores_that_are_no_numbers_are_refused() -> None:
    class Broken(Steps):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    card = card_of(parameters={"refine": True})
    with pytest.raises(InputError, match="finite scores"):
        FAMILY.segment(Broken(), volume(), card=card, device=CPU, job=Job())


def test_memory_that_runs_out_steps_down_for_scores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskloop.ops import tiling

    plain, seen = tiling.predict_scores, []

    def scarce(*args: object, **told: object) -> object:
        seen.append(told["batch"])
        if told["batch"] != 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return plain(*args, **told)  # type: ignore[arg-type]

    monkeypatch.setattr(tiling, "predict_scores", scarce)
    scores_of(volume(), card_of(parameters={"batch": 4}))
    assert seen == [4, 2, 1]


def training_case() -> tuple[Image, Mask]:
    image = volume("IPL", (1, 1, 1))
    ids = np.zeros(image.data.shape, np.uint8)
    ids[:4], ids[4:6], ids[6] = 5, 9, 3
    rows = [Label(5, "bright"), Label(9, "dim"), Label(3, "rim", ignore=True)]
    return image, Mask.like(image, ids, LabelTable(rows))


def test_training_labels_are_matched_by_name_and_turned_with_the_image() -> None:
    image, mask = training_case()
    card = card_of(parameters={"orientation": "SAR"})
    (case,) = FAMILY.prepare(image, mask, card=card, reviewed=None, job=Job())
    posed = posing.pose(image, card)
    np.testing.assert_array_equal(case.data, posed.data)
    lookup = np.zeros(10, np.uint8)
    lookup[[5, 9]] = 2, 1
    np.testing.assert_array_equal(case.ids, posed.turn(lookup[mask.data]))
    assert case.reviewed is not None
    np.testing.assert_array_equal(case.reviewed, posed.turn(mask.data != 3))


def test_review_is_resampled_with_the_image() -> None:
    image, mask = training_case()
    reviewed = np.zeros(image.data.shape, bool)
    reviewed[:, :, :6] = True
    (case,) = FAMILY.prepare(
        image, mask, card=card_of(spacing=(2, 2, 2)), reviewed=reviewed, job=Job()
    )
    assert case.reviewed is not None
    assert case.data.shape[1:] == case.ids.shape == case.reviewed.shape
    assert case.reviewed.any()
    assert not case.reviewed.all()


def test_a_volume_makes_a_training_case_a_slice_for_a_2d_network() -> None:
    image, mask = training_case()
    cases = FAMILY.prepare(image, mask, card=card_of(2), reviewed=None, job=Job())
    axis = posing.flat_axis(image.geometry)
    assert len(cases) == image.data.shape[axis]
    assert {case.data.ndim for case in cases} == {3}


def test_a_mask_of_another_grid_or_with_unknown_labels_is_refused() -> None:
    image, mask = training_case()
    with pytest.raises(InputError, match="grid"):
        FAMILY.prepare(volume("SAR"), mask, card=card_of(), reviewed=None, job=Job())
    odd = Mask.like(image, np.ones(image.data.shape, np.uint8), {1: "elephant"})
    with pytest.raises(InputError, match=r"dim, bright.*elephant"):
        FAMILY.prepare(image, odd, card=card_of(), reviewed=None, job=Job())


def test_ids_without_names_are_matched_by_id() -> None:
    image = volume()
    ids = np.zeros(image.data.shape, np.uint8)
    ids[0], ids[1] = 2, 7
    lookup, ignored = class_indices(Mask.like(image, ids, {2: "label 2", 7: "label 7"}), card_of())
    assert lookup[[0, 2, 7]].tolist() == [0, 1, 2]
    assert ignored == []


def test_the_loss_gives_no_gradient_where_nobody_reviewed() -> None:
    images = torch.rand(1, 1, 4, 4, 4) * 300
    ids = torch.randint(0, 3, (1, 4, 4, 4))
    ids[:, 2:] = IGNORE
    scores = torch.randn(1, 3, 4, 4, 4, requires_grad=True)

    class Fixed(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            return scores

    loss = FAMILY.train_step(Fixed(), Batch(images, ids), card=card_of())
    loss.backward()
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert scores.grad[:, :, :2].abs().sum() > 0
    assert scores.grad[:, :, 2:].abs().sum() == 0


def test_volumes_are_not_mirrored_unless_the_card_says_so() -> None:
    assert not any("mirror" in name for name in FAMILY.augmentation(card_of()))
    assert "mirror_x" in FAMILY.augmentation(card_of(2))
    told = card_of(parameters={"augmentation": ["noise", "mirror_z"]})
    assert FAMILY.augmentation(told) == {"noise", "mirror_z"}
