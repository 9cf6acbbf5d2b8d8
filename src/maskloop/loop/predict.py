"""Second verb: let a model segment an image, on the image's own grid."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import (
    DeviceError,
    InputError,
    MissingFileError,
    StorageError,
    VerificationError,
    WeightsError,
)
from maskloop.core.files import put, sha256_of
from maskloop.core.image import Image, stem_of
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.beside import Beside
from maskloop.formats.base import receipt_of
from maskloop.formats.verify import Receipt
from maskloop.ops import candidates as nearly
from maskloop.ops.candidates import LOW, Sieve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from maskloop.core.review import Candidate
    from maskloop.formats.base import Choices
    from maskloop.models.cards import ModelCard
    from maskloop.models.objects import Found
    from maskloop.ops.guided import Refinement

_ONE_IMAGE = (InputError, StorageError, MissingFileError, DeviceError, VerificationError)

__all__ = ["Outcome", "Prediction", "Predictor", "predict", "predict_all"]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model found.

    Parameters
    ----------
    mask : Mask
        On the image's grid.
    model : str
        Name of its card.
    device : str
        Asked for; `notes` tell if memory made it another.
    seconds : float
        From pixels to mask, loading not counted.
    notes : tuple of str
        What the person should read.
    candidates : tuple of Candidate, optional
        What the model nearly drew, the likeliest first. None where nobody asked, or the model
        gives no probabilities.
    probabilities : float32 array ``(1 + labels, *shape)``, optional
        Of the background and of each label in order of id, on the image's grid; they sum to 1.
        Only where asked for.
    objects : tuple of Found, optional
        Every object the model found, whole, the best score first: also what of it lies under a
        better one in `mask`, which has one object a voxel. Only where asked for.
    """

    mask: Mask
    model: str
    device: str
    seconds: float
    notes: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] | None = None
    probabilities: npt.NDArray[np.float32] | None = None
    objects: tuple[Found, ...] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one image of many fared.

    Parameters
    ----------
    image, out : Path
        From where, to where.
    state : {"done", "skipped", "failed"}
        ``skipped``: a finished result of the same image, model and weights was there.
    error : str
        Why it failed.
    receipt : Receipt, optional
        Of what was written.
    candidates : tuple of Candidate, optional
        As in `Prediction`.
    """

    image: Path
    out: Path
    state: str
    error: str = ""
    seconds: float = 0.0
    device: str = ""
    notes: tuple[str, ...] = ()
    receipt: Receipt | None = None
    candidates: tuple[Candidate, ...] | None = None

    @property
    def is_done(self) -> bool:
        """Whether the result is there, new or from before."""
        return self.state != "failed"

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values."""
        return {
            "image": str(self.image),
            "out": str(self.out),
            "state": self.state,
            "error": self.error,
            "seconds": round(self.seconds, 3),
            "device": self.device,
            "notes": list(self.notes),
            "receipt": None if self.receipt is None else self.receipt.to_json(),
        }

    def to_text(self) -> str:
        """Return lines for people."""
        if self.state == "failed":
            return f"failed   {self.image}: {self.error}"
        if self.state == "skipped":
            return f"skipped  {self.image}: {self.out} is finished already"
        lines = [f"done     {self.image} -> {self.out} in {self.seconds:.1f} s on {self.device}"]
        lines += [f"  note     {note}" for note in self.notes]
        if self.receipt is not None:
            lines.append(self.receipt.to_text())
        return "\n".join(lines)


