"""Mask R-CNN: torchvision's own answer, on our grid; honest about what nobody reviewed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from maskloop.core.errors import InputError, WeightsError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.models import base
from maskloop.models.base import IGNORE, Batch
from maskloop.models.cards import ModelCard, find_card
from maskloop.models.instances import targets_of
from maskloop.models.maskrcnn import FAMILY
from maskloop.models.weights import torchvision_weights
from maskloop.ops.device import CPU

LABELS = LabelTable.classes({1: "disc", 2: "square"})


def small_card(variant: str = "resnet50", **told: object) -> ModelCard:
    card = FAMILY.card(variant, LABELS)
    few: dict[str, object] = {"shortest": 96, "longest": 128, "detections": 20, "least_score": 0.0}
    few |= {"proposals": 30, "samples": 16, "norm": "group"}
    few |= {"backbone": "resnet18", "width": 0.25, "features": 16}
    return dataclasses.replace(card, parameters={**card.parameters, **few, **told})


def picture(shape: tuple[int, ...] = (70, 90), seed: int = 0) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return Image(pixels, Geometry.pixels(shape), has_channels=True)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return FAMILY.build(small_card())


def test_the_first_has_the_papers_parameter_count_and_the_second_torchvisions() -> None:
    with torch.device("meta"):
        networks = [FAMILY.build(find_card(f"maskrcnn-{name}")) for name in ("coco", "v2-coco")]
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == [44_401_393, 46_359_409]


@pytest.mark.parametrize("name", ["maskrcnn-coco", "maskrcnn-v2-coco"])
def test_cards_say_what_torchvision_publishes(name: str) -> None:
    card = find_card(name)
    (weight,) = card.weights
    published = torchvision_weights(str(weight.source["torchvision"]))
    assert published.url == weight.source["url"]
    assert published.url.endswith(f"/{weight.file}")
    assert weight.file.endswith(f"-{weight.sha256}.pth")
    categories = published.meta["categories"]
    assert card.parameters["outputs"] == len(categories)
    assert card.labels.names == {
        i: n for i, n in enumerate(categories) if n not in ("__background__", "N/A")
    }
    (metrics,) = card.metrics.values()
    assert sorted(metrics.values()) == sorted(published.meta["_metrics"]["COCO-val2017"].values())


@pytest.mark.parametrize("variant", ["resnet50", "resnet50-v2"])
def test_torchvisions_own_state_loads_strictly(variant: str, tmp_path: Path) -> None:
    from torchvision.models import detection

    make = {
        "resnet50": detection.maskrcnn_resnet50_fpn,
        "resnet50-v2": detection.maskrcnn_resnet50_fpn_v2,
    }
    plain = make[variant](weights=None, weights_backbone=None, num_classes=3)
    state = plain.state_dict()
    if variant == "resnet50":  # published with frozen batch norms, which count no batches
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    card = small_card(variant, norm="frozen", backbone="resnet50", width=1, features=256)
    loaded = FAMILY.load(card, {"w.pth": tmp_path / "w.pth"})
    assert not loaded.training
    assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())
    del state["rpn.head.bbox_pred.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"missing     rpn.head.bbox_pred.bias"):
        FAMILY.load(card, {"w.pth": tmp_path / "w.pth"})


def test_published_weights_load_under_the_names_they_were_published_with(tmp_path: Path) -> None:
    from torchvision.models.detection.rpn import RPNHead

    card = small_card(norm="frozen")
    network = FAMILY.build(card)
    state = network.state_dict()
    earlier = {}
    for key, value in state.items():
        name = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "_blocks." in name or "rpn.head.conv" in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if name.startswith("roi_heads.mask_head."):
            _, _, number, _, kind = name.split(".")
            name = f"roi_heads.mask_head.mask_fcn{int(number) + 1}.{kind}"
        earlier[name] = value
    assert "backbone.fpn.inner_blocks.0.weight" in earlier
    assert "roi_heads.mask_head.mask_fcn4.bias" in earlier
    torch.save(earlier, tmp_path / "w.pth")
    loaded = FAMILY.load(card, {"w.pth": tmp_path / "w.pth"})
    assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())
    # torchvision itself reads these names: they are its own of before 2022.
    plain = RPNHead(16, 3)
    now = plain.state_dict()["conv.0.0.weight"] + 1
    plain.load_state_dict({"conv.weight": now}, strict=False)
    assert torch.equal(plain.conv[0][0].weight, now)


def test_new_classes_keep_everything_but_the_rows_of_the_heads(tmp_path: Path) -> None:
    labels = LabelTable([Label(3, "car"), Label(7, "train")])
    old = dataclasses.replace(small_card(norm="frozen", outputs=8), labels=labels)
    network = FAMILY.build(old)
    base.write_state(network, tmp_path / "w.safetensors")
    wanted = LabelTable.classes(["cell", "train"])
    card, fresh = base.load_for_labels(
        FAMILY, old, {"w.safetensors": tmp_path / "w.safetensors"}, wanted
    )
    assert card.labels == wanted
    assert "outputs" not in card.parameters
    before, after = network.state_dict(), fresh.state_dict()
    heads = ("roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits")
    for key, value in after.items():
        if not key.startswith(heads):
            assert torch.equal(value, before[key]), key
    for key, group in (
        ("roi_heads.box_predictor.cls_score.weight", 1),
        ("roi_heads.box_predictor.bbox_pred.bias", 4),
        ("roi_heads.mask_predictor.mask_fcn_logits.weight", 1),
    ):
        rows = after[key].reshape(3, group, -1)
        trained = before[key].reshape(8, group, -1)
        assert torch.equal(rows[0], trained[0])
        assert torch.equal(rows[2], trained[7])
        assert not any(torch.equal(rows[1], row) for row in trained)
    bare = dataclasses.replace(old, parameters={"outputs": 8})
    with pytest.raises(InputError, match="heads"):
        base.load_for_labels(FAMILY, bare, {}, wanted)


def test_objects_equal_torchvisions_own_forward(network: torch.nn.Module) -> None:
    from torchvision.models.detection import MaskRCNN

    assert isinstance(network, MaskRCNN)
    card, image = small_card(), picture()
    network.transform.min_size, network.transform.max_size = (96,), 128
    with torch.inference_mode():
        unit = torch.from_numpy(image.data).permute(2, 0, 1).float() / 255
        wanted = network.eval()([unit])[0]
    listed, _ = FAMILY.objects(network, image, card=card, device=CPU, job=Job())
    # An object without a pixel is none.
    drawn = (wanted["masks"] > 0.5).flatten(1).any(1)
    wanted = {name: value[drawn] for name, value in wanted.items()}
    assert len(listed) == len(wanted["scores"]) > 3
    for one, mask, score, label in zip(
        listed, wanted["masks"], wanted["scores"], wanted["labels"], strict=True
    ):
        whole = np.zeros((70, 90), dtype=bool)
        whole[one.box] = one.region
        theirs = (mask[0] > 0.5).numpy()
        # Boxes are cut to whole pixels: rounding in another order moves an edge now and then.
        assert np.count_nonzero(whole != theirs) <= 0.01 * theirs.size
        assert one.score == pytest.approx(float(score), abs=1e-5)
        assert one.category == LABELS[int(label)].name


def test_ids_lie_on_the_images_grid_with_rows_for_all(network: torch.nn.Module) -> None:
    image = picture()
    found = FAMILY.segment(network, image, card=small_card(), device=CPU, job=Job())
    mask = Mask.like(image, found.ids, found.labels)
    assert set(mask.ids()) == set(found.labels)
    assert found.labels
    scores = [row.score or 0 for row in found.labels.values()]
    assert scores == sorted(scores, reverse=True)
    assert {row.category for row in found.labels.values()} <= {"disc", "square"}
    assert all(row.is_thing and row.author == "maskrcnn-resnet50" for row in found.labels.values())


def test_outputs_without_a_label_are_left_out(network: torch.nn.Module) -> None:
    card = dataclasses.replace(
        small_card(outputs=3), labels=LabelTable([Label(2, "square", is_thing=True)])
    )
    found = FAMILY.segment(network, picture(), card=card, device=CPU, job=Job())
    assert {row.category for row in found.labels.values()} <= {"square"}


def test_a_volume_is_refused(network: torch.nn.Module) -> None:
    volume = Image(np.zeros((4, 40, 40), np.uint8), Geometry.regular((4, 40, 40), (1, 1, 1)))
    with pytest.raises(InputError, match="choose one slice"):
        FAMILY.segment(network, volume, card=small_card(), device=CPU, job=Job())


def test_running_out_of_memory_is_told_as_such(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskloop.core.errors import DeviceError

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(network.backbone), "forward", full)
    with pytest.raises(DeviceError, match="memory"):
        FAMILY.segment(network, picture(), card=small_card(), device=CPU, job=Job())


def batch_of_discs(seed: int = 0) -> Batch:
    generator = np.random.default_rng(seed)
    images, ids = generator.normal(0, 0.2, (2, 3, 64, 64)).astype(np.float32), np.zeros((2, 64, 64))
    y, x = np.mgrid[:64, :64]
    for n, (cy, cx) in enumerate(((20, 24), (40, 36))):
        disc = (y - cy) ** 2 + (x - cx) ** 2 < 144
        images[n][:, disc] += 2
        ids[n][disc] = 7
    return Batch(torch.from_numpy(images), torch.from_numpy(ids).long(), [{7: 1}, {7: 1}])


@pytest.mark.slow
def test_training_lowers_the_loss_on_two_pictures() -> None:
    torch.manual_seed(0)
    card, batch = small_card(), batch_of_discs()
    network = FAMILY.build(card).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(4):
        loss = FAMILY.train_step(network, batch, card=card)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


def test_unreviewed_background_teaches_nothing(network: torch.nn.Module) -> None:
    batch = batch_of_discs()
    card = small_card()
    FAMILY.train_step(network.train(), batch, card=card)
    rpn = network.rpn
    anchors = [torch.tensor([[0.0, 0, 20, 20], [40, 40, 60, 60], [8, 12, 32, 36]])] * 2
    targets = [targets_of(i, c) for i, c in zip(batch.ids, batch.categories, strict=True)]
    told = [{"boxes": t.boxes, "labels": t.labels} for t in targets]
    seen, _ = rpn.assign_targets_to_anchors(anchors, told)
    assert seen[0].tolist()[:2] == [0, 0]
    half = batch.ids.clone()
    half[:, 38:, :] = IGNORE
    FAMILY.train_step(network, Batch(batch.images, half, batch.categories), card=card)
    unseen, _ = rpn.assign_targets_to_anchors(anchors, told)
    assert unseen[0].tolist()[:2] == [0, -1]
    _, labels = network.roi_heads.assign_targets_to_proposals(
        anchors, [t.boxes for t in targets], [t.labels for t in targets]
    )
    assert labels[0].tolist()[1] == -1


def test_a_batch_without_objects_or_review_still_has_a_finite_loss(
    network: torch.nn.Module,
) -> None:
    batch = batch_of_discs()
    for ids in (torch.zeros_like(batch.ids), torch.full_like(batch.ids, IGNORE)):
        batch = Batch(batch.images, ids, [{}, {}])
        loss = FAMILY.train_step(network.train(), batch, card=small_card())
        assert torch.isfinite(loss)
        assert loss.requires_grad


def test_preparing_keeps_ids_categories_and_review() -> None:
    image = picture((48, 64))
    ids = np.zeros((48, 64), np.uint8)
    ids[4:20, 4:20], ids[30:40, 30:60] = 3, 5
    table = LabelTable(
        [Label(3, "a", category="disc"), Label(5, "b", category="square", ignore=True)]
    )
    mask = Mask.like(image, ids, table)
    reviewed = np.ones((48, 64), bool)
    reviewed[:, 60:] = False
    (volume,) = FAMILY.prepare(image, mask, card=small_card(), reviewed=reviewed, job=Job())
    assert volume.data.shape == (3, 96, 128)
    assert volume.ids.shape == (96, 128)
    assert volume.categories == {3: 1}
    assert volume.reviewed is not None
    assert volume.reviewed[0, 0]
    assert not volume.reviewed[70, 80]
    assert not volume.reviewed[0, 127]
    assert np.count_nonzero(volume.ids == 3) == 4 * 16 * 16


def test_a_class_map_is_split_into_objects() -> None:
    image = picture((48, 64))
    ids = np.zeros((48, 64), np.uint8)
    ids[4:10, 4:10] = ids[20:30, 20:30] = 1
    ids[40:44, 40:50] = 2
    mask = Mask.like(image, ids, LABELS)
    (volume,) = FAMILY.prepare(image, mask, card=small_card(), reviewed=None, job=Job())
    assert volume.categories == {1: 1, 2: 1, 3: 2}
    assert sorted(np.unique(volume.ids)) == [0, 1, 2, 3]


def test_an_unknown_label_is_refused_by_name() -> None:
    image = picture((48, 64))
    mask = Mask.like(image, np.ones((48, 64), np.uint8), {1: "elephant"})
    with pytest.raises(InputError, match=r"disc, square.*'elephant'"):
        base.class_indices(mask, small_card())
