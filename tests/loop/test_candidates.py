"""predict lists what a model nearly drew, on the image's grid, and only where asked."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from maskloop.cli import commands
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.review import Candidate, Review
from maskloop.loop.predict import predict, predict_all
from maskloop.models import FAMILIES
from maskloop.ops import measure
from maskloop.ops.candidates import Sieve
from tests.loop.chance_family import ChanceFamily, save_model

CHANCES = (0.9, 0.35, 0.8, 0.2, 0.7)
CENTRES = ((8, 8, 8), (8, 8, 36), (8, 36, 8), (24, 20, 20), (24, 36, 36))


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES.entries, "chance", "tests.loop.chance_family:FAMILY")


def five_lesions(spacing: tuple[float, ...] = (2.0, 1.0, 1.0)) -> Image:
    """Five balls of 5 mm radius in which the model's probability is .9, .8, .7, .35 and .2."""
    shape = (32, 44, 44)
    index = np.indices(shape)
    data = np.full(shape, 10, np.int16)
    for chance, centre in zip(CHANCES, CENTRES, strict=True):
        steps = np.array(spacing).reshape(3, 1, 1, 1)
        away = (index - np.array(centre).reshape(3, 1, 1, 1)) * steps
        data[np.square(away).sum(axis=0) <= 25] = round(1000 * chance)
    return Image(data, Geometry.regular(shape, spacing, (3, -5, 7)))


def test_of_five_lesions_three_are_drawn_and_two_are_listed_in_order(tmp_path: Path) -> None:
    save_model(tmp_path)
    found = predict(five_lesions(), "chances", device="cpu", candidates=True)
    drawn = measure.pieces(found.mask, 2)
    centres = {
        found.mask.geometry.to_index(piece.centre).round().astype(int).tobytes() for piece in drawn
    }
    assert centres == {
        np.array(c).tobytes() for c, p in zip(CENTRES, CHANCES, strict=True) if p > 0.5
    }
    assert found.candidates is not None
    assert [(c.number, c.label, c.name, c.centre) for c in found.candidates] == [
        (1, 2, "tumour", (8, 8, 36)),
        (2, 2, "tumour", (24, 20, 20)),
    ]
    assert [c.peak for c in found.candidates] == pytest.approx([0.35, 0.2], abs=0.002)
    assert [c.mean for c in found.candidates] == pytest.approx([0.35, 0.2], abs=0.002)
    for candidate in found.candidates:
        held = five_lesions().data[candidate.box] == round(1000 * round(candidate.peak, 2))
        np.testing.assert_array_equal(candidate.region, held)
        assert candidate.volume_mm3 == pytest.approx(2 * held.sum())
        assert candidate.status == "open"
    assert any("2 candidates below the model's threshold" in note for note in found.notes)


def test_the_low_threshold_is_the_callers(tmp_path: Path) -> None:
    save_model(tmp_path)
    found = predict(five_lesions(), "chances", device="cpu", candidates=0.3)
    assert found.candidates is not None
    assert [c.centre for c in found.candidates] == [(8, 8, 36)]
    with pytest.raises(InputError, match=r"below 0\.5"):
        predict(five_lesions(), "chances", device="cpu", candidates=0.6)


def test_candidates_cost_nothing_where_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path)
    asked = predict(five_lesions(), "chances", device="cpu", candidates=True)

    def never(*args: object, **more: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ChanceFamily, "segment_with_chances", never)
    plain = predict(five_lesions(), "chances", device="cpu")
    assert plain.candidates is None
    np.testing.assert_array_equal(plain.mask.data, asked.mask.data)


def test_a_family_without_probabilities_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES.entries, "fake", "tests.gui.fake_family:FAMILY")
    from tests.gui.fake_family import save_fake

    save_fake(tmp_path, "thresholds", ndim=3)
    found = predict(five_lesions(), "thresholds", device="cpu", candidates=True)
    assert found.candidates is None
    assert any("no candidates" in note for note in found.notes)


@pytest.mark.parametrize("spacing", [None, (3.0, 3.0, 3.0), (1.3, 1.3, 1.3)])
@pytest.mark.parametrize(
    ("axes", "flips"),
    [
        ((0, 1, 2), (False, False, False)),
        ((2, 0, 1), (True, False, True)),
        ((1, 2, 0), (False, True, True)),
    ],
)
def test_candidates_lie_where_the_image_shows_them_however_the_net_turns_it(
    tmp_path: Path,
    spacing: tuple[float, ...] | None,
    axes: tuple[int, ...],
    flips: tuple[bool, ...],
) -> None:
    save_model(tmp_path, orientation="SAR", spacing=spacing)
    straight = five_lesions()
    turned = straight.geometry.transposed(axes, flips)
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    image = Image(straight.data.transpose(axes)[steps], turned)
    found = predict(image, "chances", device="cpu", candidates=True).candidates
    assert found is not None
    assert len(found) == 2
    for candidate, centre in zip(found, ((8, 8, 36), (24, 20, 20)), strict=True):
        place = turned.to_world(np.array(candidate.centre, float))
        wanted = straight.geometry.to_world(np.array(centre, float))
        assert np.linalg.norm(place - wanted) <= 1.5
        assert candidate.volume_mm3 == pytest.approx(
            4 / 3 * np.pi * 125, rel=0.4 if spacing != (3.0, 3.0, 3.0) else 0.5
        )
        assert image.data[candidate.box][candidate.region].max() >= 200


