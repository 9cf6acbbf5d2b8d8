"""The whole loop on pictures made here: offline, on two cores, in under two minutes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.case import Case
from maskloop.core.edits import Edit
from maskloop.core.errors import InputError, StorageError
from maskloop.core.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maskloop.core.image import Image
    from maskloop.core.mask import Mask
    from maskloop.formats.verify import Receipt
    from maskloop.loop.predict import Predictor

_SEEDS = (701, 702, 703)
_SHAPE, _SPACING = (32, 64, 64), (5.0, 4.5, 4.5)
_STEPS = 10
_MARK = "demo.json"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing the demo did: what, what came of it, and how long it took."""

    verb: str
    words: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo did and where its files lie.

    Parameters
    ----------
    folder : Path
        Holds everything; nothing was written outside it.
    steps : tuple of Step
        In order.
    receipts : tuple of Receipt
        Of every exported file; all of them passed, or `demo` would have raised.
    """

    folder: Path
    steps: tuple[Step, ...]
    receipts: tuple[Receipt, ...]

    @property
    def seconds(self) -> float:
        """Seconds from start to end."""
        return sum(step.seconds for step in self.steps)

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values."""
        return {
            "folder": str(self.folder),
            "seconds": round(self.seconds, 1),
            "steps": [
                {"verb": s.verb, "words": s.words, "seconds": round(s.seconds, 1)}
                for s in self.steps
            ],
            "receipts": [receipt.to_json() for receipt in self.receipts],
        }

    def to_text(self) -> str:
        """Return the report in lines for people."""
        lines = [f"{s.verb:<8} {s.seconds:5.1f} s  {s.words}" for s in self.steps]
        lines += ["", *(f"{r.verdict}  {r.path} ({r.reader})" for r in self.receipts)]
        lines += [
            "",
            f"All of it lies in {self.folder}, made in {self.seconds:.0f} s. Look at it:",
            f"  maskloop gui {self.folder / 'ct_1.nii.gz'} {self.folder / 'ct_1_mask.nii.gz'}",
            "The pictures are drawn, not taken, and a person's corrections were played from the "
            "exact masks they were drawn with.",
        ]
        return "\n".join(lines)


class _Log:
    """Steps so far, each timed from the one before."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.steps: list[Step] = []
        self._last = time.perf_counter()

    def add(self, verb: str, words: str) -> None:
        now = time.perf_counter()
        self.steps.append(Step(verb, words, now - self._last))
        self._last = now
        self.job.say(f"{verb}: {words}")


def demo(out: Path | str, *, job: Job | None = None) -> DemoReport:
    """Draw CTs and a picture of nuclei, and take them through all five verbs.

    Needs no network and no real data. Everything lands in `out`, the new model too
    (``out/home``); a demo that is there from before is replaced.

    Parameters
    ----------
    out : path
        A folder that does not exist, is empty, or holds an earlier demo.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    DemoReport
        What was done, how long it took, and the receipts.

    Raises
    ------
    InputError
        If the folder holds something else.
    StorageError
        If it cannot be written.
    VerificationError
        If an exported file does not read back as meant.
    """
    folder = _folder(Path(out))
    log = _Log(job or Job())
    with _home(folder / "home"):
        receipts = [*_volumes(folder, log), _nuclei(folder, log)]
        _train(folder, log)
    report = DemoReport(folder, tuple(log.steps), tuple(receipts))
    (folder / _MARK).write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    return report


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / _MARK).is_file():
            msg = (
                f"expected an empty folder for the demo, got {str(out)!r}, which holds files; "
                "choose another"
            )
            raise InputError(msg)
        (out / _MARK).write_text("{}", encoding="utf-8")
    except OSError as error:
        msg = (
            f"expected a folder that can be written at {str(out)!r}, "
            f"got {error.strerror or error}; choose another folder"
        )
        raise StorageError(msg) from error
    return out


@contextlib.contextmanager
def _home(folder: Path) -> Iterator[None]:
    """Keep the demo's model out of the user's own menu."""
    before = os.environ.get("MASKLOOP_HOME")
    os.environ["MASKLOOP_HOME"] = str(folder.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["MASKLOOP_HOME"]
        else:
            os.environ["MASKLOOP_HOME"] = before


def _volumes(folder: Path, log: _Log) -> list[Receipt]:
    """Draw, predict, correct and export the CTs; return their receipts."""
    from maskloop.loop.load import load
    from maskloop.loop.predict import Predictor
    from maskloop.ops.phantom import phantom_ct

    paths = [folder / f"ct_{number}.nii.gz" for number in range(1, len(_SEEDS) + 1)]
    truths = []
    for path, seed in log.job.track(list(zip(paths, _SEEDS, strict=True)), "draw"):
        image, truth = phantom_ct(seed, shape=_SHAPE, spacing=_SPACING, lesions=(4, 7))
        _write_volume(image, path)
        truths.append(truth)
    images = [load(path, job=log.job) for path in paths]
    log.add("load", f"{len(images)} phantom CTs of {_SHAPE} voxels, drawn and read back")
    predictor = Predictor("phantom-liver", job=log.job)
    drafts = _predict(predictor, images, log)
    fixed = [_correct(folder, number, images, drafts, truths, log) for number in range(len(images))]
    log.add(
        "correct",
        f"tumour Dice {_dice(drafts, truths, 2):.2f} -> {_dice(fixed, truths, 2):.2f} "
        f"over {len(fixed)} CTs; every step is in the journals (*.maskloop)",
    )
    return _export(folder, images, fixed, log)


def _predict(predictor: Predictor, images: list[Image], log: _Log) -> list[Mask]:
    found = [predictor.predict(image, log.job) for image in images]
    volume = sum(int((p.mask.data == 2).sum()) * p.mask.geometry.voxel_size for p in found) / 1000
    log.add("predict", f"liver and tumours with {found[0].model}: {volume:.0f} mL of tumour")
    return [prediction.mask for prediction in found]


def _correct(
    folder: Path,
    number: int,
    images: list[Image],
    drafts: list[Mask],
    truths: list[Mask],
    log: _Log,
) -> Mask:
    """Run the tools and a person's strokes on one draft, journalled, and replay the journal."""
    from maskloop.desk.cases import replay
    from maskloop.loop.correct import correct

    image, truth = images[number], truths[number]
    place = folder / f"ct_{number + 1}.maskloop"
    if place.exists():
        _remove_case(place)
    with Case.create(place, replace(drafts[number], labels=truth.labels)) as case:
        for tool, name, options in (
            ("holes", "liver", {}),
            ("islands", "liver", {"keep": "largest"}),
            ("islands", "tumour", {"keep": "all", "smallest": 200.0, "replace_by": "surroundings"}),
        ):
            if truth.labels.id_of(name) in case.mask.ids():
                done = correct(
                    case.mask, tool, image=image, label=name, parameters=options, job=log.job
                )
                case.apply(done.edit)
        for label in truth.ids():
            case.apply(_stroke(case.mask, truth, label))
        case.undo()
        case.redo()
        kept = replace(case.mask, source=image.source, header=image.header)
    if not np.array_equal(replay(place).data, kept.data):
        msg = (
            f"expected the journal in {place} to give the corrected mask, got another; report this"
        )
        raise StorageError(msg)
    return kept


