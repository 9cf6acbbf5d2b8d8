"""Published weights from a local file: every number in its place, or a refusal that says why."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskloop.core.errors import (
    InputError,
    MissingFileError,
    UnknownNameError,
    WeightsError,
)
from maskloop.core.labels import LabelTable
from maskloop.desk.imports import import_model
from maskloop.models import base, cards, weights
from maskloop.models.base import Imports
from maskloop.models.cards import ModelCard, find_card
from maskloop.models.imports import import_weights
from maskloop.models.pyramid import Trunk
from maskloop.models.yolact import FAMILY
from maskloop.models.yolactnames import converted, renamed
from maskloop.models.yolactnet import Yolact

F, K, A = 8, 4, 3  # features, prototypes, boxes a cell
NARROW = {"backbone": "resnet18", "width": 0.25, "features": F, "prototypes": K}
LABELS = LabelTable.classes(["cell", "speck"])


def narrow(variant: str = "resnet50", labels: LabelTable = LABELS) -> ModelCard:
    card = YOLACT_PUBLISHED(variant, labels)
    told = {**card.parameters, **NARROW, "squashed": [64, 64], "patch": [64, 64]}
    return dataclasses.replace(card, parameters=told)


YOLACT_PUBLISHED = FAMILY.published


def authors(classes: int = 3, *, plus: bool = False) -> dict[str, Tensor]:
    """Return random weights of a narrow network as the authors of YOLACT would save them."""
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}
    trunk = Trunk("resnet18", width=0.25)
    for key, value in trunk.state_dict().items():
        name = f"layers.{int(key[5]) - 1}{key[6:]}" if key.startswith("layer") else key
        found[f"backbone.{name}"] = value
    a = 9 if plus else A

    def add(name: str, given: int, taken: int, side: int) -> None:
        found[f"{name}.weight"] = torch.randn(given, taken, side, side) * 0.1
        found[f"{name}.bias"] = torch.randn(given) * 0.1

    for number, taken in enumerate(reversed(trunk.features[1:])):
        add(f"fpn.lat_layers.{number}", F, taken, 1)
        add(f"fpn.pred_layers.{number}", F, F, 3)
    for number in range(2):
        add(f"fpn.downsample_layers.{number}", F, F, 3)
    for number in (0, 2, 4, 8):
        add(f"proto_net.{number}", F, F, 3)
    add("proto_net.10", K, F, 1)
    head = "prediction_layers.0"
    add(f"{head}.upfeature.0", F, F, 3)
    add(f"{head}.bbox_layer", 4 * a, F, 3)
    add(f"{head}.conf_layer", classes * a, F, 3)
    add(f"{head}.mask_layer", K * a, F, 3)
    add("semantic_seg_conv", classes - 1, F, 1)
    if plus:
        sizes = (1, 8, 16, 32, 64, 128)
        for number in range(5):
            name = f"maskiou_net.maskiou_net.{2 * number}"
            add(name, sizes[number + 1], sizes[number], 3)
        add("maskiou_net.maskiou_net.10", classes - 1, 128, 1)
        bent = [k for k in found if k.endswith("conv2.weight") and "layers.0" not in k]
        for key in bent:
            prefix = key.removesuffix("weight")
            given, taken = found[key].shape[:2]
            found[f"{prefix}bias"] = torch.randn(given) * 0.1
            add(f"{prefix}conv_offset_mask", 27, taken, 3)
    return found


def authors_answer(
    state: Mapping[str, Tensor], maps: list[Tensor], classes: int
) -> dict[str, Tensor]:
    """Return what the authors' network says of C3 to C5, from their files' layout alone."""

    def conv(name: str, x: Tensor, **told: int) -> Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **told)

    summed: list[Tensor] = []
    for number, one in enumerate(reversed(maps)):
        beside = conv(f"fpn.lat_layers.{number}", one)
        if summed:
            beside = beside + functional.interpolate(
                summed[-1], size=beside.shape[2:], mode="bilinear"
            )
        summed.append(beside)
    levels = [
        functional.relu(conv(f"fpn.pred_layers.{i}", one, padding=1))
        for i, one in enumerate(summed)
    ][::-1]
    for number in range(2):
        name = f"fpn.downsample_layers.{number}"
        levels.append(conv(name, levels[-1], padding=1, stride=2))
    x = levels[0]
    for number in (0, 2, 4):
        x = functional.relu(conv(f"proto_net.{number}", x, padding=1))
    x = functional.interpolate(x, scale_factor=2, mode="bilinear")
    x = functional.relu(conv("proto_net.8", x, padding=1))
    said = {"prototypes": functional.relu(conv("proto_net.10", x))}
    head = "prediction_layers.0"
    ends = (("boxes", "bbox_layer", 4), ("classes", "conf_layer", classes))
    for name, layer, each in (*ends, ("coefficients", "mask_layer", K)):
        parts = []
        for level in levels:
            y = functional.relu(conv(f"{head}.upfeature.0", level, padding=1))
            y = conv(f"{head}.{layer}", y, padding=1).permute(0, 2, 3, 1)
            parts.append(y.reshape(len(y), -1, each))
        said[name] = torch.cat(parts, dim=1)
    said["coefficients"] = said["coefficients"].tanh()
    return said


def says_the_same(state: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Assert that our network with converted weights answers as the authors' layout does."""
    network = FAMILY.build(narrow())
    assert isinstance(network, Yolact)
    network.load_state_dict(dict(state), strict=True)
    picture = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        mine = network.eval()(picture)
        wanted = authors_answer(theirs, network.trunk(picture)[1:], 3)
    for part, value in wanted.items():
        torch.testing.assert_close(getattr(mine, part), value, msg=part)


