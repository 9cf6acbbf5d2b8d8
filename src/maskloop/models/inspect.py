"""Look inside a network without weights: its size, its work, what comes out of it."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from maskloop.core.errors import InputError, MaskloopError
from maskloop.core.labels import LabelTable
from maskloop.models import FAMILIES
from maskloop.models.base import Shows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.models.base import Family
    from maskloop.models.cards import ModelCard

_MOST_CLASSES_TRIED = 8
# What torch and torchvision raise where a size does not fit, or where an operation needs numbers
# and gets tensors that were only told their shapes.
_REFUSALS = (RuntimeError, ValueError, IndexError)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a network is, at one size of its input.

    Parameters
    ----------
    parameters : int
        All weights and biases, frozen ones and fixed kernels included; buffers not.
    gmac : float
        Multiply-adds of one pass, in thousands of millions: those of convolutions and products of
        matrices.
    output_shape : list of int
        ``[1, classes, *spatial]`` for class scores. Of a network that finds objects: of its masks
        of one picture.
    memory_mb : float
        Most bytes of tensors that one pass without gradients needs at a time, weights and input
        included, in millions. What torch and its libraries take beside them comes on top.
    layers : mapping of str to int
        Class of torch -> how many.
    """

    parameters: int
    gmac: float
    output_shape: list[int]
    memory_mb: float
    layers: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values."""
        return {**asdict(self), "layers": dict(self.layers)}


def inspect(
    family: str,
    *,
    variant: str = "",
    classes: int | None = None,
    channels: int | None = None,
    size: Sequence[int] = (),
) -> Inspection:
    """Build a network with random weights and say what it is.

    No number is computed where the network can do without: its layers are only told their shapes.

    Parameters
    ----------
    family : str
        A name in `maskloop.models.FAMILIES`.
    variant : str
        The first named where left out.
    classes : int, optional
        Outputs, the background included where it is one; the fewest that the family takes where
        left out.
    channels : int, optional
        Of the input; the family's own where left out.
    size : sequence of int
        Of the input, ``(y, x)`` or ``(z, y, x)``; the family's window where left out. One number
        is meant for all axes.

    Raises
    ------
    UnknownNameError
        If there is no such family or variant.
    InputError
        If the network takes no such classes, channels or size.
    """
    found: Family = FAMILIES.get(family)
    card = _card(found, variant or next(iter(found.variants), ""), classes, channels)
    return inspect_card(card, _size(found, card, size))


def inspect_card(card: ModelCard, size: Sequence[int]) -> Inspection:
    """Return the same of the network of a card; no weights are read.

    Raises
    ------
    InputError
        If the network takes no such size.
    """
    family: Family = FAMILIES.get(card.family)
    for device in ("meta", "cpu"):
        try:
            return _looked(family, card, tuple(size), device)
        except MaskloopError:
            raise
        except _REFUSALS as error:
            # Such as choosing boxes by their scores: that network must be run.
            if device == "meta":
                continue
            words = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            msg = (
                f"expected a size that {card.family} takes, got {tuple(size)} ({words}); choose a "
                "larger one, or leave it out"
            )
            raise InputError(msg) from error
    raise AssertionError  # the loop returned or raised


def _looked(family: Family, card: ModelCard, size: tuple[int, ...], device: str) -> Inspection:
    with torch.device(device), torch.random.fork_rng(devices=[]):
        # What a network finds that must be run is of its random weights: the same every time.
        torch.manual_seed(0)
        network = family.build(card).eval()
        images = torch.rand((1, card.channels, *size))
    parameters = sum(p.numel() for p in network.parameters())
    kinds = layers(network)
    with torch.no_grad(), _Alive() as alive, FlopCounterMode(display=False) as work:
        alive.take([*network.parameters(), *network.buffers(), images])
        if isinstance(family, Shows):
            shape = _shape_of(family.raw(network, images, card=card))
        else:
            shape = _shape_of(network(images))
    return Inspection(parameters, work.get_total_flops() / 2e9, shape, alive.most / 1e6, kinds)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's, not typed
    """Counts the bytes of tensors that are alive at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's, not typed
        self.now = self.most = 0
        self._held: dict[int, weakref.finalize] = {}  # type: ignore[type-arg]  # its call's types

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Count the memory of tensors, each piece once however many share it."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._held:
                continue
            size = storage.nbytes()
            self.now += size
            self._held[key] = weakref.finalize(storage, self._let_go, key, size)
        self.most = max(self.most, self.now)

    def _let_go(self, key: int, size: int) -> None:
        self.now -= size
        del self._held[key]

    def __torch_dispatch__(
        self,
        func: Any,  # Any: torch's own operator
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:  # Any: what the operator returns
        found = func(*args, **(kwargs or {}))
        self.take([part for part in tree_leaves(found) if isinstance(part, Tensor)])
        return found


def _shape_of(found: Any) -> list[int]:  # Any: what a network returns
    """Return the shape of scores, or of the masks of the first picture."""
    if isinstance(found, list | tuple):
        return _shape_of(found[0])
    if isinstance(found, Mapping):
        return _shape_of(found["masks"] if "masks" in found else next(iter(found.values())))
    return [int(n) for n in found.shape]


def _card(family: Family, variant: str, classes: int | None, channels: int | None) -> ModelCard:
    if (classes is not None and classes < 1) or (channels is not None and channels < 1):
        msg = (
            f"expected 1 or more classes and channels, got {classes!r} and {channels!r}; "
            "leave them out for the usual ones"
        )
        raise InputError(msg)
    card = _card_of(family, variant, classes)
    return card if channels is None else replace(card, channels=channels)


def _card_of(family: Family, variant: str, classes: int | None) -> ModelCard:
    """Return a card of so many outputs, or of the fewest (2 or more) that the family takes."""
    counts = [classes] if classes is not None else list(range(2, _MOST_CLASSES_TRIED + 1))
    spare = getattr(family, "spare_outputs", 1)
    for count in counts:
        told = getattr(family, "labels_for", None)  # of a family with two kinds of classes
        names = [f"class {i}" for i in range(1, count + 1 - spare)]
        labels = LabelTable.classes(names) if told is None else told(count)
        try:
            return family.card(variant, labels)
        except InputError:
            if count == counts[-1]:
                raise
    raise AssertionError  # the loop returned or raised


def _size(family: Family, card: ModelCard, size: Sequence[int]) -> tuple[int, ...]:
    if not size:
        told = card.parameters.get("tile", family.patch(card))
        return tuple(int(n) for n in told)
    wanted = tuple(size) * card.ndim if len(size) == 1 else tuple(size)
    if len(wanted) != card.ndim or any(n < 1 for n in wanted):
        axes = "H W" if card.ndim == 2 else "D H W"
        msg = (
            f"expected a size {axes} for {card.family}, got {' '.join(map(str, size))}; "
            f"give {card.ndim} numbers of 1 or more"
        )
        raise InputError(msg)
    return wanted


def layers(network: nn.Module) -> dict[str, int]:
    """Return how many layers of each of torch's classes a network has, the most first.

    A layer of a class derived from one of torch's counts as that.
    """
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    leaves = (
        part
        for part in network.modules()
        if next(part.children(), None) is None and not isinstance(part, containers)
    )
    return dict(Counter(_kind(part) for part in leaves).most_common())


def _kind(layer: nn.Module) -> str:
    for kind in type(layer).__mro__:
        if kind.__module__.startswith("torch.nn.modules") and kind is not nn.Module:
            return kind.__name__
    return type(layer).__name__
