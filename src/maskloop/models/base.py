"""What every family of networks answers, and the strict, safe reading of weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from maskloop.core.errors import InputError, WeightsError
from maskloop.core.image import smallest_unsigned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.geometry import Box
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.models.cards import ModelCard
    from maskloop.models.objects import Found
    from maskloop.ops.candidates import Chances
    from maskloop.ops.device import Device

IGNORE = -1
"""Id in a training batch for voxels that nobody reviewed: never background, never in a loss."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What a network found, on the grid of the image it was given.

    Parameters
    ----------
    ids : array of unsigned int
        Shape of the image's geometry; 0 is background.
    labels : LabelTable
        A row for every id that may occur: classes, or one row an object with score and category.
    notes : tuple of str
        What a person should know: channels converted, slices taken one by one.
    lost : int
        Voxels that a second object also claimed and did not get.
    chances : Chances, optional
        How likely things are where they were not drawn; only from `GivesChances`.
    probabilities : float32 array, optional
        As from `GivesProbabilities`; only where they were asked for.
    objects : tuple of Found, optional
        Everything that was found one by one, whole, also where a better one has its voxels in
        `ids`; None from a family that never draws two objects over each other.
    """

    ids: npt.NDArray[Any]  # Any: the narrowest unsigned type that fits
    labels: LabelTable
    notes: tuple[str, ...] = ()
    lost: int = 0
    chances: Chances | None = None
    probabilities: npt.NDArray[np.float32] | None = None
    objects: tuple[Found, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One training case on the network's grid, already normalised.

    Parameters
    ----------
    data : float32 array ``(c, *spatial)``
        What the network sees.
    ids : array of unsigned int ``(*spatial)``
        Class index per voxel (0 background, then the card's labels in order of id), or object ids.
    reviewed : bool array ``(*spatial)``, optional
        Voxels somebody looked at; None where all were.
    categories : mapping of int to int
        Object id -> class index (from 1); empty for class maps.
    """

    data: npt.NDArray[np.float32]
    ids: npt.NDArray[Any]  # Any: the narrowest unsigned type that fits
    reviewed: npt.NDArray[np.bool_] | None = None
    categories: Mapping[int, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Batch:
    """Patches of several volumes, on the training device.

    Parameters
    ----------
    images : float tensor ``(n, c, *spatial)``
    ids : int64 tensor ``(n, *spatial)``
        As `Volume.ids`, with `IGNORE` where nobody reviewed.
    categories : list of mapping
        One a patch, as `Volume.categories`.
    """

    images: Tensor
    ids: Tensor
    categories: list[Mapping[int, int]] = field(default_factory=list)


@runtime_checkable
class Family(Protocol):
    """Code for one kind of network; stateless, so one instance serves every card.

    A family module holds one instance called ``FAMILY``. Families never import each other.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    ndims: tuple[int, ...]
    variants: tuple[str, ...]
    is_trainable: bool

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`."""
        ...

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights, on the CPU; never downloads."""
        ...

    def load(self, card: ModelCard, files: Mapping[str, Path]) -> nn.Module:
        """Return the network with the weights in `files` (name on the card -> path), to predict."""
        ...

    def segment(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return what the network finds in `image`, on the image's own grid.

        The image has no time axis. Running out of memory steps down a ladder in here.
        """
        ...

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: npt.NDArray[np.bool_] | None,
        job: Job,
    ) -> list[Volume]:
        """Return training volumes at the network's grid and normalisation."""
        ...

    def patch(self, card: ModelCard) -> tuple[int, ...]:
        """Return the training patch in voxels of the network's grid."""
        ...

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return the scalar loss of one batch, with gradients."""
        ...

    def augmentation(self, card: ModelCard) -> frozenset[str]:
        """Return which augmentations keep the labels true.

        Of ``mirror_x mirror_y mirror_z rotate scale elastic elastic_grid gamma noise blur``.
        """
        ...


@runtime_checkable
class GivesChances(Protocol):
    """A family whose networks say how likely each class is, voxel by voxel; beside `Family`."""

    def segment_with_chances(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return what `Family.segment` returns, with `Segmentation.chances` filled.

        The chances come back to the image's grid as the labels do.
        """
        ...


