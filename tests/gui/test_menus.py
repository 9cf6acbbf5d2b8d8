"""Menus of models: ready ones by what they find, the others one click away."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import Qt

from maskloop.desk.catalogue import list_families, list_models
from maskloop.gui.menus import (
    CANNOT_RUN,
    TO_FETCH,
    ModelMenu,
    about,
    by_what_they_find,
    what_it_finds,
)
from maskloop.gui.sections.train import starts_of


def row(name: str, *labels: str, task: str = "semantic", state: str = "present") -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "task": task,
        "labels": {str(i): label for i, label in enumerate(labels, start=1)},
        "state": state,
        "reason": "",
        "licence": "",
        "limits": [],
        "size": 0,
        "proof": "experimental",
        "ndim": [2],
        "family": "unet",
        "folder": "",
        "recipes": [],
    }


ROWS = [
    row("cells-a", "Nucleus"),
    row("liver", "liver", "tumour"),
    row("cells-b", "nucleus"),
    row("cells-c", "nucleus", task="instance"),
    row("liver-b", "tumour", "liver"),
    row("voc", *"abcdef", state="to be fetched"),
    row("sick", state="broken"),
    row("empty", "x", state="no weights"),
]


@pytest.fixture
def menu(qtbot: Any) -> ModelMenu:
    made = ModelMenu()
    qtbot.addWidget(made)
    made.show_models(ROWS)
    return made


def test_ready_models_stand_by_what_they_find(menu: ModelMenu) -> None:
    assert menu.headings == ["Nucleus", "Liver, tumour", "Nucleus, one by one", "Not ready"]
    names = [m["name"] for m in menu.models]
    assert names == ["cells-a", "cells-b", "liver", "liver-b", "cells-c"]
    assert menu.entries[-1] == "1 to fetch ..."
    assert menu.chosen["name"] == "cells-a"


def test_a_panoptic_model_tells_its_objects_from_its_classes() -> None:
    both = row("both", "ground", "cell", "vessel", task="panoptic") | {"things": ["cell"]}
    assert what_it_finds(both) == "Cell, one by one; ground, vessel"
    assert what_it_finds({**both, "labels": {"2": "cell"}}) == "Cell, one by one"
    titles = [title for title, _ in by_what_they_find([both, {**both, "task": "semantic"}])]
    assert len(set(titles)) == 2


def test_many_classes_are_counted() -> None:
    assert what_it_finds(ROWS[5]) == "6 classes: a, b, c ..."
    assert [title for title, _ in by_what_they_find([ROWS[6]])] == ["No named class"]


def test_the_tooltip_tells_the_memory_where_it_was_measured() -> None:
    assert "memory" not in about(ROWS[0])
    told = {"bytes": 640_000_000, "window": [512, 512], "device": "cpu"}
    assert "memory: 0.6 GB for 512 x 512 at a time (cpu)" in about({**ROWS[0], "memory": told})


def test_a_heading_cannot_be_chosen(menu: ModelMenu) -> None:
    assert not menu.choose("Liver, tumour")
    assert menu.chosen["name"] == "cells-a"
    assert not menu._items.item(0).flags() & Qt.ItemFlag.ItemIsSelectable


def test_the_last_entry_shows_the_others_and_keeps_the_choice(menu: ModelMenu) -> None:
    menu.choose("liver")
    heard = []
    menu.currentIndexChanged.connect(heard.append)
    last = menu.findText("1 to fetch ...")
    menu.setCurrentIndex(last)
    menu.activated.emit(last)
    assert menu.headings[-2:] == [f"{TO_FETCH}: 6 classes: a, b, c ...", CANNOT_RUN]
    assert [m["name"] for m in menu.models][-2:] == ["voc", "sick"]
    assert menu.chosen["name"] == "liver"
    assert heard
    menu.hidePopup()


def test_one_to_fetch_can_be_chosen_by_name(menu: ModelMenu) -> None:
    assert menu.choose("voc")
    assert menu.chosen["name"] == "voc"
    menu.show_models(ROWS)
    assert menu.chosen["name"] == "voc"
    assert not menu.choose("empty")


def test_other_entries_stand_first(menu: ModelMenu) -> None:
    menu.show_models(ROWS, others=[("Labels in the window", [("layer: x", "")])])
    assert menu.headings[0] == "Labels in the window"
    assert menu.chosen["name"] == "cells-a"
    menu.choose("layer: x")
    assert menu.chosen is None


def test_every_variant_of_every_family_can_be_trained_from_scratch() -> None:
    families = list_families()
    starts, groups = starts_of(list_models(), families)
    names = {start.name for start in starts}
    for family in families:
        for variant in family["variants"]:
            assert (f"{family['name']}:{variant}" in names) == family["trainable"]
    by_name = {start.name: start for start in starts}
    assert by_name["segnet:vgg16"].recipes
    scratch = [heading for heading, _ in groups if "rom scratch" in heading]
    assert "From scratch: U-Net" in scratch
    objects = [heading for heading in scratch if heading.startswith("Objects from scratch")]
    assert "Objects from scratch: Mask R-CNN (torchvision)" in objects
    first = scratch.index(objects[0])
    assert scratch[first : first + len(objects)] == objects
    assert all(heading.startswith("From") for heading in scratch[:first])


def test_what_no_training_can_mend_is_said_before_it() -> None:
    families = [
        {
            "name": "rays",
            "title": "Rays",
            "tasks": ["instance"],
            "variants": ["a"],
            "recipes": {},
            "limits": ["no rings"],
            "trainable": True,
            "reason": "",
        }
    ]
    starts, groups = starts_of([], families)
    assert starts[0].limits == ("no rings",)
    ((_, ((_, tip),)),) = groups
    assert "each id of the masks is an object" in tip
    assert tip.endswith("no rings")


def test_what_cannot_be_trained_is_no_start() -> None:
    families = [
        {"name": "unet", "title": "U", "variants": ["a"], "recipes": {}, "trainable": False}
    ]
    starts, groups = starts_of(ROWS, families)
    assert (starts, groups) == ([], [])