def test_two_tiles_make_one_candidate(tmp_path: Path) -> None:
    """The lesion at (24, 20, 20) lies across the borders of tiles of 24."""
    save_model(tmp_path, tile=[12, 12, 12])
    found = predict(five_lesions(), "chances", device="cpu", candidates=True).candidates
    assert found is not None
    assert [c.centre for c in found] == [(8, 8, 36), (24, 20, 20)]


def written(folder: Path, name: str = "ct.nii.gz") -> Path:
    path, image = folder / name, five_lesions()
    affine = image.geometry.affine[[0, 1, 2, 3]][:, [2, 1, 0, 3]]
    nibabel.save(nibabel.Nifti1Image(image.data.transpose(), affine), path)
    return path


def test_the_command_writes_a_worklist_that_reads_back(tmp_path: Path) -> None:
    save_model(tmp_path)
    path, out, listed = written(tmp_path), tmp_path / "m.nii.gz", tmp_path / "c.json"
    arguments = ["predict", str(path), "-m", "chances", "-o", str(out), "--device", "cpu"]
    done = CliRunner().invoke(commands, [*arguments, "--candidates", str(listed)])
    assert done.exit_code == 0, done.output
    found = json.loads(listed.read_text())
    assert (found["model"], found["low"]) == ("chances", 0.1)
    (row,) = found["images"]
    assert (row["image"], row["mask"]) == ("ct.nii.gz", "m.nii.gz")
    again = [Candidate.from_json(one) for one in row["candidates"]]
    assert [c.centre for c in again] == [(8, 8, 36), (24, 20, 20)]
    assert [int(c.region.sum()) for c in again] == [c.voxels for c in again]
    assert Review().propose(again) == tuple(again)


def test_a_finished_mask_is_predicted_again_only_if_its_candidates_are_missing(
    tmp_path: Path,
) -> None:
    save_model(tmp_path)
    paths = [written(tmp_path, f"{n}.nii.gz") for n in "ab"]
    out, listed = tmp_path / "masks", tmp_path / "c.json"

    def states(**more: object) -> list[str]:
        found = predict_all(paths, "chances", out, device="cpu", **more)
        return [one.state for one in found]

    assert states() == ["done", "done"]
    assert states(worklist=listed) == ["done", "done"]
    first = json.loads(listed.read_text())
    assert len(first["images"]) == 2
    assert states(worklist=listed) == ["skipped", "skipped"]
    assert states(worklist=listed, low=0.3) == ["done", "done"]
    rows = json.loads(listed.read_text())["images"]
    assert [len(row["candidates"]) for row in rows] == [1, 1]
    other = tmp_path / "notes.json"
    other.write_text("[1, 2]")
    with pytest.raises(InputError, match="choose another name"):
        states(worklist=other)
    assert other.read_text() == "[1, 2]"


def test_the_sieve_counts_what_it_leaves_out(tmp_path: Path) -> None:
    save_model(tmp_path)
    image = five_lesions()
    image.data[0, 0, 0] = image.data[31, 0, 0:8] = 300
    found = predict(image, "chances", device="cpu", candidates=Sieve(most=1))
    assert found.candidates is not None
    assert [c.centre for c in found.candidates] == [(8, 8, 36)]
    (note,) = [note for note in found.notes if "candidate" in note]
    assert "1 smaller than 14 mm3" in note
    assert "2 less likely than the first 1" in note


def test_every_pair_of_peaks_is_in_order(tmp_path: Path) -> None:
    save_model(tmp_path)
    image = five_lesions()
    rng = np.random.default_rng(0)
    for z, y, x in itertools.product((2, 14, 30), (20, 41), (4, 14, 28)):
        image.data[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = rng.integers(150, 480)
    found = predict(image, "chances", device="cpu", candidates=True).candidates
    assert found is not None
    assert len(found) >= 12
    peaks = [(c.peak, c.mean) for c in found]
    assert peaks == sorted(peaks, reverse=True)
    assert [c.number for c in found] == list(range(1, len(found) + 1))