@runtime_checkable
class GivesProbabilities(Protocol):
    """A family that tells the probability of every class at every voxel; beside `Family`."""

    def probabilities(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> npt.NDArray[np.float32]:
        """Return ``(1 + number of labels, *shape of the image)``: background, then the labels.

        They sum to 1, and the largest is what `Family.segment` draws; where the network works on
        another grid, but for voxels on a border, which labels decide by a vote of their own.
        """
        ...


@runtime_checkable
class Settles(Protocol):
    """A family that refines its probabilities by itself, as a card's ``refine`` says."""

    def settles(self, card: ModelCard) -> bool:
        """Whether the highest score is not yet the answer: `settle` is to be asked."""
        ...

    def settle(
        self,
        chances: npt.NDArray[np.float32],
        data: npt.NDArray[np.float32],
        *,
        card: ModelCard,
    ) -> npt.NDArray[np.float32]:
        """Return probabilities ``(k, *spatial)`` that also heed what is around a voxel."""
        ...


@runtime_checkable
class Shows(Protocol):
    """A family whose network is more than one, or answers more than scores; beside `Family`."""

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return what the network makes of ``(n, c, *spatial)``, before anything done to it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What a network made of a picture before anybody clicked.

    Parameters
    ----------
    box : tuple of slice
        The part of the image that it is of.
    kept : object
        For the family alone.
    """

    box: Box
    kept: Any  # Any: whatever a family computes once


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The object that a network sees at a point, before anything is decided.

    Parameters
    ----------
    box : tuple of slice
        Where `chances` lie in the image.
    chances : float32 array
        Probability of each pixel in the box to be of the object.
    threshold : float
        Pixels above it are.
    category : str
        Name of its class.
    """

    box: Box
    chances: npt.NDArray[np.float32]
    threshold: float
    category: str


@runtime_checkable
class Clicks(Protocol):
    """A family whose networks draw the object at a point; beside `Family`."""

    def look(
        self,
        network: nn.Module,
        image: Image,
        *,
        card: ModelCard,
        device: Device,
        job: Job,
        near: tuple[int, int] | None = None,
    ) -> Sight:
        """Return what does not depend on a point: computed once a picture, however many clicks.

        Parameters
        ----------
        network : Module
        image : Image
            A picture, or a slice.
        card : ModelCard
        device : Device
        job : Job
        near : tuple of int, optional
            y, x round which to look where the picture is too large to be seen at once; its middle
            where left out.
        """
        ...

    def answer(
        self, network: nn.Module, sight: Sight, point: tuple[int, int], *, card: ModelCard
    ) -> Answer | None:
        """Return the object at a point (y, x, of the image) inside ``sight.box``; None for none."""
        ...


@runtime_checkable
class Surveys(Protocol):
    """A family that looks over all training volumes before the first step; beside `Family`."""

    def survey(self, card: ModelCard, volumes: Iterable[Volume]) -> ModelCard:
        """Return the card with what training needs to know of its cases, such as class weights."""
        ...


@runtime_checkable
class Begins(Protocol):
    """A family whose training can begin with another network's tensors; beside `Family`."""

    def begin(self, card: ModelCard, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the network of `card` with what fits of `state`, the rest as `Family.build` does.

        Raises
        ------
        WeightsError
            If `state` is of no network that the family knows, or of other widths.
        """
        ...


@runtime_checkable
class Imports(Protocol):
    """A family that reads the weights its authors published; beside `Family`."""

    def published(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of the authors' network: its sizes, its pixels; see `Family.card`."""
        ...

    def converted(self, card: ModelCard, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the authors' tensors under the names, and in the order, of our network.

        A name that is not known is kept, so that the difference shows it to the person.
        """
        ...


@runtime_checkable
class Calibrates(Protocol):
    """A family whose scores are set right after training; beside `Family`."""

    def calibrate(
        self,
        network: nn.Module,
        volumes: Iterable[Volume],
        *,
        card: ModelCard,
        device: Device,
        job: Job,
    ) -> ModelCard:
        """Return the card with what brings the trained network's scores to probabilities."""
        ...


def things_of(card: ModelCard) -> tuple[int, ...]:
    """Return the label ids whose pieces can be missed: countable ones, or all if none is marked."""
    marked = tuple(i for i, row in card.labels.items() if row.is_thing)
    return marked or tuple(card.labels)


def class_indices(mask: Mask, card: ModelCard) -> tuple[npt.NDArray[Any], list[int]]:
    """Return how a mask's ids become the class indices of a card.

    A row is matched by name (an object by its category), else by id where it has no name of its
    own; every object goes to the one class of a single-class instance model. Class index 0 is
    background; the card's labels follow in order of id.

    Returns
    -------
    lookup : array
        ``lookup[mask.data]`` are class indices.
    ignored : list of int
        Ids whose voxels are to be left out of the loss.

    Raises
    ------
    InputError
        If the mask holds a label that the card does not know.
    """
    rows = mask.checked().labels
    index_of = {card.labels[i].name: k for k, i in enumerate(card.labels, start=1)}
    by_id = {i: k for k, i in enumerate(card.labels, start=1)}
    ids = mask.ids()
    lookup = np.zeros(max(ids, default=0) + 1, dtype=smallest_unsigned(len(by_id)))
    ignored = []
    takes_any = card.task == "instance" and len(by_id) == 1
    for i in ids:
        row = rows[i]
        name = row.category or row.name
        if row.ignore:
            ignored.append(i)
        elif name in index_of:
            lookup[i] = index_of[name]
        elif name == f"label {i}" and i in by_id:
            lookup[i] = by_id[i]
        elif takes_any:
            lookup[i] = 1
        else:
            known = ", ".join(index_of)
            msg = (
                f"expected labels of model {card.name!r} ({known}), got {name!r} (id {i}) in "
                f"{mask.name!r}; rename the label or train a model that has it"
            )
            raise InputError(msg)
    return lookup, ignored


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a weights file without running anything in it.

    Safetensors, or a PyTorch checkpoint under ``weights_only=True``. A checkpoint that needs
    anything but tensors is refused; there is no second, trusting attempt.

    Raises
    ------
    WeightsError
        If the file is damaged, or asks to run code.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found: dict[str, Tensor] = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            msg = (
                f"expected weights as safetensors in {path}, got a damaged file ({error}); "
                "fetch it again"
            )
            raise WeightsError(msg) from error
        return found
    return _read_checkpoint(path)


# What a reader of pickles raises half-way through bytes that are none.
_MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    import pickle
    import warnings

    try:
        with warnings.catch_warnings():
            # Of the pickle's protocol; what cannot be read safely is refused anyway.
            warnings.simplefilter("ignore", UserWarning)
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, *_MALFORMED) as error:
        wanted = _unsafe_names(path)
        words = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if words.startswith("Weights only load failed"):
            words = "it is no checkpoint of PyTorch"  # whose own words advise to run what is in it
        why = f"it asks to run {', '.join(wanted)}" if wanted else words
        msg = (
            f"expected plain tensors in {path}, but it was refused: {why}; nothing in it was run, "
            f"use weights saved as safetensors"
        )
        raise WeightsError(msg) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        msg = (
            f"expected a table of tensors in {path}, got {type(found).__name__}; use weights saved "
            "as a state dict"
        )
        raise WeightsError(msg)
    return found


def _unsafe_names(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (RuntimeError, OSError, EOFError, *_MALFORMED):
        return []


def write_state(network: nn.Module, path: Path) -> None:
    """Write a network's tensors as safetensors; equal weights give equal files."""
    from safetensors.torch import save_file

    state = network.state_dict()
    save_file({k: state[k].detach().cpu().contiguous().clone() for k in sorted(state)}, path)


def load_strict(
    network: nn.Module,
    files: Mapping[str, Path],
    *,
    name: str = "",
    renamed: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None,
) -> nn.Module:
    """Put the tensors of `files` into `network` and return it in eval mode.

    Parameters
    ----------
    network : Module
        Changed in place.
    files : mapping of str to Path
        Their tensors together must be exactly the network's.
    name : str
        Of the model, for messages.
    renamed : callable, optional
        Gives the tensors of a file under the network's names.

    Raises
    ------
    WeightsError
        If a tensor is missing, left over, or of another shape; the message shows the difference.
    """
    state: dict[str, Tensor] = {}
    for path in files.values():
        found = read_state(path)
        state.update(found if renamed is None else renamed(found))
    words = key_difference(network.state_dict(), state)
    if words:
        listed = ", ".join(str(path) for path in files.values())
        msg = (
            f"expected the tensors of model {name!r} in {listed}, but they differ:\n{words}\n"
            f"fetch the weights that belong to this card"
        )
        raise WeightsError(msg)
    network.load_state_dict(state, strict=True)
    return network.eval()


def load_for_labels(
    family: Family, card: ModelCard, files: Mapping[str, Path], labels: LabelTable
) -> tuple[ModelCard, nn.Module]:
    """Return a card and a network for other classes, with all but the heads as in `files`.

    The heads are the tensors under the names in ``card.parameters["heads"]``. Their rows for the
    background and for classes of the same name are kept; those of new classes stay random.

    Parameters
    ----------
    family : Family
        Of the card.
    card : ModelCard
        Of the trained network.
    files : mapping of str to Path
        Its weights.
    labels : LabelTable
        The classes wanted.

    Raises
    ------
    InputError
        If the card names no heads.
    WeightsError
        If anything but a head differs.
    """
    heads = tuple(str(head) for head in card.parameters.get("heads", ()))
    if not heads:
        msg = (
            f"expected a model whose heads can be replaced, got {card.name!r}; train it with its "
            f"own labels ({', '.join(card.labels.names.values())})"
        )
        raise InputError(msg)
    old = family.load(card, files).state_dict()
    parameters = {key: value for key, value in card.parameters.items() if key != "outputs"}
    fresh = replace(
        card, labels=labels, parameters=parameters, weights=(), status="untrained", base=card.name
    )
    network = family.build(fresh)
    state = network.state_dict()
    spare = int(getattr(family, "spare_outputs", 1))
    pairs = _same_outputs(card, labels, spare)
    outputs = int(card.parameters.get("outputs", len(card.labels) + spare)), len(labels) + spare
    for key, value in state.items():
        if not key.startswith(heads):
            continue
        if key in old and old[key].shape[:1] + value.shape[1:] == old[key].shape:
            old[key] = _rows_kept(value, old[key], outputs, pairs, spare)
    words = key_difference(state, old)
    if words:
        msg = (
            f"expected model {card.name!r} to differ in its heads only, but:\n{words}\n"
            f"correct the heads on its card"
        )
        raise WeightsError(msg)
    network.load_state_dict(old, strict=True)
    return fresh, network


def _same_outputs(card: ModelCard, labels: LabelTable, spare: int) -> list[tuple[int, int]]:
    """Return (old, new) outputs of the background, if it is one, and of classes of one name."""
    is_direct = "outputs" in card.parameters
    old = {row.name: i if is_direct else k for k, (i, row) in enumerate(card.labels.items(), spare)}
    new = {row.name: k for k, row in enumerate(labels.values(), spare)}
    background = [(i, i) for i in range(spare)]
    return [*background, *((old[name], new[name]) for name in new if name in old)]


def _rows_kept(
    fresh: Tensor,
    trained: Tensor,
    outputs: tuple[int, int],
    pairs: list[tuple[int, int]],
    backgrounds: int,
) -> Tensor:
    # Scores of all outputs, or of the classes alone: a head may have no row for the background.
    for spare in range(backgrounds + 1):
        before, after = (n - spare for n in outputs)
        group, odd = divmod(len(trained), before) if before else (0, 1)
        if not odd and len(fresh) == group * after:
            break
    else:
        # Not one row (or group of rows) a class: a hidden layer of the head, kept as it is.
        return trained
    kept = fresh.clone()
    for old, new in pairs:
        if old >= spare and new >= spare:
            rows = slice((new - spare) * group, (new - spare + 1) * group)
            kept[rows] = trained[(old - spare) * group : (old - spare + 1) * group]
    return kept


def key_difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return in words how two tables of tensors differ by name and shape; empty if they do not."""
    lines = [f"  missing     {key}" for key in wanted if key not in found]
    lines += [f"  unexpected  {key}" for key in found if key not in wanted]
    lines += [
        f"  shape       {key}: expected {tuple(wanted[key].shape)}, got {tuple(found[key].shape)}"
        for key in wanted
        if key in found and wanted[key].shape != found[key].shape
    ]
    if len(lines) > 12:
        lines = [*lines[:12], f"  and {len(lines) - 12} more"]
    return "\n".join(lines)