def test_converted_weights_say_what_the_authors_layout_says() -> None:
    theirs = authors()
    says_the_same(converted(theirs, priors=A), theirs)


def test_renaming_without_reordering_would_be_noticed() -> None:
    theirs = authors()
    plain = {renamed(key): value for key, value in theirs.items()}
    with pytest.raises(AssertionError, match="classes"):
        says_the_same(plain, theirs)
    turned = converted(theirs, priors=A)
    first, last = "pyramid.smooth.0.weight", "pyramid.smooth.2.weight"
    turned[first], turned[last] = turned[last], turned[first]
    with pytest.raises(AssertionError):
        says_the_same(turned, theirs)


def test_the_trunk_is_the_authors_tensor_for_tensor() -> None:
    theirs = authors()
    mine = converted(theirs, priors=A)
    for key, value in theirs.items():
        if key.startswith("backbone."):
            assert torch.equal(mine[renamed(key)], value)


def test_older_files_with_second_names_and_without_counts_are_read() -> None:
    theirs = authors()
    old = {k: v for k, v in theirs.items() if not k.endswith("num_batches_tracked")}
    old |= {"backbone.layer1.0.conv1.weight": torch.zeros(1)}
    old |= {f"fpn.downsample_layers.2.{k}": torch.zeros(1) for k in ("weight", "bias")}
    says_the_same(converted(old, priors=A), theirs)


def test_yolact_plus_loads_with_its_moved_taps_and_its_rescoring() -> None:
    theirs = authors(plus=True)
    network = FAMILY.build(narrow("resnet50-plus"))
    network.load_state_dict(FAMILY.converted(narrow("resnet50-plus"), theirs), strict=True)
    own = network.state_dict()
    moved = "backbone.layers.3.1.conv2.conv_offset_mask.weight"
    assert torch.equal(own["trunk.layer4.1.conv2.offsets.weight"], theirs[moved])
    last = theirs["maskiou_net.maskiou_net.10.weight"]
    assert torch.equal(own["rescoring.layers.10.weight"], last)


def test_a_layer_of_classes_that_fits_no_number_of_boxes_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"9 boxes a cell, got 10 rows; choose the variant"):
        converted({"prediction_layers.0.conf_layer.bias": torch.zeros(10)}, priors=9)


def test_names_that_nobody_knows_are_kept() -> None:
    for name in ("proto_net.6.weight", "prediction_layers.0.gate_layer.weight", "other"):
        assert renamed(name) == name


def test_the_authors_card_has_their_pixels_and_anchors() -> None:
    card = FAMILY.published("resnet101", LABELS)
    assert isinstance(FAMILY, Imports)
    assert card.parameters["squashed"] == [550, 550]
    for level in card.parameters["anchors"]:
        assert all(w == h for w, h in level)
    plus = FAMILY.published("resnet50-plus", LABELS)
    assert any(w != h for w, h in plus.parameters["anchors"][0])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the door build narrow networks; return a file with the authors' tensors."""
    monkeypatch.setattr(type(FAMILY), "published", lambda _, v, labels: narrow(v, labels))
    path = tmp_path / "yolact_tiny_54_800000.pth"
    torch.save(authors(), path)
    return path


def test_an_imported_model_stands_in_the_menu_and_predicts(small: Path, tmp_path: Path) -> None:
    from maskloop import predict

    names = tmp_path / "classes.txt"
    names.write_text("cell\n\n speck \n", encoding="utf-8")
    found = import_model(small, "yolact:resnet50", "tiny", labels=names, licence="MIT")
    assert (found["model"], found["labels"]) == ("tiny", 2)
    card = find_card("tiny")
    assert card.labels.names == {1: "cell", 2: "speck"}
    assert (card.status, card.licence) == ("candidate", "MIT")
    assert "yolact_tiny_54_800000.pth (SHA-256 " in card.sources[-1]
    network = FAMILY.load(card, weights.paths(card))
    theirs = authors()
    says_the_same(network.state_dict(), theirs)
    image = tmp_path / "picture.png"
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
        image
    )
    assert predict(image, "tiny").mask.data.shape == (40, 50)


