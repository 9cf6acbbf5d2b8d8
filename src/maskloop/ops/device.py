"""Which device computes, what to do when it is missing, and what to do when it is full."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import platform
import re
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from maskloop.core.errors import Cancelled, DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from maskloop.core.job import Job

T = TypeVar("T")
Kind = Literal["cpu", "cuda", "mps"]

# torch's own package index has one folder a CUDA version; a driver runs every one that is not of
# a newer major version than its own (CUDA minor-version compatibility).
_WHEELS = {13: "cu130", 12: "cu126"}
_TORCH_INDEX = "https://download.pytorch.org/whl/"
_MEMORY_WORDS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|"
    r"failed to allocate|invalid buffer size|CUDA error|CUDA driver error|cuDNN error|"
    r"CUDNN_STATUS|CUBLAS_STATUS|CUFFT_|unable to find an engine to execute",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Device:
    """Where tensors live: torch's `name` for it, its `kind`, and what a person should know."""

    name: str
    kind: Kind
    note: str = ""

    @property
    def torch(self) -> torch.device:
        """The same as torch's own object."""
        return torch.device(self.name)


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to run: a device, windows per batch, and a tile (None: the model's own)."""

    device: Device
    batch: int = 1
    tile: tuple[int, ...] | None = None

    def __str__(self) -> str:
        tile = f", tile {'x'.join(map(str, self.tile))}" if self.tile else ""
        return f"{self.device.name}, {self.batch} at a time{tile}"


CPU = Device("cpu", "cpu")


def choose(device: str = "auto") -> Device:
    """Return the device for a name, or the best there is for ``"auto"``.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns
    -------
    Device
        `note` says so where a graphics card is present but cannot be used.

    Raises
    ------
    DeviceError
        If the device is unknown, or torch cannot use it; the message says how to cure that.
    """
    found = re.fullmatch(r"(auto|cpu|mps|cuda(?::(\d+))?)", device.strip().lower())
    if found is None:
        msg = (
            f"expected a device 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got {device!r}; "
            f"choose one of them"
        )
        raise DeviceError(msg)
    wanted = found.group(1)
    if wanted == "cpu":
        return CPU
    if wanted == "mps" or (wanted == "auto" and _has_mps() and not torch.cuda.is_available()):
        return _require_mps()
    if wanted == "auto" and not torch.cuda.is_available():
        return Device("cpu", "cpu", describe()["problem"] or "")
    return _require_cuda(int(found.group(2) or 0))


def _require_cuda(number: int) -> Device:
    if not torch.cuda.is_available():
        about = describe()
        cure = f"run: {about['fix']}" if about["fix"] else "choose device 'cpu'"
        why = about["problem"] or "no graphics card of that kind was found"
        msg = f"expected a CUDA device that torch can use, but {why}; {cure}"
        raise DeviceError(msg)
    count = torch.cuda.device_count()
    if number >= count:
        listed = ", ".join(f"cuda:{i}" for i in range(count))
        msg = f"expected one of {listed}, got 'cuda:{number}'; choose one that exists"
        raise DeviceError(msg)
    return Device(f"cuda:{number}", "cuda")


def _has_mps() -> bool:
    return bool(torch.backends.mps.is_available())


def _require_mps() -> Device:
    if not _has_mps():
        msg = (
            "expected Apple's 'mps' device, but torch cannot use it here; choose 'cpu' "
            "(it needs an Apple silicon Mac, macOS 14 or newer, and torch from PyPI)"
        )
        raise DeviceError(msg)
    return Device("mps", "mps")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the machine shows of its graphics cards, whether or not torch can use them."""

    cards: tuple[str, ...] = ()
    driver: str = ""
    cuda: tuple[int, int] | None = None  # newest CUDA that the driver runs

    @property
    def is_nvidia(self) -> bool:
        """Whether an NVIDIA card or its driver is there."""
        return bool(self.cards or self.driver)


def look_for_cards() -> Seen:
    """Ask the NVIDIA driver, then the system, which cards there are; never raises."""
    try:
        answer = subprocess.run(
            ["nvidia-smi"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return _look_in_system()
    driver = re.search(r"Driver Version:\s*([\d.]+)", answer)
    cuda = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", answer)
    return Seen(
        tuple(line.strip() for line in listed.splitlines() if line.strip()),
        driver.group(1) if driver else "",
        (int(cuda.group(1)), int(cuda.group(2))) if cuda else None,
    )


def _look_in_system(root: Path = Path("/")) -> Seen:
    """Return what the kernel shows where the driver's own program is missing."""
    version = root / "proc/driver/nvidia/version"
    driver = ""
    if version.is_file():
        found = re.search(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)", version.read_text())
        driver = found.group(1) if found else "unknown"
    cards = [
        f"NVIDIA card {node.name.removeprefix('nvidia')}"
        for node in sorted((root / "dev").glob("nvidia[0-9]*"))
    ]
    for vendor in sorted((root / "sys/bus/pci/devices").glob("*/vendor")):
        with contextlib.suppress(OSError):
            is_display = (vendor.parent / "class").read_text().startswith("0x03")
            if is_display and vendor.read_text().strip() == "0x10de" and not cards:
                cards.append(f"NVIDIA card at {vendor.parent.name}")
    return Seen(tuple(cards), driver, None)


def describe(seen: Seen | None = None) -> dict[str, Any]:  # Any: JSON values for `doctor`
    """Return what torch can compute on, and the cure where a card is there but unused.

    Parameters
    ----------
    seen : Seen, optional
        What the machine shows; looked up where not given.

    Returns
    -------
    dict
        ``torch`` (version), ``cuda_built`` (CUDA version torch was built for, or None),
        ``devices`` (names usable now, best first), ``cards`` (cards the system shows), ``driver``,
        ``driver_cuda``, ``best``, ``problem`` and ``fix`` (a sentence and a command, or None).
    """
    seen = look_for_cards() if seen is None else seen
    usable = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    usable = usable if torch.cuda.is_available() else []
    devices = [*usable, *(["mps"] if _has_mps() else []), "cpu"]
    problem, fix = (None, None) if devices[0] != "cpu" else _diagnose(seen)
    return {
        "torch": torch.__version__,
        "cuda_built": torch.version.cuda,
        "devices": devices,
        "best": devices[0],
        "cards": list(seen.cards),
        "driver": seen.driver or None,
        "driver_cuda": ".".join(map(str, seen.cuda)) if seen.cuda else None,
        "problem": problem,
        "fix": fix,
    }


def _diagnose(seen: Seen) -> tuple[str | None, str | None]:
    """Return why no card is used and the command that cures it; (None, None) without a card."""
    if not seen.is_nvidia:
        if platform.system() == "Darwin" and platform.machine() == "arm64":
            why = "this Mac has a graphics processor but this torch was built without it"
            return why, _install("")
        return None, None
    card = seen.cards[0] if seen.cards else "an NVIDIA card"
    if not seen.driver:
        return (
            f"{card} is present but its NVIDIA driver is not running",
            "sudo ubuntu-drivers install"
            if platform.system() == "Linux"
            else "winget install Nvidia.GeForceExperience",
        )
    wheel = _wheel_for(seen.cuda)
    built = torch.version.cuda
    if built is None:
        why = f"{card} is present but torch {torch.__version__} was built for the processor only"
        return why, _install(wheel)
    if seen.cuda is not None and int(built.split(".")[0]) > seen.cuda[0]:
        why = (
            f"{card} is present but its driver {seen.driver} runs CUDA "
            f"{seen.cuda[0]}.{seen.cuda[1]} at most and torch was built for CUDA {built}"
        )
        return why, _install(wheel)
    why = (
        f"{card} is present and torch was built for CUDA {built}, but torch cannot open it "
        f"(driver {seen.driver}); is the card passed into this container or session?"
    )
    return why, "nvidia-smi && python -c 'import torch; torch.zeros(1).cuda()'"


def _wheel_for(cuda: tuple[int, int] | None) -> str:
    major = cuda[0] if cuda else 12
    return _WHEELS.get(min(max(major, 12), max(_WHEELS)), "cu126")


def _install(wheel: str) -> str:
    index = f" --index-url {_TORCH_INDEX}{wheel}" if wheel else ""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return f"{python} -m pip install --upgrade --force-reinstall torch torchvision{index}"


def autocast(device: Device) -> contextlib.AbstractContextManager[Any]:  # Any: torch's own manager
    """Return a context of mixed precision where it helps: CUDA; elsewhere one that does nothing.

    bfloat16 where the card has it (no overflow), else float16.
    """
    if device.kind != "cuda":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", dtype=dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, in any of the ways torch and numpy say it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _MEMORY_WORDS.search(str(error)) is not None


def ladder(
    device: Device,
    batch: int,
    tile: tuple[int, ...] | None = None,
    *,
    smallest_tile: tuple[int, ...] | None = None,
    multiple: int = 1,
) -> list[Rung]:
    """Return the rungs from the wish down to the processor: smaller batch, smaller tile, CPU.

    Parameters
    ----------
    device, batch, tile
        What would run if memory were no matter.
    smallest_tile : tuple of int, optional
        How far the tile may shrink; None where the model's result depends on its tile.
    multiple : int
        Tiles stay multiples of this along each axis that shrinks.
    """
    rungs = [Rung(device, batch, tile)]
    while batch > 1:
        batch //= 2
        rungs.append(Rung(device, batch, tile))
    while tile is not None and smallest_tile is not None:
        halves = (
            max(low, n // 2 // multiple * multiple)
            for n, low in zip(tile, smallest_tile, strict=True)
        )
        shrunk = tuple(min(n, h) for n, h in zip(tile, halves, strict=True))
        if shrunk == tile:
            break
        tile = shrunk
        rungs.append(Rung(device, 1, tile))
    if device.kind != "cpu":
        rungs.extend(Rung(CPU, rung.batch, rung.tile) for rung in (rungs[0], rungs[-1]))
    return list(dict.fromkeys(rungs))


def spare_a_core() -> None:
    """Leave one core to the program that draws the window; without it, it stutters."""
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))