class Predictor:
    """A model kept in memory, for one image after the other.

    Parameters
    ----------
    model : str or ModelCard
        Name on the menu, or a card.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    job : Job, optional
        Told while weights are fetched and loaded.

    Raises
    ------
    UnknownNameError
        If there is no such model or family.
    WeightsError
        If the weights are absent and cannot be fetched, or are not what the card says.
    DeviceError
        If torch cannot use the device.
    """

    def __init__(
        self, model: str | ModelCard, device: str = "auto", *, job: Job | None = None
    ) -> None:
        from maskloop.models import FAMILIES, cards, weights
        from maskloop.ops.device import choose, load_dynamo

        load_dynamo()  # torchvision, on which families stand, imports it
        job = job or Job()
        self.card = cards.find_card(model) if isinstance(model, str) else model
        if not self.card.weights:
            msg = (
                f"expected a trained model, got {self.card.name!r} which has no weights; "
                f"train it first: maskloop train"
            )
            raise WeightsError(msg)
        self.device = choose(device)
        job.report(f"loading {self.card.name}", 0)
        if not weights.present(self.card):
            weights.fetch(self.card, job)
        files = weights.paths(self.card)
        job.report(f"loading {self.card.name}", 0)
        self._family = FAMILIES.get(self.card.family)
        self._network = self._family.load(self.card, files)

    def predict(
        self,
        image: Image | Path | str,
        job: Job | None = None,
        *,
        candidates: bool | float | Sieve = False,
        refine: bool | int | Refinement | None = None,
        probabilities: bool = False,
        overlaps: bool = False,
    ) -> Prediction:
        """Return what the model finds in one image; what else may be asked is as for `predict`.

        Raises
        ------
        InputError
            If the network cannot be shown such an image: a time axis, too few axes, channels. If
            the model cannot be refined, tells no probabilities, or finds no objects.
        DeviceError
            If memory ran out on every rung of the ladder.
        Cancelled
            If the job was stopped.
        """
        from maskloop.models.answers import answer, refined

        job = job or Job()
        card = refined(self.card, refine)
        image = _loaded(image, job)
        why_not = card.why_not(
            ndim=image.geometry.ndim,
            channels=image.channels,
            frames=image.frames if image.has_time else 0,
            name=image.name,
        )
        if why_not:
            raise InputError(why_not)
        sieve = Sieve.of(candidates)
        told = len(job.notes)
        start = time.perf_counter()
        found = answer(
            self._family,
            self._network,
            image,
            card=card,
            device=self.device,
            job=job,
            wants_chances=sieve is not None,
            wants_probabilities=probabilities,
            wants_objects=overlaps,
        )
        mask = Mask.like(image, found.ids, _signed(found.labels, card.name))
        notes = [*found.notes, *job.notes[told:]]
        listed = None
        if sieve is not None and found.chances is not None:
            work = nearly.worklist(mask, found.chances, sieve)
            listed = work.candidates
            notes.append(work.words(sieve))
        elif sieve is not None:
            notes.append(
                f"{card.name} tells no probabilities of what it leaves out: no candidates, look "
                "for missed objects yourself"
            )
        seconds = time.perf_counter() - start
        if self.device.note:
            notes.append(self.device.note)
        if found.lost:
            notes.append(
                f"{found.lost} voxels were claimed by more than one object: the better score has "
                f"them"
            )
        words = tuple(dict.fromkeys(notes))
        return Prediction(
            mask,
            card.name,
            self.device.name,
            seconds,
            words,
            listed,
            found.probabilities,
            found.objects,
        )


def predict(
    image: Image | Path | str,
    model: str | ModelCard,
    *,
    device: str = "auto",
    candidates: bool | float | Sieve = False,
    refine: bool | int | Refinement | None = None,
    probabilities: bool = False,
    overlaps: bool = False,
    job: Job | None = None,
) -> Prediction:
    """Segment one image.

    Parameters
    ----------
    image : Image, Path or str
        Without a time axis; choose a frame first.
    model : str or ModelCard
        Name on the menu (`maskloop.list_models`), or a card. Its weights are fetched on first use.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    candidates : bool, float or Sieve
        Whether to list what the model nearly drew (`Prediction.candidates`); a number is the
        probability to begin at, 0.1 where only asked.
    refine : bool, int or Refinement, optional
        Whether to draw borders to edges of the picture that lie close by (guided filter); a number
        is the radius of its windows in voxels. None leaves it to the model's card.
    probabilities : bool
        Whether to keep the probability of every class at every voxel (`Prediction.probabilities`):
        four bytes each.
    overlaps : bool
        Whether to keep every object whole (`Prediction.objects`), also where a better one lies over
        it; only of models that find objects one by one.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    Prediction
        The mask lies on the image's own grid.

    Raises
    ------
    UnknownNameError, InputError, WeightsError, DeviceError, Cancelled
        As for `Predictor` and `Predictor.predict`.
    """
    job = job or Job()
    image = _loaded(image, job)
    return Predictor(model, device, job=job).predict(
        image,
        job,
        candidates=candidates,
        refine=refine,
        probabilities=probabilities,
        overlaps=overlaps,
    )


