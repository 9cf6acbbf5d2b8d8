"""A model's card: what it is, what it is good for, where its weights are. Data, never code."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.resources
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from maskloop.core.errors import InputError, MaskloopError, StorageError, UnknownNameError
from maskloop.core.files import sha256_of
from maskloop.core.labels import LabelTable

TASKS = ("semantic", "instance", "panoptic")
STATUSES = ("shipped", "fetched", "proved", "candidate", "untrained")
PROOFS = ("real data", "synthetic data only", "experimental")
SOURCES = ("package", "wheel", "torchvision", "url", "file", "folder")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA = re.compile(r"[0-9a-f]{8,64}")
# Families and variants that moved: cards saved before still open.
_MOVED = {
    ("unet3d", ""): ("unet", "residual3d"),
    ("maskrcnn", "v1"): ("maskrcnn", "resnet50"),
    ("maskrcnn", "v2"): ("maskrcnn", "resnet50-v2"),
}


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of weights.

    Parameters
    ----------
    file : str
        Its name in the store; no folders.
    sha256 : str
        Of the file as it lies in the store, lower-case hex. Where a publisher gives no more than
        the first digits, at least 8 of them.
    size : int
        Bytes; 0 where not known.
    source : mapping
        One of ``{"package": "nuclei.safetensors"}`` (in the package's ``models/weights``; others
        write ``"their_package:path"``), ``{"wheel": {"requirement", "python", "member",
        "sha256"}, "convert": "module:function"}`` (the hash is the member's; ``convert(source,
        target)`` writes safetensors), ``{"url": "https://..."}``, ``{"torchvision":
        "Enum.NAME", "url": "https://..."}``, ``{"file": "path"}`` (beside the card, or absolute),
        ``{"folder": {"name", "files": {name: sha256}, "origin"}, "convert": ...}`` (a local folder
        that the user points to; ``convert`` as above, of the folder).
        ``"about"`` tells a rounded size in bytes where `size` is not known.
    """

    file: str
    sha256: str
    size: int
    source: Mapping[str, Any]  # Any: JSON

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.file):
            msg = (
                f"expected a plain file name for weights, got {self.file!r}; use letters, digits, "
                "'.', '_' and '-'"
            )
            raise InputError(msg)
        if not _SHA.fullmatch(self.sha256):
            msg = (
                f"expected 8 to 64 lower-case hex digits as sha256 of {self.file}, got "
                f"{self.sha256!r}; pin the file's hash"
            )
            raise InputError(msg)
        if not isinstance(self.size, int) or self.size < 0:
            msg = (
                f"expected the size of {self.file} in bytes, got {self.size!r}; write a whole "
                "number"
            )
            raise InputError(msg)
        if not isinstance(self.source, Mapping) or self.kind not in SOURCES:
            msg = (
                f"expected a source of {self.file} of one kind out of {SOURCES}, got "
                f"{self.source!r}; name where it comes from"
            )
            raise InputError(msg)

    @property
    def kind(self) -> str:
        """Kind of source, one of `SOURCES`; empty where there is none."""
        return next((kind for kind in SOURCES if kind in self.source), "")


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How much memory one pass of a network takes, measured; see `maskloop.models.memory`.

    Parameters
    ----------
    fixed : float
        Bytes at any size, the weights included.
    per_voxel : float
        Bytes more for each pixel or voxel of its window.
    measured_to : int
        Voxels of the largest window it was measured at.
    device : str
        ``"cpu"`` or ``"cuda"``.
    """

    fixed: float
    per_voxel: float
    measured_to: int
    device: str

    def __post_init__(self) -> None:
        numbers = (self.fixed, self.per_voxel, self.measured_to)
        is_numbers = all(isinstance(n, int | float) and n >= 0 for n in numbers)
        if not is_numbers or not isinstance(self.device, str):
            msg = (
                f"expected memory as bytes of 0 or more and a device, got {self!r}; measure it "
                "again"
            )
            raise InputError(msg)

    def at(self, window: Iterable[int]) -> int:
        """Return the bytes of a pass over a window of such a shape."""
        return round(self.fixed + self.per_voxel * math.prod(window))


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Trained weights and the truth about them.

    Parameters
    ----------
    name : str
        Unique; also the folder's name.
    title : str
        One line for the menu.
    family, variant : str
        Which code builds the network, and which of its sizes.
    task : {"semantic", "instance", "panoptic"}
    ndim : {2, 3}
        Spatial axes of what the network takes.
    labels : LabelTable
        Its classes. An instance model's objects carry one of these names as their category.
    modality : str
        Such as ``"CT"`` or ``"RGB photograph"``.
    channels : int
        Channels the network takes: 1 grey, 3 RGB.
    spacing : tuple of float, optional
        Grid the network works on, along (z, y, x) after reorientation; None for the image's own.
    weights : tuple of WeightFile
    licence, licence_url : str
        SPDX name of the weights' licence where there is one.
    limits : tuple of str
        What it cannot do, in sentences.
    sources : tuple of str
        Papers, repositories.
    trained_on : str
    metrics : mapping
        What was measured, on what; JSON.
    parameters : mapping
        What the family needs to know; JSON.
    status : {"shipped", "fetched", "proved", "candidate", "untrained"}
    proof : {"real data", "synthetic data only", "experimental"}
        On what its result was measured.
    base : str
        Name of the card it was trained from; empty where from scratch.
    memory : MemoryUse, optional
        What one pass takes; None where nobody measured it.

    Raises
    ------
    InputError
        If a field cannot be what it should.
    """

    name: str
    title: str
    family: str
    variant: str = ""
    task: str = "semantic"
    ndim: int = 3
    labels: LabelTable = field(default_factory=LabelTable)
    modality: str = ""
    channels: int = 1
    spacing: tuple[float, ...] | None = None
    weights: tuple[WeightFile, ...] = ()
    licence: str = ""
    licence_url: str = ""
    limits: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    trained_on: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    parameters: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    status: str = "untrained"
    proof: str = "experimental"
    base: str = ""
    memory: MemoryUse | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            msg = (
                f"expected a model name of letters, digits, '.', '_' and '-', got {self.name!r}; "
                "rename the model"
            )
            raise InputError(msg)
        for what, value, known in (
            ("task", self.task, TASKS),
            ("ndim", self.ndim, (2, 3)),
            ("status", self.status, STATUSES),
            ("proof", self.proof, PROOFS),
        ):
            if value not in known:
                msg = (
                    f"expected the {what} of model {self.name!r} to be one of {known}, got "
                    f"{value!r}; correct its card"
                )
                raise InputError(msg)
        if not self.family or not isinstance(self.family, str):
            msg = (
                f"expected a family for model {self.name!r}, got {self.family!r}; name the code "
                "that builds it"
            )
            raise InputError(msg)
        if not isinstance(self.channels, int) or self.channels < 1:
            msg = (
                f"expected at least 1 channel for model {self.name!r}, got {self.channels!r}; "
                "correct its card"
            )
            raise InputError(msg)
        if self.spacing is not None:
            spacing = tuple(float(n) for n in self.spacing)
            if len(spacing) != self.ndim or any(not n > 0 for n in spacing):
                msg = (
                    f"expected {self.ndim} spacings above 0 for model {self.name!r}, got "
                    f"{self.spacing!r}; correct its card"
                )
                raise InputError(msg)
            object.__setattr__(self, "spacing", spacing)

    @property
    def size(self) -> int:
        """Bytes of all weights; a publisher's rounded figure where no exact one is known."""
        return sum(w.size or int(w.source.get("about", 0)) for w in self.weights)

    @property
    def window(self) -> tuple[int, ...]:
        """What the network sees at a time, where its card says so; empty where it does not."""
        told = self.parameters.get("tile", self.parameters.get("patch", ()))
        return tuple(int(n) for n in told)

    def why_not(self, *, ndim: int, channels: int = 1, frames: int = 0, name: str = "image") -> str:
        """Return in words why the network cannot be shown such an image; empty if it can.

        A volume may go slice by slice into a 2D network (unless its family refuses: parameter
        ``slices``); a picture may not go into a 3D one. RGB and grey are converted. `frames` is
        the length of the time axis, 0 where there is none.
        """
        msg = ""
        if frames:
            msg = (
                f"expected one point in time for model {self.name!r}, got {frames} frame(s) in "
                f"{name!r}; choose one frame"
            )
        elif ndim < self.ndim:
            msg = (
                f"expected a volume (z, y, x) for model {self.name!r}, got the picture {name!r}; "
                f"choose a 2D model"
            )
        elif ndim > self.ndim and not self.parameters.get("slices", True):
            msg = (
                f"expected a picture (y, x) for model {self.name!r}, got the volume {name!r}; "
                f"choose one slice"
            )
        elif channels not in (1, self.channels) and not (
            channels in (3, 4) and self.channels in (1, 3)
        ):
            msg = (
                f"expected {self.channels} channel(s) for model {self.name!r}, got {channels} in "
                f"{name!r}; choose one channel"
            )
        return msg

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return JSON-ready fields; those at their defaults are left out."""
        found: dict[str, Any] = {}
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            plain = (
                part.default_factory()
                if part.default_factory is not dataclasses.MISSING
                else part.default
            )
            if part.name == "labels":
                found["labels"] = value.to_rows()
            elif part.name == "weights":
                found["weights"] = [
                    {"file": w.file, "sha256": w.sha256, "size": w.size, "source": dict(w.source)}
                    for w in value
                ]
            elif part.name == "memory" and value is not None:
                found["memory"] = dataclasses.asdict(value)
            elif value != plain:
                found[part.name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_json(cls, found: object) -> ModelCard:
        """Rebuild a card; unknown fields are ignored, so that newer cards still open.

        Raises
        ------
        InputError
            If a field is missing or of the wrong kind.
        """
        if not isinstance(found, Mapping):
            msg = (
                f"expected a card as a JSON object, got {type(found).__name__}; write name, title, "
                "family, ..."
            )
            raise InputError(msg)
        missing = [key for key in ("name", "title", "family") if key not in found]
        if missing:
            msg = (
                "expected a card with name, title and family, got one without "
                f"{', '.join(missing)}; add them"
            )
            raise InputError(msg)
        known = {part.name for part in dataclasses.fields(cls)}
        values = {key: value for key, value in found.items() if key in known}
        told = (values["family"], values.get("variant", ""))
        moved = _MOVED.get(told) or _MOVED.get((told[0], ""))
        if moved:
            values["family"], values["variant"] = moved
        try:
            values["labels"] = LabelTable.from_rows(values.get("labels", ()))
            values["weights"] = tuple(WeightFile(**w) for w in values.get("weights", ()))
            if values.get("memory") is not None:
                values["memory"] = MemoryUse(**values["memory"])
            for key in ("limits", "sources", "spacing"):
                if values.get(key) is not None:
                    if isinstance(values[key], str):
                        msg = f"{key} is one string, not a list"
                        raise TypeError(msg)
                    values[key] = tuple(values[key])
            return cls(**values)
        except (TypeError, KeyError, AttributeError) as error:
            msg = (
                f"expected a card for model {found.get('name')!r} that can be read, got {error}; "
                "correct its card"
            )
            raise InputError(msg) from error


@dataclass(frozen=True, slots=True)
class BrokenCard:
    """A card that could not be read: shown in the menu with its reason, never a crash."""

    name: str
    path: str
    reason: str


def home() -> Path:
    """Return the user's folder: ``$MASKLOOP_HOME``, else the platform's place for user data."""
    given = os.environ.get("MASKLOOP_HOME")
    return Path(given) if given else platformdirs.user_data_path("maskloop", appauthor=False)


def models_folder() -> Path:
    """Return the folder that holds one folder a model trained or added by the user."""
    return home() / "models"


def all_cards() -> list[ModelCard]:
    """Return every readable card: shipped ones first, then other packages', then the user's."""
    return list(_read_all()[0].values())


def broken_cards() -> list[BrokenCard]:
    """Return the cards that could not be read."""
    return _read_all()[1]


def find_card(name: str) -> ModelCard:
    """Return the card called `name`.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists those there are.
    InputError
        If its card is broken; the message says why.
    """
    cards, broken = _read_all()
    if name in cards:
        return cards[name]
    for one in broken:
        if one.name == name:
            msg = (
                f"expected a readable card for model {name!r}, got {one.reason} (in {one.path}); "
                "repair or delete it"
            )
            raise InputError(msg)
    raise UnknownNameError.of("model", name, list(cards))


def _read_all() -> tuple[dict[str, ModelCard], list[BrokenCard]]:
    cards: dict[str, ModelCard] = {}
    broken: list[BrokenCard] = []

    def add(origin: str, name: str, found: object) -> None:
        try:
            card = ModelCard.from_json(found)
            if card.name in cards:
                msg = f"a second model called {card.name!r}; the first one is used, rename this one"
                raise InputError(msg)
            cards[card.name] = card
        except MaskloopError as error:
            broken.append(BrokenCard(name, origin, str(error)))

    for origin, blocks in _catalogues(broken):
        for number, block in enumerate(blocks, start=1):
            name = block.get("name") if isinstance(block, Mapping) else None
            add(origin, str(name or f"block {number}"), block)
    for path in sorted(models_folder().glob("*/card.json")):
        if path.parent.name.startswith("."):
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.get("name") != path.parent.name:
                msg = f"a card named {found.get('name')!r} in a folder named {path.parent.name!r}"
                raise ValueError(msg)
        except (OSError, ValueError) as error:
            broken.append(BrokenCard(path.parent.name, str(path), str(error)))
        else:
            add(str(path), path.parent.name, found)
    return cards, broken


def _catalogues(broken: list[BrokenCard]) -> Iterable[tuple[str, list[Any]]]:
    """Yield our catalogue, then that of every package with a ``maskloop.cards`` entry point."""
    own = Path(__file__).with_name("catalogue.json")
    yield str(own), json.loads(own.read_text(encoding="utf-8"))
    for point in importlib.metadata.entry_points(group="maskloop.cards"):
        package, _, path = point.value.partition(":")
        try:
            text = importlib.resources.files(package).joinpath(path or "catalogue.json")
            blocks = json.loads(text.read_text(encoding="utf-8"))
            if not isinstance(blocks, list):
                msg = f"a {type(blocks).__name__} where a list of cards was expected"
                raise ValueError(msg)
        except (ImportError, OSError, ValueError, TypeError) as error:
            broken.append(BrokenCard(point.name, point.value, str(error)))
        else:
            yield point.value, blocks


def save_card(card: ModelCard, files: Mapping[str, Path], *, overwrite: bool = False) -> ModelCard:
    """Put a model into the user's folder, whole or not at all.

    Parameters
    ----------
    card : ModelCard
        Its `weights` are replaced by what is found in `files`.
    files : mapping of str to Path
        File name in the model's folder -> file to copy.
    overwrite : bool
        Whether a model of the same name in the user's folder may be replaced.

    Returns
    -------
    ModelCard
        The card as saved, with hashes and sizes of its weights.

    Raises
    ------
    InputError
        If the name is taken.
    StorageError
        If the disk refuses; nothing is left behind.
    """
    folder = models_folder() / card.name
    builtin = next((c for c in all_cards() if c.name == card.name), None)
    if folder.exists() and not overwrite:
        msg = (
            f"expected a new model name, got {card.name!r} which exists at {folder}; choose another"
        )
        raise InputError(msg)
    if builtin is not None and not folder.exists():
        msg = (
            f"expected a new model name, got {card.name!r} which is a built-in model; choose "
            "another"
        )
        raise InputError(msg)
    saved = dataclasses.replace(
        card,
        weights=tuple(
            WeightFile(file, sha256_of(path), path.stat().st_size, {"file": file})
            for file, path in files.items()
        ),
    )
    staging: Path | None = None
    try:
        models_folder().mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{card.name}-", dir=models_folder()))
        for file, path in files.items():
            shutil.copyfile(path, staging / file)
        text = json.dumps(saved.to_json(), indent=2, ensure_ascii=False) + "\n"
        (staging / "card.json").write_text(text, encoding="utf-8")
        _check_saved(saved, staging)
        _swap(staging, folder)
    except OSError as error:
        msg = (
            f"expected to save model {card.name!r} in {folder}, but the disk refused: {error}; "
            "free space or set MASKLOOP_HOME"
        )
        raise StorageError(msg) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return saved


def _check_saved(card: ModelCard, folder: Path) -> None:
    read = ModelCard.from_json(json.loads((folder / "card.json").read_text(encoding="utf-8")))
    if read.to_json() != card.to_json() or any(
        sha256_of(folder / w.file) != w.sha256 for w in card.weights
    ):
        msg = "what was written does not read back the same"
        raise OSError(msg)


def _swap(staging: Path, folder: Path) -> None:
    staging.chmod(0o755)
    if not folder.exists():
        staging.replace(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    try:
        folder.replace(old / folder.name)
        staging.replace(folder)
    except OSError:
        if not folder.exists():
            (old / folder.name).replace(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
