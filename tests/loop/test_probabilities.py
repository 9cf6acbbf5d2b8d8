"""predict keeps probabilities and refines borders, only where asked, and whatever the family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.cli import run
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.loop.predict import Predictor, predict, predict_all
from maskloop.models import FAMILIES
from maskloop.models.answers import refined
from maskloop.models.base import Segmentation
from maskloop.models.cards import ModelCard, save_card
from tests.loop.chance_family import save_model
from tests.loop.test_candidates import five_lesions


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES.entries, "chance", "tests.loop.chance_family:FAMILY")
    monkeypatch.setitem(FAMILIES.entries, "drawn", "tests.loop.test_probabilities:DRAWN")
    monkeypatch.setitem(FAMILIES.entries, "blurred", "tests.loop.test_probabilities:BLURRED")


class Drawn:
    """Draws the right side of a picture, two columns beside its edge; tells no probabilities."""

    ids = (0, 5)

    def load(self, card: ModelCard, files: object) -> None:
        return None

    def segment(self, network: object, image: Image, **told: object) -> Segmentation:
        ids = np.zeros(image.geometry.shape, np.uint8)
        ids[:, 22:] = 5
        return Segmentation(ids, LabelTable([Label(5, "right")]))


class Blurred(Drawn):
    """The same, with probabilities, but without a way of its own to refine them."""

    def probabilities(self, network: object, image: Image, **told: object) -> np.ndarray:
        right = np.full(image.geometry.shape, 0.2, np.float32)
        right[:, 22:] = 0.8
        return np.stack([1 - right, right])


DRAWN, BLURRED = Drawn(), Blurred()


def save(folder: Path, family: str, task: str = "semantic") -> ModelCard:
    weights = folder / "none.safetensors"
    weights.write_bytes(b"no weights")
    card = ModelCard(
        family, family, family, ndim=2, task=task, labels=LabelTable([Label(5, "right")])
    )
    return save_card(card, {weights.name: weights})


def edge() -> Image:
    pixels = np.full((24, 40), 30, np.uint8)
    pixels[:, 20:] = 220
    return Image(pixels, Geometry.pixels((24, 40)))


def test_probabilities_are_on_the_images_grid_and_the_largest_is_drawn(tmp_path: Path) -> None:
    save_model(tmp_path)
    image = five_lesions()
    found = predict(image, "chances", device="cpu", probabilities=True, candidates=True)
    assert found.probabilities is not None
    assert found.probabilities.shape == (3, *image.data.shape)
    np.testing.assert_allclose(found.probabilities[2], image.data / 1000, atol=1e-5)
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.mask.data, found.probabilities.argmax(axis=0))
    plain = predict(image, "chances", device="cpu", candidates=True)
    assert plain.probabilities is None
    np.testing.assert_array_equal(plain.mask.data, found.mask.data)
    assert plain.candidates is not None
    assert found.candidates is not None
    assert [c.centre for c in found.candidates] == [c.centre for c in plain.candidates]


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(True, False, True), (False, True, True)])
@pytest.mark.parametrize("spacing", [None, (1.3, 1.3, 1.3)])
def test_probabilities_come_back_however_the_net_turns_the_image(
    tmp_path: Path,
    axes: tuple[int, ...],
    flips: tuple[bool, ...],
    spacing: tuple[float, ...] | None,
) -> None:
    save_model(tmp_path, orientation="SAR", spacing=spacing)
    upright = five_lesions()
    turned = Image(
        upright.data.transpose(axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)],
        upright.geometry.transposed(axes, flips),
    )
    found = predict(turned, "chances", device="cpu", probabilities=True).probabilities
    assert found is not None
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    wanted = turned.data / 1000
    if spacing is None:
        np.testing.assert_allclose(found[2], wanted, atol=1e-5)
    else:
        assert np.corrcoef(found[2].ravel(), wanted.ravel())[0, 1] > 0.9
        moved = np.roll(wanted, 4, axis=1)
        assert np.corrcoef(found[2].ravel(), moved.ravel())[0, 1] < 0.6


def test_a_family_that_tells_none_is_refused_in_words(tmp_path: Path) -> None:
    save(tmp_path, "drawn")
    with pytest.raises(InputError, match="expected a model that tells probabilities, got 'drawn'"):
        predict(edge(), "drawn", device="cpu", probabilities=True)


@pytest.mark.parametrize(
    ("family", "probabilities"), [("drawn", False), ("blurred", False), ("blurred", True)]
)
def test_borders_are_drawn_to_the_edges_whatever_the_family(
    tmp_path: Path, family: str, probabilities: bool
) -> None:
    save(tmp_path, family)
    told = {"device": "cpu", "probabilities": probabilities}
    plain = predict(edge(), family, **told).mask.data
    assert (plain[:, 22:] == 5).all()
    assert (plain[:, 20:22] == 0).all()
    found = predict(edge(), family, refine=6, **told).mask
    assert (found.data[:, 20:] == 5).all()
    assert (found.data[:, :20] == 0).all()
    assert [*found.labels] == [5]


def test_a_card_may_refine_and_the_caller_may_not_want_it(tmp_path: Path) -> None:
    card = save(tmp_path, "drawn")
    always = refined(card, 6)
    assert always.parameters["refine"] == {"radius": 6, "epsilon": 1e-3}
    predictor = Predictor(always, "cpu")
    assert (predictor.predict(edge()).mask.data[:, 20:] == 5).all()
    assert (predictor.predict(edge(), refine=False).mask.data[:, 20:22] == 0).all()
    assert "refine" not in refined(always, False).parameters


def test_a_model_of_objects_is_not_refined(tmp_path: Path) -> None:
    save(tmp_path, "drawn", task="instance")
    with pytest.raises(InputError, match="which finds objects"):
        predict(edge(), "drawn", device="cpu", refine=True)


def pictures(folder: Path, count: int = 2) -> list[Path]:
    paths = [folder / f"{name}.png" for name in "abc"[:count]]
    for path in paths:
        Picture.fromarray(np.asarray(edge().data)).save(path)
    return paths


def test_files_of_probabilities_say_what_they_hold(tmp_path: Path) -> None:
    save(tmp_path, "blurred")
    (image,) = pictures(tmp_path, 1)
    place = tmp_path / "chances.npz"
    (outcome,) = predict_all(
        [image], "blurred", tmp_path / "out.png", device="cpu", probabilities=place
    )
    assert outcome.state == "done", outcome.error
    with np.load(place, allow_pickle=False) as held:
        assert held["probabilities"].shape == (2, 24, 40)
        assert held["ids"].tolist() == [0, 5]
        assert held["affine"].shape == (3, 3)
        about = json.loads(str(held["about"]))
    assert about["labels"] == {"5": "right"}
    assert about["mask"] == "out.png"


def test_many_images_have_a_folder_of_them_and_a_rerun_skips(tmp_path: Path) -> None:
    save(tmp_path, "blurred")
    images, folder = pictures(tmp_path), tmp_path / "chances"
    told = {"device": "cpu", "probabilities": folder}
    masks = tmp_path / "masks"
    assert [o.state for o in predict_all(images, "blurred", masks, **told)] == ["done"] * 2
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["a_blurred.png.npz", "b_blurred.png.npz"]
    assert [o.state for o in predict_all(images, "blurred", masks, **told)] == ["skipped"] * 2
    (folder / names[0]).unlink()
    states = [o.state for o in predict_all(images, "blurred", masks, **told)]
    assert states == ["done", "skipped"]
    with pytest.raises(InputError, match="a folder for the probabilities of 2 images"):
        predict_all(images, "blurred", masks, device="cpu", probabilities=tmp_path / "one.npz")


def test_a_refined_result_is_not_taken_for_a_plain_one(tmp_path: Path) -> None:
    save(tmp_path, "drawn")
    (image,) = pictures(tmp_path, 1)
    out = tmp_path / "out.png"
    assert predict_all([image], "drawn", out, device="cpu")[0].state == "done"
    assert predict_all([image], "drawn", out, device="cpu")[0].state == "skipped"
    assert predict_all([image], "drawn", out, device="cpu", refine=6)[0].state == "failed"
    redone = predict_all([image], "drawn", out, device="cpu", refine=6, overwrite=True)
    assert redone[0].state == "done"
    assert (np.asarray(Picture.open(out))[:, 20:] == 5).all()


@pytest.mark.parametrize("name", ["out.txt", "missing/out.npz", "other.npz"])
def test_a_wrong_place_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    save(tmp_path, "blurred")
    (tmp_path / "other.npz").write_bytes(b"somebody's")
    with pytest.raises(InputError):
        predict_all(
            pictures(tmp_path, 1),
            "blurred",
            tmp_path / "out.png",
            device="cpu",
            probabilities=tmp_path / name,
        )
    assert (tmp_path / "other.npz").read_bytes() == b"somebody's"
    assert not (tmp_path / "out.png").exists()


def test_the_command_line_takes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, "blurred")
    (image,) = pictures(tmp_path, 1)
    out, place = tmp_path / "out.png", tmp_path / "chances.npz"
    told = ["-m", "blurred", "-o", str(out), "--refine", "--probabilities", str(place)]
    assert run(["predict", str(image), *told, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"][0]["state"] == "done"
    with np.load(place) as held:
        chances, ids = held["probabilities"], held["ids"]
    np.testing.assert_array_equal(np.asarray(Picture.open(out)), ids[chances.argmax(axis=0)])
    own = BLURRED.probabilities(None, edge())
    assert np.abs(chances - own)[:, :, 20:24].max() > 0.05  # refined, beside the edge only
    np.testing.assert_allclose(chances[:, :, :16], own[:, :, :16], atol=1e-4)