def predict_all(
    images: Sequence[Path | str],
    model: str | ModelCard,
    out: Path | str,
    *,
    device: str = "auto",
    job: Job | None = None,
    overwrite: bool = False,
    choices: Choices | None = None,
    worklist: Path | str | None = None,
    low: float = LOW,
    refine: bool | int | Refinement | None = None,
    probabilities: Path | str | None = None,
    overlaps: Path | str | None = None,
) -> list[Outcome]:
    """Segment images and write the masks, each read back and compared before it stands.

    The model is loaded once, and only if there is something left to do. One image that fails does
    not stop the others.

    Parameters
    ----------
    images : sequence of Path or str
    model : str or ModelCard
    out : Path or str
        For one image a file, whose suffix chooses the format; else a folder, made if need be, that
        gets ``NAME_MODEL.nii.gz`` for volumes and ``NAME_MODEL.png`` for pictures.
    device : str
    job : Job, optional
    overwrite : bool
        Predict again what is finished, and replace what is in the way.
    choices : Choices, optional
        As for `load`; the same for all images.
    worklist : path, optional
        A JSON file to list what the model nearly drew, image by image.
    low : float
        The probability from which a voxel is listed there.
    refine : bool, int or Refinement, optional
        As for `predict`.
    probabilities : path, optional
        A ``.npz`` file for those of one image, else a folder, which gets one named after each mask;
        see `maskloop.desk.probabilities`.
    overlaps : path, optional
        A JSON file (COCO) for every object whole, image by image, which `load_objects` reads; or a
        folder, which gets one named after each mask.

    Returns
    -------
    list of Outcome
        One an image, in order. A finished result (its receipt names the same image, model and
        weights by hash, and the file is as written) is skipped.

    Raises
    ------
    InputError
        If there is no image, one comes twice, or two would write the same file.
    UnknownNameError, WeightsError, DeviceError, Cancelled
        As for `Predictor`.
    """
    from maskloop.models.cards import find_card

    job = job or Job()
    card = find_card(model) if isinstance(model, str) else model
    if refine is not None:
        from maskloop.models.answers import refined

        card = refined(card, refine)
    targets = _targets([Path(p) for p in images], card, Path(out))
    predictor: Predictor | None = None
    outcomes = []
    beside = Beside.of(
        card,
        len(targets),
        worklist=worklist,
        low=low,
        probabilities=probabilities,
        overlaps=overlaps,
    )
    for image, target in job.track(list(targets.items()), "images"):
        try:
            about = _about(image, card, choices)
            kept = None if overwrite else _finished(target, about)
        except (InputError, StorageError, MissingFileError) as error:
            outcomes.append(Outcome(image, target, "failed", str(error)))
            continue
        if kept is not None and beside.knows(kept):
            outcomes.append(Outcome(image, target, "skipped", receipt=kept))
            continue
        # Outside the reach of one image's failure: without the model none can succeed.
        predictor = predictor or Predictor(card, device, job=job)
        try:
            done = _predict_one(predictor, image, target, about, choices, job, beside)
        except _ONE_IMAGE as error:
            outcomes.append(Outcome(image, target, "failed", str(error)))
            continue
        outcomes.append(done)
    return outcomes


def _predict_one(
    predictor: Predictor,
    image: Path,
    target: Path,
    about: Mapping[str, Any],
    choices: Choices | None,
    job: Job,
    beside: Beside,
) -> Outcome:
    from maskloop.loop.export import export

    pixels = _loaded(image, job, choices)
    found = predictor.predict(
        pixels,
        job,
        candidates=beside.sieve or False,
        probabilities=beside.files is not None,
        overlaps=beside.objects is not None,
    )
    receipt = export(found.mask, target, image=pixels, job=job)
    told = {**about, "device": found.device, "seconds": round(found.seconds, 3)}
    _note_in_receipt(target, {**told, "notes": list(found.notes)})
    beside.put(image, receipt, found)
    return Outcome(
        image,
        target,
        "done",
        seconds=found.seconds,
        device=found.device,
        notes=found.notes,
        receipt=receipt,
        candidates=found.candidates,
    )


def _loaded(image: Image | Path | str, job: Job, choices: Choices | None = None) -> Image:
    if isinstance(image, Image):
        return image
    from maskloop.loop.load import load

    return load(image, choices=choices, job=job)


def _signed(labels: LabelTable, author: str) -> LabelTable:
    return LabelTable(row if row.author else replace(row, author=author) for row in labels.values())