def _stroke(mask: Mask, truth: Mask, label: int) -> Edit:
    """Return a person's painting of one label, played from the exact mask."""
    after = mask.data.astype(np.result_type(mask.data, truth.data))
    after[(after == label) & (truth.data != label)] = 0
    after[truth.data == label] = label
    words = f"paint {truth.labels[label].name}"
    return Edit.between(mask.data, after, tool="brush", author="demo reader", words=words)


def _remove_case(folder: Path) -> None:
    for name in ("case.json", "start.npy", "journal"):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def _export(folder: Path, images: list[Image], fixed: list[Mask], log: _Log) -> list[Receipt]:
    from maskloop.loop.export import export

    receipts = [
        export(mask, folder / f"ct_{number}_mask.nii.gz", image=image, job=log.job)
        for number, (image, mask) in enumerate(zip(images, fixed, strict=True), start=1)
    ]
    log.add("export", f"{len(receipts)} NIfTI masks, read back with {receipts[0].reader}")
    return receipts


def _nuclei(folder: Path, log: _Log) -> Receipt:
    """Draw a picture of nuclei, predict and write COCO."""
    from PIL import Image as Picture

    from maskloop.loop.export import export
    from maskloop.loop.load import load
    from maskloop.loop.predict import predict
    from maskloop.ops.phantom import nuclei_picture
    from maskloop.ops.scores import average_precision

    drawn, truth = nuclei_picture(7)
    path = folder / "nuclei.png"
    Picture.fromarray(drawn.data).save(path)
    image = load(path, job=log.job)
    found = predict(image, "nuclei", job=log.job).mask
    precision = average_precision(found.data, truth.data, (0.5,))[0]
    log.add(
        "predict",
        f"{len(found.ids())} nuclei of {len(truth.ids())} drawn, AP@0.5 {precision:.2f}",
    )
    receipt = export(found, folder / "nuclei.json", image=image, job=log.job)
    log.add("export", f"COCO, read back with {receipt.reader}")
    return receipt


def _train(folder: Path, log: _Log) -> None:
    """Teach the phantom model from the corrected CTs."""
    from maskloop.loop.train import train

    numbers = range(1, len(_SEEDS) + 1)
    pairs = [(folder / f"ct_{n}.nii.gz", folder / f"ct_{n}_mask.nii.gz") for n in numbers]
    report = train(pairs, "phantom-liver", "demo-liver", steps=_STEPS, overwrite=True, job=log.job)
    scores = ", ".join(
        f"{label} {(report.old or {}).get(label, float('nan')):.2f} -> {score:.2f}"
        for label, score in report.new.items()
    )
    log.add(
        "train",
        f"{report.steps} steps, held-out {report.measure} {scores}: {report.verdict}",
    )


def _dice(masks: list[Mask], truths: list[Mask], label: int) -> float:
    both = sum(
        int(((m.data == label) & (t.data == label)).sum())
        for m, t in zip(masks, truths, strict=True)
    )
    each = sum(int((m.data == label).sum()) for m in (*masks, *truths))
    return 2 * both / each if each else 1.0


def _write_volume(image: Image, path: Path) -> None:
    """Write a drawn CT as NIfTI."""
    import nibabel

    make: Any = nibabel.Nifti1Image  # Any: nibabel is untyped
    affine = image.geometry.affine[:, [2, 1, 0, 3]]
    volume = make(np.ascontiguousarray(image.data.T), affine)
    volume.header.set_xyzt_units("mm")
    nibabel.save(volume, path)