def test_a_safetensors_file_of_ours_goes_through_the_same_door(small: Path, tmp_path: Path) -> None:
    network = FAMILY.build(narrow())
    base.write_state(network, tmp_path / "own.safetensors")
    card = import_weights(tmp_path / "own.safetensors", "yolact", "own", labels=("cell", "speck"))
    mine = FAMILY.load(card, weights.paths(card)).state_dict()
    for key, value in network.state_dict().items():
        torch.testing.assert_close(mine[key], value)


def test_a_family_without_a_convention_of_its_own_takes_our_names(tmp_path: Path) -> None:
    from maskloop.models.meshnet import FAMILY as MESHNET

    assert not isinstance(MESHNET, Imports)
    wanted = MESHNET.card("width5", LABELS)
    base.write_state(MESHNET.build(wanted), tmp_path / "w.safetensors")
    card = import_weights(
        tmp_path / "w.safetensors", "meshnet:width5", "m", labels=("cell", "speck")
    )
    assert MESHNET.load(card, weights.paths(card)) is not None


def test_other_classes_are_told_as_a_difference_and_leave_nothing_behind(small: Path) -> None:
    with pytest.raises(WeightsError, match=r"80 classes") as error:
        import_weights(small, "yolact", "tiny")
    words = str(error.value)
    assert "shape       head.classes.weight: expected (243, 8, 3, 3), got (9, 8, 3, 3)" in words
    assert "names of their classes" in words
    assert not (cards.models_folder() / "tiny").exists()
    with pytest.raises(UnknownNameError):
        find_card("tiny")


def test_another_variant_is_refused_by_its_tensors(small: Path) -> None:
    with pytest.raises(WeightsError, match=r"boxes a cell|missing"):
        import_weights(small, "yolact:resnet50-plus", "tiny", labels=("cell", "speck"))


@pytest.mark.parametrize("network", ["yolakt", "yolact:resnet49"])
def test_an_unknown_network_names_those_there_are(small: Path, network: str) -> None:
    with pytest.raises(UnknownNameError, match=r"yolact|resnet101"):
        import_weights(small, network, "tiny", labels=("cell", "speck"))


def test_a_name_that_is_taken_needs_a_word(small: Path) -> None:
    for _ in range(2):
        import_weights(small, "yolact", "tiny", labels=("cell", "speck"), overwrite=True)
    with pytest.raises(InputError, match="expected a new model name"):
        import_weights(small, "yolact", "tiny", labels=("cell", "speck"))


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_file_that_would_run_code_runs_none(small: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({**authors(), "extra": Hostile(mark)}, small)
    with pytest.raises(WeightsError, match="asks to run"):
        import_weights(small, "yolact", "tiny", labels=("cell", "speck"))
    assert not mark.exists()
    assert not (cards.models_folder() / "tiny").exists()


def test_numbers_that_are_none_and_files_that_are_none_are_refused(
    small: Path, tmp_path: Path
) -> None:
    state = authors()
    state["semantic_seg_conv.bias"][0] = float("nan")
    torch.save(state, small)
    with pytest.raises(WeightsError, match=r"not-a-number in semantic\.bias"):
        import_weights(small, "yolact", "tiny", labels=("cell", "speck"))
    with pytest.raises(MissingFileError, match="give the path"):
        import_weights(tmp_path / "none.pth", "yolact", "tiny")
    with pytest.raises(InputError, match="'cell' twice"):
        import_weights(small, "yolact", "tiny", labels=("cell", "cell"))
    with pytest.raises(MissingFileError, match="class on each line"):
        import_model(small, "yolact", "tiny", labels=tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="got none; write them"):
        import_model(small, "yolact", "tiny", labels=tmp_path / "empty.txt")


def test_new_classes_keep_rows_of_the_same_name(small: Path) -> None:
    card = import_weights(small, "yolact", "tiny", labels=("cell", "speck"))
    wanted = LabelTable.classes(["dust", "speck", "hair"])
    _, network = base.load_for_labels(FAMILY, card, weights.paths(card), wanted)
    assert isinstance(network, Yolact)
    old = FAMILY.load(card, weights.paths(card))
    assert isinstance(old, Yolact)
    before, after = (n.head.classes.weight.unflatten(0, (-1, A)) for n in (old, network))
    assert (len(before), len(after)) == (3, 4)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[1], before[1])
    # This head has no row for the background.
    assert torch.equal(network.semantic.weight[1], old.semantic.weight[1])
    assert not torch.equal(network.semantic.weight[0], old.semantic.weight[0])
    assert isinstance(network.head.boxes, nn.Conv2d)
    assert torch.equal(network.head.boxes.weight, old.head.boxes.weight)
