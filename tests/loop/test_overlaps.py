"""Objects are kept whole where they overlap, in memory and in a file that is read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.cli import run
from maskloop.core.errors import InputError, VerificationError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.desk.overlaps import OverlapFile, load_objects
from maskloop.formats import coco_plain
from maskloop.loop.load import load_mask
from maskloop.loop.predict import Predictor, predict, predict_all
from maskloop.models import FAMILIES
from maskloop.models.base import Segmentation
from maskloop.models.cards import ModelCard, save_card
from maskloop.models.objects import Found, settle

SHAPE = (40, 60)


class Discs:
    """Finds three discs whatever it is shown; the second lies half under the first."""

    name = "discs"

    def load(self, card: ModelCard, files: object) -> None:
        return None

    def segment(self, network: object, image: Image, **told: object) -> Segmentation:
        found = discs()
        settled = settle(found, image.geometry.shape)
        return Segmentation(
            settled.ids, settled.labels, lost=settled.lost, objects=tuple(reversed(found))
        )


class Apart(Discs):
    """The same without a list: a family whose objects never lie over each other."""

    def segment(self, network: object, image: Image, **told: object) -> Segmentation:
        found = settle(discs(), image.geometry.shape)
        stuff = Label(9, "ground")
        ids = np.where(found.ids == 0, 9, found.ids).astype(np.uint8)
        return Segmentation(ids, found.labels.with_rows([stuff]))


DISCS, APART = Discs(), Apart()


def disc(y: int, x: int, radius: int, score: float, category: str = "cell") -> Found:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    box = (slice(y - radius, y + radius + 1), slice(x - radius, x + radius + 1))
    return Found(box, rows**2 + columns**2 <= radius**2, score, category)


def discs() -> list[Found]:
    return [disc(15, 20, 10, 0.9), disc(15, 30, 10, 0.6), disc(30, 50, 6, 1 / 3, "dirt")]


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / "none.safetensors"
    weights.write_bytes(b"no weights")
    for name, task in (("discs", "instance"), ("apart", "panoptic"), ("plain", "semantic")):
        family = "apart" if name == "apart" else "discs"
        monkeypatch.setitem(FAMILIES.entries, family, f"tests.loop.test_overlaps:{family.upper()}")
        labels = LabelTable([Label(2, "cell"), Label(5, "dirt")])
        card = ModelCard(name, name, family, ndim=2, task=task, labels=labels, channels=1)
        save_card(card, {weights.name: weights})


def picture(path: Path, value: int = 0) -> Path:
    Picture.fromarray(np.full(SHAPE, value, np.uint8)).save(path)
    return path


def same(found: tuple[Found, ...] | None, meant: list[Found]) -> None:
    assert found is not None
    for one, other in zip(found, meant, strict=True):
        assert (one.score, one.category) == (other.score, other.category)
        np.testing.assert_array_equal(drawn(one), drawn(other))


def drawn(one: Found) -> np.ndarray:
    whole = np.zeros(SHAPE, bool)
    whole[one.box] = one.region
    return whole


def test_objects_are_whole_and_the_best_score_comes_first() -> None:
    image = Image(np.zeros(SHAPE), Geometry.pixels(SHAPE))
    keeper = Predictor("discs", "cpu")
    found = keeper.predict(image, overlaps=True)
    same(found.objects, discs())
    assert found.objects is not None
    both = drawn(found.objects[0]) & drawn(found.objects[1])
    assert both.any()
    # The mask has them at most once, and its objects are these, settled.
    np.testing.assert_array_equal(settle(found.objects, SHAPE).ids, found.mask.data)
    assert not (found.mask.data[both] == 2).any()
    assert keeper.predict(image).objects is None


def test_where_nothing_can_overlap_the_objects_are_those_of_the_mask() -> None:
    found = predict(Image(np.zeros(SHAPE), Geometry.pixels(SHAPE)), "apart", overlaps=True)
    assert found.objects is not None
    assert [one.category for one in found.objects] == ["cell", "cell", "dirt"]
    for number, one in enumerate(found.objects, start=1):
        np.testing.assert_array_equal(drawn(one), found.mask.data == number)


def test_a_model_of_classes_has_none_and_says_so(tmp_path: Path) -> None:
    words = "expected a model that finds objects one by one, got 'plain' which draws classes"
    with pytest.raises(InputError, match=words):
        predict(picture(tmp_path / "a.png"), "plain", overlaps=True)
    with pytest.raises(InputError, match=words):
        predict_all(
            [picture(tmp_path / "a.png")], "plain", tmp_path / "m.png", overlaps=tmp_path / "o.json"
        )
    assert not (tmp_path / "m.png").exists()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_the_command_writes_a_coco_file_that_others_read(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    image, out, file = picture(tmp_path / "a.png"), tmp_path / "m.tif", tmp_path / "o.json"
    told = ["predict", str(image), "-m", "discs", "-o", str(out), "--overlaps", str(file)]
    assert run(told) == 0
    content = json.loads(file.read_bytes())
    assert [e["file_name"] for e in content["images"]] == ["a.png"]
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert names == {2: "cell", 5: "dirt"}
    for annotation, meant in zip(content["annotations"], discs(), strict=True):
        region = coco.decode(annotation["segmentation"]).astype(bool)
        np.testing.assert_array_equal(region, drawn(meant))
        assert annotation["area"] == region.sum()
        assert annotation["score"] == meant.score
        assert names[annotation["category_id"]] == meant.category
    same(load_objects(file), discs())
    # The same file as a mask: the better score is on top.
    np.testing.assert_array_equal(load_mask(file).data, load_mask(out).data)


def test_many_images_share_a_file_and_a_rerun_adds_what_is_missing(tmp_path: Path) -> None:
    images = [picture(tmp_path / f"{n}.png", n) for n in range(3)]
    file, out = tmp_path / "o.json", tmp_path / "masks"
    predict_all(images[:2], "discs", out, overlaps=file)
    first = file.read_bytes()
    again = predict_all(images[:2], "discs", out, overlaps=file)
    assert [o.state for o in again] == ["skipped", "skipped"]
    assert file.read_bytes() == first
    more = predict_all(images, "discs", out, overlaps=file)
    assert [o.state for o in more] == ["skipped", "skipped", "done"]
    content = json.loads(file.read_bytes())
    assert [e["file_name"] for e in content["images"]] == ["0.png", "1.png", "2.png"]
    assert [a["id"] for a in content["annotations"]] == [*range(1, 10)]
    for name in ("0.png", "2.png", "3"):
        same(load_objects(file, entry=name), discs())
    with pytest.raises(InputError, match="expected one of the 3 images"):
        load_objects(file)
    # Where the file is lost, or of another model, the images are predicted again for it.
    file.unlink()
    assert [o.state for o in predict_all(images, "discs", out, overlaps=file)] == ["done"] * 3
    other = OverlapFile.of(file, "another", LabelTable())
    assert other.images == {}


def test_a_folder_gets_a_file_for_each_mask(tmp_path: Path) -> None:
    images, folder = [picture(tmp_path / f"{n}.png", n) for n in range(2)], tmp_path / "objects"
    for states in (["done", "done"], ["skipped", "skipped"]):
        outcomes = predict_all(images, "discs", tmp_path / "masks", overlaps=folder)
        assert [o.state for o in outcomes] == states
    files = sorted(folder.iterdir())
    assert [f.name for f in files] == ["0_discs.png.json", "1_discs.png.json"]
    same(load_objects(files[1]), discs())
    files[0].unlink()
    outcomes = predict_all(images, "discs", tmp_path / "masks", overlaps=folder)
    assert [o.state for o in outcomes] == ["done", "skipped"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("o.txt", "expected a file .json or a folder"),
     ("none/o.json", "expected an existing folder"), ("mask.json", "to be free or a list of obj")],
)  # fmt: skip
def test_a_place_that_holds_something_else_is_refused(
    tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "mask.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(InputError, match=words):
        predict_all(
            [picture(tmp_path / "a.png")], "discs", tmp_path / "m.png", overlaps=tmp_path / name
        )
    assert not (tmp_path / "m.png").exists()


def test_a_file_that_reads_back_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, file = [picture(tmp_path / f"{n}.png", n) for n in range(2)], tmp_path / "o.json"
    predict_all(images[:1], "discs", tmp_path, overlaps=file)
    first = file.read_bytes()
    plain = coco_plain.regions

    def shifted(path: Path, image_id: int) -> list:
        found = plain(path, image_id)
        box, region, name, score = found[1]
        return [found[0], (box, np.roll(region, 1, axis=1), name, score), found[2]]

    monkeypatch.setattr(coco_plain, "regions", shifted)
    outcomes = predict_all(images, "discs", tmp_path, overlaps=file)
    assert [o.state for o in outcomes] == ["skipped", "failed"]
    assert "read back as the 3 objects" in outcomes[1].error
    assert file.read_bytes() == first
    damaged = json.loads(first)
    damaged["annotations"][0]["area"] += 1
    file.write_text(json.dumps(damaged))
    with pytest.raises(VerificationError, match="area and box"):
        plain(file, 1)


def test_foreign_polygons_are_objects_too(tmp_path: Path) -> None:
    square = [4.0, 4.0, 12.0, 4.0, 12.0, 10.0, 4.0, 10.0]
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 20, "height": 16}],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": 1, "segmentation": [square]} for n in (1, 2)
        ],
        "categories": [{"id": 1, "name": "box"}],
    }
    file = tmp_path / "foreign.json"
    file.write_text(json.dumps(content))
    first, second = load_objects(file)
    assert first.box == second.box == (slice(4, 10), slice(4, 12))
    assert first.region.all()
    assert (first.score, first.category) == (1.0, "box")
