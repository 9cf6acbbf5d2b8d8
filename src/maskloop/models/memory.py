"""How much memory a network takes: measured at two sizes of its window, fitted by a line."""

from __future__ import annotations

import gc
import math
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from maskloop.core.errors import InputError
from maskloop.models.base import Shows
from maskloop.models.cards import MemoryUse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from maskloop.models.base import Family
    from maskloop.models.cards import ModelCard
    from maskloop.ops.device import Device

_ROUNDS = 3
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def measure(
    family: Family,
    network: nn.Module,
    card: ModelCard,
    device: Device,
    *,
    sizes: Sequence[Sequence[int]] = (),
) -> MemoryUse:
    """Return how much memory one pass takes, as a line through two sizes of the window.

    Both sizes are run in turn, three times; the medians count. On CUDA it is what torch allocates,
    the weights included; on the processor, what the process grows by (its weights are added), so
    that nothing else may run in it meanwhile.

    Parameters
    ----------
    family : Family
        Of the card.
    network : Module
        Of the card, in eval mode; moved to `device`.
    card : ModelCard
    device : Device
    sizes : sequence of two sizes
        The card's window and one of about a quarter of its voxels where left out.

    Raises
    ------
    InputError
        If two sizes are not told and the card has no window, or peaks cannot be read here.
    """
    network.to(device.torch).eval()
    weights = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    chosen = sorted(sizes or _two_sizes(family, card), key=math.prod)
    small, large = math.prod(chosen[0]), math.prod(chosen[-1])
    if small == large:
        msg = f"expected two sizes of other volume, got {sizes!r}; choose one larger"
        raise InputError(msg)

    def once(size: Sequence[int]) -> None:
        with torch.inference_mode():
            images = torch.rand((1, card.channels, *size), device=device.torch)
            if isinstance(family, Shows):
                family.raw(network, images, card=card)
            else:
                network(images)

    for size in chosen:
        once(size)  # kernels are chosen and buffers made on the first pass
    found = [[peak_of(partial(once, size), device) for size in chosen] for _ in range(_ROUNDS)]
    least, most = (statistics.median(peaks) for peaks in zip(*found, strict=True))
    slope = max(0.0, (most - least) / (large - small))
    fixed = max(0.0, least - slope * small) + (0 if device.kind == "cuda" else weights)
    return MemoryUse(round(fixed), round(slope, 1), large, device.kind)


def _two_sizes(family: Family, card: ModelCard) -> list[tuple[int, ...]]:
    """Return one size of about a quarter of the window's voxels that the network takes, and it."""
    from maskloop.models.inspect import inspect_card

    told = tuple(int(n) for n in card.parameters.get("tile", family.patch(card)))
    multiple = int(card.parameters.get("multiple", 1))
    least = [max(1, round(n * 0.25 ** (1 / card.ndim) / multiple)) * multiple for n in told]
    for more in range(0, 64 * multiple, multiple):
        near = tuple(min(n + more, t) for n, t in zip(least, told, strict=True))
        if near == told:
            break
        try:
            inspect_card(card, near)
        except InputError:
            continue
        return [near, told]
    msg = (
        f"expected a smaller window that {card.name} takes beside {told}, got none; name two sizes"
    )
    raise InputError(msg)


def peak_of(work: Callable[[], object], device: Device) -> int:
    """Return the most bytes in use while `work` runs.

    On CUDA what torch has allocated, on the processor what this process grew by.

    Raises
    ------
    InputError
        If the system does not tell.
    """
    if device.kind == "cuda":
        torch.cuda.synchronize(device.torch)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device.torch)
        work()
        torch.cuda.synchronize(device.torch)
        return torch.cuda.max_memory_allocated(device.torch)
    if device.kind != "cpu" or not _RESET.exists():
        msg = (
            f"expected CUDA, or a processor under Linux, to measure memory on, got "
            f"{device.name!r} on {sys.platform}; measure on another machine"
        )
        raise InputError(msg)
    gc.collect()
    _trim()
    _RESET.write_text("5")
    before = _kibibytes("VmRSS")
    work()
    return 1024 * max(0, _kibibytes("VmHWM") - before)


def _kibibytes(key: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _trim() -> None:
    """Give freed memory back: what is taken again from the C library's store would not be seen."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
