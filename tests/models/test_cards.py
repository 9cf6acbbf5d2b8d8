"""Cards: true both ways, checked, listed even where broken, saved whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from maskloop.core.errors import InputError, StorageError, UnknownNameError
from maskloop.core.files import sha256_of
from maskloop.core.labels import LabelTable
from maskloop.models import cards
from maskloop.models.cards import ModelCard, WeightFile

CARD = ModelCard(
    name="mine",
    title="A model of mine",
    family="unet",
    variant="residual3d",
    labels=LabelTable.classes({1: "liver", 2: "tumour"}),
    modality="CT",
    spacing=(3, 1.5, 1.5),
    licence="BSD-3-Clause",
    limits=("small lesions are missed",),
    sources=("https://example.org",),
    metrics={"dice": {"liver": 0.9}},
    parameters={"patch": [32, 32, 32]},
    status="candidate",
    base="phantom-liver",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"some tensors")
    return path


def write_user_card(name: str, text: str) -> Path:
    folder = cards.models_folder() / name
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(text, encoding="utf-8")
    return folder


def test_json_there_and_back_is_the_same_card() -> None:
    text = json.dumps(CARD.to_json())
    again = ModelCard.from_json(json.loads(text))
    assert again == CARD
    assert again.spacing == (3.0, 1.5, 1.5)
    assert again.labels.names == {1: "liver", 2: "tumour"}


def test_every_shipped_card_survives_json() -> None:
    found = cards.all_cards()
    assert found
    for card in found:
        assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_every_shipped_card_states_limits_licence_and_proof() -> None:
    assert cards.broken_cards() == []
    for card in cards.all_cards():
        assert card.limits, card.name
        assert card.licence, card.name
        assert card.trained_on, card.name
        assert card.proof in cards.PROOFS


def test_unknown_fields_of_a_newer_card_are_ignored() -> None:
    assert ModelCard.from_json({**CARD.to_json(), "colour_of_the_sky": "blue"}) == CARD


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "../evil"}, "name"),
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
        ({"task": "magic"}, "task"),
        ({"ndim": 4}, "ndim"),
        ({"status": "great"}, "status"),
        ({"proof": "trust me"}, "proof"),
        ({"spacing": [1, 1]}, "spacing"),
        ({"spacing": [1, 1, 0]}, "spacing"),
        ({"spacing": "3 mm"}, "spacing"),
        ({"limits": "one string"}, "limits"),
        ({"labels": 7}, "card"),
        ({"channels": 0}, "channel"),
        ({"weights": [{"file": "a"}]}, "card"),
        ({"weights": [{"file": "a/b", "sha256": "0" * 64, "size": 1, "source": {}}]}, "file name"),
        ({"weights": [{"file": "a", "sha256": "xyz", "size": 1, "source": {}}]}, "sha256"),
        ({"weights": [{"file": "a", "sha256": "0" * 64, "size": -1, "source": {}}]}, "bytes"),
        ({"weights": [{"file": "a", "sha256": "0" * 64, "size": 1, "source": {}}]}, "source"),
    ],
)
def test_a_wrong_field_is_refused_in_three_parts(change: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=r"(?s)expected .*got .*; ") as caught:
        ModelCard.from_json({**CARD.to_json(), **change})
    assert word in str(caught.value)


@pytest.mark.parametrize("found", [[], "card", None, {}, {"name": "x"}])
def test_what_is_no_card_is_refused(found: object) -> None:
    with pytest.raises(InputError, match="expected a card"):
        ModelCard.from_json(found)


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'nothing'.*maskrcnn-coco"):
        cards.find_card("nothing")


@pytest.mark.parametrize(
    "text", ["{not json", "[]", '{"name": "other"}', '{"name": "sick", "title": "x"}', "\x00"]
)
def test_a_broken_user_card_is_listed_with_its_reason(text: str) -> None:
    before = [card.name for card in cards.all_cards()]
    write_user_card("sick", text)
    assert [card.name for card in cards.all_cards()] == before
    (broken,) = cards.broken_cards()
    assert broken.name == "sick"
    assert broken.reason
    with pytest.raises(InputError, match="sick"):
        cards.find_card("sick")


def test_a_user_card_cannot_take_a_shipped_name() -> None:
    shipped = cards.find_card("maskrcnn-coco")
    fake = dataclasses.replace(CARD, name="maskrcnn-coco")
    write_user_card("maskrcnn-coco", json.dumps(fake.to_json()))
    assert cards.find_card("maskrcnn-coco") == shipped
    assert [b.name for b in cards.broken_cards()] == ["maskrcnn-coco"]


def test_a_saved_card_is_found_with_true_hashes(file: Path) -> None:
    saved = cards.save_card(CARD, {"model.safetensors": file})
    assert cards.find_card("mine") == saved
    (weight,) = saved.weights
    assert weight == WeightFile(
        "model.safetensors", sha256_of(file), 12, {"file": "model.safetensors"}
    )
    assert [p.name for p in cards.models_folder().iterdir()] == ["mine"]


def test_saving_under_a_taken_name_is_refused_and_harms_nothing(file: Path) -> None:
    saved = cards.save_card(CARD, {"model.safetensors": file})
    for name in ("mine", "maskrcnn-coco"):
        with pytest.raises(InputError, match=name):
            cards.save_card(dataclasses.replace(CARD, name=name, title="new"), {})
    assert cards.find_card("mine") == saved


def test_overwriting_replaces_the_whole_folder(file: Path, tmp_path: Path) -> None:
    cards.save_card(CARD, {"old.safetensors": file})
    other = tmp_path / "other"
    other.write_bytes(b"newer")
    cards.save_card(CARD, {"model.safetensors": other}, overwrite=True)
    folder = cards.models_folder() / "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "model.safetensors"]
    assert [p.name for p in cards.models_folder().iterdir()] == ["mine"]


def test_a_failed_save_leaves_the_old_model_and_no_rubbish(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = cards.save_card(CARD, {"model.safetensors": file})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        cards.save_card(CARD, {"model.safetensors": file}, overwrite=True)
    assert cards.find_card("mine") == saved
    assert [p.name for p in cards.models_folder().iterdir()] == ["mine"]


@pytest.mark.parametrize("failing", ["old model aside", "new model in"])
def test_a_rename_that_fails_puts_the_old_model_back(
    file: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    saved = cards.save_card(CARD, {"model.safetensors": file})
    plain = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        is_new = self.name.startswith(".mine-") and target.name == "mine"
        is_old = self.name == "mine" and target.parent.name.startswith(".mine-old-")
        if is_new if failing == "new model in" else is_old:
            raise OSError(13, "Permission denied")
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        cards.save_card(CARD, {"model.safetensors": file}, overwrite=True)
    assert cards.find_card("mine") == saved
    assert [p.name for p in cards.models_folder().iterdir()] == ["mine"]


def test_why_not_speaks_of_time_axes_channels() -> None:
    flat = dataclasses.replace(CARD, ndim=2, spacing=None, channels=3)
    assert CARD.why_not(ndim=3) == ""
    assert flat.why_not(ndim=3) == ""
    assert flat.why_not(ndim=2, channels=4) == ""
    assert "got 5 frame(s)" in CARD.why_not(ndim=3, frames=5)
    assert "one frame" in CARD.why_not(ndim=3, frames=1)  # an axis it does not know
    assert "2D model" in CARD.why_not(ndim=2)
    assert "one channel" in CARD.why_not(ndim=3, channels=7)
    alone = dataclasses.replace(flat, parameters={"slices": False})
    assert "one slice" in alone.why_not(ndim=3)


def test_an_entry_point_adds_a_catalogue_and_a_broken_one_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "theirs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    theirs = dataclasses.replace(CARD, name="theirs")
    (package / "catalogue.json").write_text(json.dumps([theirs.to_json()]))
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[maskloop.cards]\ngood = theirs\nbad = no_such_pkg\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cards.find_card("theirs") == theirs
    assert [b.name for b in cards.broken_cards()] == ["bad"]
