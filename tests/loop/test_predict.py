"""Predict: on the image's grid, one failure stops no other, nothing finished is done twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from maskloop.core.errors import Cancelled, InputError, UnknownNameError, WeightsError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.formats.base import receipt_of
from maskloop.loop import predict as verb
from maskloop.loop.load import load_mask
from maskloop.loop.predict import Predictor, predict, predict_all
from maskloop.models import FAMILIES
from maskloop.models.base import write_state
from maskloop.models.cards import ModelCard, save_card


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    """A 3D network that calls everything above 0 a tumour, saved as a user's model."""
    family = FAMILIES.get("unet")
    card = family.card("residual3d", LabelTable.classes({1: "liver", 2: "tumour"}))
    torch.manual_seed(0)
    network = family.build(card)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_state(network, file)
    parameters = {**card.parameters, "tile": [16, 16, 16], "orientation": "SAR"}
    named = dataclasses.replace(card, name="tiny", spacing=None, parameters=parameters)
    return save_card(named, {"w.safetensors": file})


def write_volume(path: Path, seed: int = 0, shape: tuple[int, ...] = (12, 14, 10)) -> Path:
    data = np.random.default_rng(seed).integers(-200, 300, shape).astype(np.int16)
    affine = np.array([[-0.8, 0, 0.1, 10], [0, -0.8, 0, 20], [0.1, 0, 2, -30], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def test_the_mask_lies_on_the_images_grid(model: ModelCard, tmp_path: Path) -> None:
    path = write_volume(tmp_path / "ct.nii.gz")
    found = predict(path, "tiny", device="cpu")
    from maskloop.loop.load import load

    found.mask.require_on(load(path))
    assert found.mask.data.dtype == np.uint8
    assert found.mask.labels.names == {1: "liver", 2: "tumour"}
    assert {row.author for row in found.mask.labels.values()} == {"tiny"}
    assert (found.model, found.device) == ("tiny", "cpu")
    assert found.seconds > 0


def test_what_crashes_a_window_is_kept_out_before_a_family_is_imported(
    model: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskloop.core.registry import Registry
    from maskloop.ops import device

    done: list[str] = []
    get = Registry.get
    monkeypatch.setattr(device, "load_dynamo", lambda: done.append("dynamo"))
    monkeypatch.setattr(Registry, "get", lambda self, name: done.append(name) or get(self, name))
    Predictor("tiny", "cpu")
    assert done[:2] == ["dynamo", "unet"]


def test_a_predictor_gives_the_same_answer_each_time(model: ModelCard, tmp_path: Path) -> None:
    path = write_volume(tmp_path / "ct.nii.gz")
    keeper = Predictor("tiny", "cpu")
    first = keeper.predict(path).mask.data
    np.testing.assert_array_equal(first, keeper.predict(path).mask.data)
    np.testing.assert_array_equal(first, predict(path, model, device="cpu").mask.data)


def test_time_pictures_and_channels_are_refused(model: ModelCard) -> None:
    keeper = Predictor("tiny", "cpu")
    grid = Geometry.regular((4, 5, 6), (1, 1, 1))
    for image, word in (
        (Image(np.zeros((3, 4, 5, 6)), grid, has_time=True), "one frame"),
        (Image(np.zeros((4, 5, 6, 2)), grid, has_channels=True), "one channel"),
        (Image(np.zeros((4, 5)), Geometry.pixels((4, 5))), "2D model"),
    ):
        with pytest.raises(InputError, match=word):
            keeper.predict(image)


def test_unknown_untrained_and_damaged_models_are_told_apart(
    model: ModelCard, tmp_path: Path, home: Path
) -> None:
    path = write_volume(tmp_path / "ct.nii.gz")
    with pytest.raises(UnknownNameError, match="tiny"):
        predict(path, "huge")
    bare = FAMILIES.get("unet").card("residual3d", LabelTable.classes(["a"]))
    with pytest.raises(WeightsError, match="train it first"):
        predict(path, bare)
    weights = home / "models" / "tiny" / "w.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"X")
    with pytest.raises(WeightsError, match="sha256"):
        predict(path, "tiny")


def test_absent_weights_are_not_fetched_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLOOP_OFFLINE", "1")
    from PIL import Image as Picture

    Picture.new("RGB", (20, 16)).save(tmp_path / "a.png")
    with pytest.raises(WeightsError, match=r"download\.pytorch\.org.*--from FILE"):
        predict(tmp_path / "a.png", "lraspp-mobilenet-voc")


def test_cancelling_writes_nothing(model: ModelCard, tmp_path: Path) -> None:
    path, job = write_volume(tmp_path / "ct.nii.gz"), Job()
    job.cancel()
    with pytest.raises(Cancelled):
        predict_all([path], "tiny", tmp_path / "out", device="cpu", job=job)
    assert not list((tmp_path / "out").glob("*"))


def test_one_image_goes_into_the_file_that_is_named(model: ModelCard, tmp_path: Path) -> None:
    path = write_volume(tmp_path / "ct.nii.gz")
    (outcome,) = predict_all([path], "tiny", tmp_path / "mask.nii", device="cpu")
    assert outcome.state == "done"
    assert outcome.receipt is not None
    assert outcome.receipt.verdict == "PASS"
    mask = load_mask(tmp_path / "mask.nii")
    np.testing.assert_array_equal(mask.data, predict(path, "tiny", device="cpu").mask.data)
    assert json.dumps(outcome.to_json())
    assert "PASS" in outcome.to_text()


def test_many_images_load_the_model_once_and_finished_ones_are_skipped(
    model: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_volume(tmp_path / f"{n}.nii.gz", seed=n) for n in range(3)]
    loads = []
    plain = Predictor.__init__
    monkeypatch.setattr(
        Predictor, "__init__", lambda self, *a, **k: loads.append(1) or plain(self, *a, **k)
    )
    out = tmp_path / "masks"
    first = predict_all(paths, "tiny", out, device="cpu")
    assert [o.state for o in first] == ["done"] * 3
    assert sorted(p.name for p in out.glob("*.nii.gz")) == [f"{n}_tiny.nii.gz" for n in range(3)]
    stamps = [o.out.stat().st_mtime_ns for o in first]
    write_volume(paths[1], seed=99)
    (out / "2_tiny.nii.gz").unlink()
    second = predict_all(paths, "tiny", out, device="cpu")
    assert [o.state for o in second] == ["skipped", "failed", "done"]
    assert "overwrite" in second[1].error
    assert [o.out.stat().st_mtime_ns for o in second][:2] == stamps[:2]
    third = predict_all(paths, "tiny", out, device="cpu", overwrite=True)
    assert [o.state for o in third] == ["done"] * 3
    fourth = predict_all(paths, "tiny", out, device="cpu")
    assert [o.state for o in fourth] == ["skipped"] * 3
    assert loads == [1, 1, 1]


def test_a_corrected_mask_is_never_replaced_unasked(model: ModelCard, tmp_path: Path) -> None:
    from maskloop.loop.export import export

    path, out = write_volume(tmp_path / "ct.nii.gz"), tmp_path / "m.nii.gz"
    predict_all([path], "tiny", out, device="cpu")
    mask = load_mask(out)
    corrected = dataclasses.replace(mask, data=np.ones_like(mask.data))
    export(corrected, out)
    (outcome,) = predict_all([path], "tiny", out, device="cpu")
    assert outcome.state == "failed"
    assert "corrected" in outcome.error
    assert (load_mask(out).data == 1).all()


def test_other_weights_are_not_taken_for_the_same_result(model: ModelCard, tmp_path: Path) -> None:
    path, out = write_volume(tmp_path / "ct.nii.gz"), tmp_path / "m.nii.gz"
    predict_all([path], "tiny", out, device="cpu")
    told = json.loads(receipt_of(out).read_text())
    assert told["prediction"]["weights"] == {w.file: w.sha256 for w in model.weights}
    assert str(tmp_path) not in receipt_of(out).read_text()
    told["prediction"]["weights"]["w.safetensors"] = "0" * 64
    receipt_of(out).write_text(json.dumps(told))
    (outcome,) = predict_all([path], "tiny", out, device="cpu")
    assert outcome.state == "failed"


def test_one_bad_image_does_not_stop_the_others(model: ModelCard, tmp_path: Path) -> None:
    good = write_volume(tmp_path / "a.nii.gz")
    cut = tmp_path / "b.nii.gz"
    cut.write_bytes(good.read_bytes()[:300])
    text = tmp_path / "c.nii.gz"
    text.write_text("not an image")
    last = write_volume(tmp_path / "e.nii.gz", seed=2)
    found = predict_all(
        [good, cut, text, tmp_path / "d.nii.gz", last], "tiny", tmp_path / "out", device="cpu"
    )
    assert [o.state for o in found] == ["done", "failed", "failed", "failed", "done"]
    assert [o.is_done for o in found] == [True, False, False, False, True]
    assert all(o.error.startswith("expected") and ";" in o.error for o in found[1:4])
    assert sorted(p.name for p in (tmp_path / "out").glob("*.gz")) == [
        "a_tiny.nii.gz",
        "e_tiny.nii.gz",
    ]


def test_two_images_that_would_write_one_file_are_refused_before_any_work(
    model: ModelCard, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_volume(tmp_path / folder / "ct.nii.gz")
    paths = [tmp_path / "a" / "ct.nii.gz", tmp_path / "b" / "ct.nii.gz"]
    with pytest.raises(InputError, match="separate folders"):
        predict_all(paths, "tiny", tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match="separate folders"):
        predict_all([paths[0], paths[0]], "tiny", tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match="name a folder"):
        predict_all(paths, "tiny", tmp_path / "out.nii.gz", device="cpu")
    with pytest.raises(InputError, match="other than its image"):
        predict_all(paths[:1], "tiny", paths[0], device="cpu")
    with pytest.raises(InputError, match="at least one"):
        predict_all([], "tiny", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert load_is_intact(paths[0])


def load_is_intact(path: Path) -> bool:
    return nibabel.load(path).get_fdata().std() > 50


def test_an_unknown_model_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "ct.nii.gz")
    with pytest.raises(UnknownNameError):
        predict_all([path], "huge", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_known_by_the_names_and_contents_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    first = verb._hash_of(tmp_path)
    assert verb._hash_of(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "c")
    second = verb._hash_of(tmp_path)
    (tmp_path / "c").write_bytes(b"3")
    assert len({first, second, verb._hash_of(tmp_path)}) == 3


def test_a_picture_is_written_as_a_picture(tmp_path: Path) -> None:
    from PIL import Image as Picture

    family = FAMILIES.get("torchsemantic")
    card = family.card("lraspp_mobilenet_v3_large", LabelTable.classes(["cat", "dog"]))
    write_state(family.build(card), tmp_path / "w.safetensors")
    small = {**card.parameters, "shortest": 64, "longest": 128}
    card = dataclasses.replace(card, name="flat", parameters=small)
    save_card(card, {"w.safetensors": tmp_path / "w.safetensors"})
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Picture.fromarray(pixels).save(tmp_path / "photo.jpg")
    (outcome,) = predict_all([tmp_path / "photo.jpg"], "flat", tmp_path / "out", device="cpu")
    assert outcome.state == "done", outcome.error
    assert outcome.out.name == "photo_flat.png"
    assert load_mask(outcome.out).data.shape == (30, 40)