def load_dynamo() -> None:
    """Load what an optimiser and timm load of torch, without triton where that would crash.

    On Linux, triton and Mesa's software or AMD drawing each bring an LLVM; importing triton into a
    process that draws through Mesa is a segmentation fault. `torch._dynamo` does so, and every
    optimiser and timm import that. Nothing here compiles networks, so nothing is lost.
    """
    maps = Path("/proc/self/maps")
    draws_by_mesa = maps.exists() and "libLLVM" in maps.read_text(encoding="utf-8")
    if not draws_by_mesa or "triton" in sys.modules or "torch._dynamo" in sys.modules:
        return
    # None in sys.modules makes the import raise ImportError; torch then remembers "no triton".
    sys.modules["triton"] = None  # type: ignore[assignment]  # documented by Python, not typed
    try:
        importlib.import_module("torch._dynamo")
    finally:
        del sys.modules["triton"]


def run_ladder(rungs: Sequence[Rung], attempt: Callable[[Rung], T], job: Job | None = None) -> T:
    """Return what `attempt` returns on the first rung that does not run out of memory.

    Between rungs the failed attempt's tensors are let go (its traceback pins them) and the
    device's cache is emptied. Which rung ran is told through `job.say` when it is not the first.

    Raises
    ------
    DeviceError
        If every rung ran out of memory.
    """
    reasons: list[str] = []
    for rung in rungs:
        if job is not None:
            job.check()
        try:
            found = attempt(rung)
        except Cancelled:
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reasons.append(f"{rung} ({_first_line(error)})")
            _let_go(error)
        else:
            if reasons and job is not None:
                job.say(f"memory ran out on {'; '.join(reasons)}: ran on {rung} instead")
            return found
        _empty_caches()
    msg = (
        f"expected the work to fit into memory, but it ran out on {'; '.join(reasons)}; "
        f"close other programs, crop the image, or use a machine with more memory"
    )
    raise DeviceError(msg)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:120] if text else type(error).__name__


def _let_go(error: BaseException | None) -> None:
    """Clear the frames of an error and of those it came from, so that their tensors can go."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _empty_caches() -> None:
    gc.collect()
    if torch.cuda.is_available():
        # After a CUDA error this may raise the same error again: the next rung must still run.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
    if _has_mps():
        torch.mps.empty_cache()
