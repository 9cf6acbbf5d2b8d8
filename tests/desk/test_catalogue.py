"""Listings: true, whole, and quick enough to draw a menu: no network is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maskloop.core.errors import InputError, UnknownNameError, WeightsError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.desk import catalogue
from maskloop.models import FAMILIES, cards
from maskloop.models.cards import ModelCard, save_card


def save(name: str, tmp_path: Path, **told: object) -> ModelCard:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"tensors")
    card = ModelCard(name=name, title="mine", family="unet", **told)  # type: ignore[arg-type]
    return save_card(card, {"w.safetensors": file})


def test_the_whole_menu_is_drawn_without_torch() -> None:
    code = (
        "import sys; from maskloop.desk import catalogue as c; "
        "assert c.list_models() and c.list_formats() and c.list_tools(); "
        "c.weights_list('maskrcnn-coco'); c.tool_parameters('grow'); "
        "heavy = {'torch', 'torchvision', 'maskloop.models.base', 'maskloop.models.dense'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_row_has_the_same_keys_and_is_json() -> None:
    rows = catalogue.list_models()
    broken = catalogue._broken_row("x", "y", "user")
    assert rows
    for row in rows:
        assert set(row) == set(broken)
    assert json.loads(json.dumps(rows)) == rows
    for listing in (catalogue.list_formats(), catalogue.list_tools()):
        assert json.loads(json.dumps(listing)) == listing
        assert len({frozenset(row) for row in listing}) == 1


def test_shipped_weights_are_present_and_published_ones_to_be_fetched() -> None:
    rows = {row["name"]: row for row in catalogue.list_models()}
    coco = rows["maskrcnn-coco"]
    assert coco["state"] == "to be fetched"
    assert coco["ndim"] == [2]
    assert coco["labels"]["90"] == "toothbrush"
    assert 160e6 < coco["size"] < 190e6
    for row in rows.values():
        card = cards.find_card(row["name"])
        if all(w.kind == "package" for w in card.weights):
            assert row["state"] == "present", row


def test_nothing_on_the_shelves_is_broken() -> None:
    rows = [*catalogue.list_models(), *catalogue.list_formats(), *catalogue.list_tools()]
    assert [(row["name"], row["reason"]) for row in rows if row["state"] == "broken"] == []


def test_a_users_model_is_listed_as_such(tmp_path: Path) -> None:
    save("mine", tmp_path, labels=LabelTable.classes(["a"]), status="candidate", limits=("one",))
    row = next(r for r in catalogue.list_models() if r["name"] == "mine")
    assert (row["state"], row["origin"], row["status"]) == ("present", "user", "candidate")
    assert (row["labels"], row["limits"], row["size"]) == ({"1": "a"}, ["one"], 7)


def test_broken_models_say_why_and_hide_none_of_the_others(tmp_path: Path, home: Path) -> None:
    before = len(catalogue.list_models())
    save("gone", tmp_path)
    (home / "models" / "gone" / "w.safetensors").unlink()
    folder = home / "models" / "odd"
    folder.mkdir()
    (folder / "card.json").write_text('{"name": "odd", "title": "t", "family": "magic"}')
    (home / "models" / "sick").mkdir()
    (home / "models" / "sick" / "card.json").write_text("{")
    rows = catalogue.list_models()
    assert len(rows) == before + 3
    reasons = {row["name"]: row["reason"] for row in rows if row["state"] == "broken"}
    assert "missing" in reasons["gone"]
    assert "'magic'" in reasons["odd"]
    assert "unet" in reasons["odd"]
    assert reasons["sick"]


def test_a_model_says_why_it_cannot_take_an_image(tmp_path: Path) -> None:
    save("mine", tmp_path)
    flat = Image(np.zeros((4, 5)), Geometry.pixels((4, 5)))
    film = Image(np.zeros((2, 4, 5, 6)), Geometry.regular((4, 5, 6), (1, 1, 1)), has_time=True)
    assert "2D model" in catalogue.why_not("mine", flat)
    assert "got 2 frame(s)" in catalogue.why_not("mine", film)
    assert catalogue.why_not("mine", film.frame(0)) == ""


def test_families_are_listed_by_name() -> None:
    assert [row["name"] for row in catalogue.list_families()] == list(FAMILIES)


def test_formats_say_what_they_read_and_write() -> None:
    rows = {row["name"]: row for row in catalogue.list_formats()}
    assert rows["nifti"]["suffixes"][0] == ".nii.gz"
    assert rows["nifti"]["reads"] == "images, masks"
    assert rows["nifti"]["writes"] == "images, masks"
    assert (rows["mgh"]["reads"], rows["mgh"]["writes"]) == ("images, masks", "")
    assert (rows["rtstruct"]["reads"], rows["rtstruct"]["writes"]) == ("masks", "")


def test_tools_come_with_their_options() -> None:
    rows = {row["name"]: row for row in catalogue.list_tools()}
    assert rows["grow"]["summary"].endswith(".")
    assert [p["name"] for p in rows["grow"]["parameters"]] == [
        p.name for p in catalogue.tool_parameters("grow")
    ]
    with pytest.raises(UnknownNameError, match="grow"):
        catalogue.tool_parameters("shrink-wrap")


def test_weights_are_listed_fetched_from_a_file_and_verified(tmp_path: Path) -> None:
    import hashlib

    from maskloop.models.cards import WeightFile

    content = b"published tensors"
    card = save("mine", tmp_path)
    folder = cards.models_folder() / "mine"
    weight = WeightFile(
        "p.pth", hashlib.sha256(content).hexdigest(), 0, {"url": "https://example.invalid/p.pth"}
    )
    import dataclasses

    remote = dataclasses.replace(card, weights=(weight,))
    (folder / "card.json").write_text(json.dumps(remote.to_json()))
    (row,) = catalogue.weights_list("mine")
    assert (row["state"], row["origin"]) == ("absent", "https://example.invalid/p.pth")
    assert catalogue.weights_verify("mine")[0]["state"] == "absent"
    (tmp_path / "p.pth").write_bytes(content)
    (row,) = catalogue.weights_fetch("mine", source=tmp_path / "p.pth")
    assert row["state"] == "present"
    assert catalogue.weights_list("mine")[0]["state"] == "present"
    Path(row["path"]).write_bytes(b"tampered tensors!")
    with pytest.raises(WeightsError, match="sha256"):
        catalogue.weights_verify("mine")


def test_fetching_for_a_model_without_weights_is_refused(tmp_path: Path, home: Path) -> None:
    save("mine", tmp_path)
    bare = ModelCard(name="mine", title="t", family="unet").to_json()
    (home / "models" / "mine" / "card.json").write_text(json.dumps(bare))
    with pytest.raises(InputError, match="train it first"):
        catalogue.weights_fetch("mine")
    with pytest.raises(UnknownNameError):
        catalogue.weights_list("nobody")