def _targets(images: list[Path], card: ModelCard, out: Path) -> dict[Path, Path]:
    """Return where each image's mask goes; refuse what would write one file twice."""
    from maskloop import formats

    if not images:
        msg = "expected at least one image, got none; name a file or a folder of one series"
        raise InputError(msg)
    is_file = len(images) == 1 and not out.is_dir() and formats.by_suffix(out) is not None
    if len(images) > 1 and (out.is_file() or (not out.is_dir() and formats.by_suffix(out))):
        msg = (
            f"expected a folder for {len(images)} images, got the file name {str(out)!r}; "
            f"name a folder"
        )
        raise InputError(msg)
    targets: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for image in images:
        target = out if is_file else out / f"{stem_of(image)}_{card.name}{_suffix(image, card)}"
        place = Path(os.path.abspath(target))
        if image in targets or place in taken:
            first = taken.get(place, image)
            msg = (
                f"expected images of different names, got {str(first)!r} and {str(image)!r} which "
                f"would both write {str(target)!r}; predict them into separate folders"
            )
            raise InputError(msg)
        if place == Path(os.path.abspath(image)):
            msg = (
                f"expected a place for the mask other than its image, got {str(target)!r} for "
                f"both; choose another name"
            )
            raise InputError(msg)
        taken[place] = image
        targets[image] = target
    if not is_file:
        _make_folder(out)
    return targets


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = (
            f"expected to make the folder {str(folder)!r}, but the system answered {error}; "
            f"choose a folder you may write to"
        )
        raise StorageError(msg) from error


def _suffix(image: Path, card: ModelCard) -> str:
    from maskloop import formats

    found = None if image.is_dir() else formats.by_suffix(image)
    return ".png" if card.ndim == 2 and found is not None and found[0] == "picture" else ".nii.gz"


def _about(image: Path, card: ModelCard, choices: Choices | None) -> dict[str, Any]:
    """Return what must be the same for a result to count as finished."""
    return {
        "model": card.name,
        "weights": {w.file: w.sha256 for w in card.weights},
        "parameters": json.loads(json.dumps(dict(card.parameters))),
        # A folder is often called after a patient.
        "image": image.name if image.is_file() else "a folder",
        "choices": sorted(f"{n}={getattr(choices, n)}" for n in choices.made) if choices else [],
        "image_sha256": _hash_of(image),
    }


def _hash_of(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's files by name and content."""
    import hashlib

    try:
        if not path.is_dir():
            return sha256_of(path)
        total = hashlib.sha256()
        for part in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(f"{part.relative_to(path)}\0{sha256_of(part)}\n".encode())
        return total.hexdigest()
    except FileNotFoundError as error:
        from maskloop.formats.base import missing

        raise missing(path, "an image") from error
    except OSError as error:
        msg = (
            f"expected to read {str(path)!r}, but the system answered {error}; "
            f"check its permissions and the disk"
        )
        raise StorageError(msg) from error


def _finished(target: Path, about: Mapping[str, Any]) -> Receipt | None:
    """Return the receipt of a finished result of the same work, or None where nothing is there.

    Raises
    ------
    InputError
        If something else lies there: a person's correction is never replaced unasked.
    """
    if not target.exists():
        return None
    try:
        found = json.loads(receipt_of(target).read_text(encoding="utf-8"))
        same = all(found["prediction"].get(key) == value for key, value in about.items())
        as_written = all(
            _hash_of(target.with_name(name)) == digest for name, digest in found["sha256"].items()
        )
        if found.get("verdict") == "PASS" and same and as_written:
            return _receipt(found, target)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    msg = (
        f"expected {str(target)!r} to be free or this model's finished result, got another file "
        f"(corrected, or of other weights or another image); choose another place, or overwrite it"
    )
    raise InputError(msg)


def _receipt(found: Mapping[str, Any], path: Path) -> Receipt:
    from maskloop.formats.verify import LabelCount

    known = {part.name for part in dataclasses.fields(Receipt)}
    values = {key: value for key, value in found.items() if key in known}
    values["path"] = path
    values["labels"] = [LabelCount(**row) for row in values["labels"]]
    for key in ("losses", "shape", "warnings"):
        values[key] = tuple(values.get(key, ()))
    return Receipt(**values)


def _note_in_receipt(target: Path, about: Mapping[str, Any]) -> None:
    """Add to the receipt what made the mask, so that a rerun can tell it is finished."""
    place = receipt_of(target)
    found = json.loads(place.read_text(encoding="utf-8"))
    found["prediction"] = dict(about)
    try:
        mode = place.stat().st_mode & 0o777
        put(place, json.dumps(found, indent=2).encode(), mode=mode)
    except OSError as error:
        msg = (
            f"expected to write {str(place)!r}, but the system answered {error}; the mask itself "
            f"is written, free space and run again"
        )
        raise StorageError(msg) from error
