"""The device that is chosen, the cure that is told, the ladder that is climbed down."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from maskloop.core.errors import Cancelled, DeviceError
from maskloop.core.job import Job
from maskloop.ops import device
from maskloop.ops.device import CPU, Device, Rung, Seen, choose, describe, ladder, run_ladder

CUDA = Device("cuda:0", "cuda")


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "_has_mps", lambda: False)
    monkeypatch.setattr(device, "look_for_cards", lambda: Seen())


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device, "_has_mps", lambda: False)


def test_auto_takes_the_processor_where_there_is_no_card(no_card):
    assert choose("auto") == CPU


def test_auto_takes_the_first_card(two_cards):
    assert choose().name == "cuda:0"
    assert choose("CUDA:1") == Device("cuda:1", "cuda")
    with pytest.raises(DeviceError, match=r"one of cuda:0, cuda:1, got 'cuda:2'"):
        choose("cuda:2")


def test_auto_takes_apples_card(monkeypatch, no_card):
    monkeypatch.setattr(device, "_has_mps", lambda: True)
    assert choose("auto").kind == "mps"


def test_an_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(DeviceError, match=r"'auto', 'cpu'.*got 'gpu'"):
        choose("gpu")


def test_a_card_that_is_missing_is_refused_with_words(no_card):
    with pytest.raises(DeviceError, match="no graphics card"):
        choose("cuda")
    with pytest.raises(DeviceError, match="Apple"):
        choose("mps")


@pytest.mark.parametrize(
    ("built", "seen", "problem", "fix"),
    [
        (None, Seen(("RTX 4090",), "550.54", (12, 4)), "processor only", "whl/cu126"),
        (None, Seen(("RTX 5090",), "590.1", (13, 2)), "processor only", "whl/cu130"),
        ("13.2", Seen(("RTX 4090",), "550.54", (12, 4)), "12.4 at most", "whl/cu126"),
        ("13.2", Seen(("RTX 4090",), "590.1", (13, 2)), "cannot open it", "nvidia-smi"),
        ("13.2", Seen(("NVIDIA card at 0000:01:00.0",)), "driver is not running", "install"),
    ],
)
def test_a_card_that_torch_cannot_use_comes_with_its_cure(
    monkeypatch, no_card, built, seen, problem, fix
):
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(device, "look_for_cards", lambda: seen)
    about = describe()
    assert problem in about["problem"]
    assert fix in about["fix"]
    assert about["best"] == "cpu"
    assert problem in choose("auto").note
    with pytest.raises(DeviceError, match="run: "):
        choose("cuda")


def test_a_usable_card_needs_no_cure(two_cards):
    about = describe(Seen(("A", "B"), "590.1", (13, 2)))
    assert about["devices"] == ["cuda:0", "cuda:1", "cpu"]
    assert about["problem"] is about["fix"] is None


def test_the_drivers_own_program_is_read(monkeypatch):
    text = "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4 |"

    class Answer:
        def __init__(self, stdout):
            self.stdout = stdout

    def run(command, **_):
        return Answer(text if len(command) == 1 else "NVIDIA RTX A4000\nNVIDIA RTX A4000\n")

    monkeypatch.setattr(device.subprocess, "run", run)
    found = device.look_for_cards()
    assert found == Seen(("NVIDIA RTX A4000",) * 2, "550.54.15", (12, 4))


def test_the_kernel_is_asked_where_the_drivers_program_is_missing(tmp_path):
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    found = device._look_in_system(tmp_path)
    assert (found.driver, found.cards) == ("535.104.05", ("NVIDIA card 0",))
    assert not device._look_in_system(tmp_path / "nowhere").is_nvidia


def test_a_card_without_a_driver_is_found_on_the_bus(tmp_path):
    slot = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    slot.mkdir(parents=True)
    (slot / "vendor").write_text("0x10de\n")
    (slot / "class").write_text("0x030000\n")
    found = device._look_in_system(tmp_path)
    assert found.cards == ("NVIDIA card at 0000:01:00.0",)
    assert found.driver == ""


def test_the_ladder_goes_down_by_batch_tile_and_processor():
    rungs = ladder(CUDA, 4, (128, 128, 80), smallest_tile=(64, 64, 48), multiple=16)
    assert rungs == [
        Rung(CUDA, 4, (128, 128, 80)),
        Rung(CUDA, 2, (128, 128, 80)),
        Rung(CUDA, 1, (128, 128, 80)),
        Rung(CUDA, 1, (64, 64, 48)),
        Rung(CPU, 4, (128, 128, 80)),
        Rung(CPU, 1, (64, 64, 48)),
    ]


def test_a_fixed_tile_stays_on_every_rung():
    assert {rung.tile for rung in ladder(CUDA, 8, (180, 172, 86))} == {(180, 172, 86)}
    assert ladder(CPU, 1, (9, 9)) == [Rung(CPU, 1, (9, 9))]


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory: you"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.1 GB)"),
    RuntimeError("Invalid buffer size: 24.00 GB"),
    MemoryError("Unable to allocate 30.7 GiB for an array"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: str(e)[:30])
def test_every_way_of_saying_out_of_memory_steps_down(error):
    job, tried = Job(), []

    def attempt(rung):
        tried.append(rung.batch)
        if rung.batch > 1:
            raise error
        return "done"

    assert run_ladder(ladder(CPU, 4), attempt, job) == "done"
    assert tried == [4, 2, 1]
    (note,) = job.notes
    assert "ran on cpu, 1 at a time instead" in note


def test_the_first_rung_says_nothing():
    job = Job()
    assert run_ladder(ladder(CPU, 4), lambda rung: rung.batch, job) == 4
    assert job.notes == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu!"),
        ValueError("out of memory"),
        KeyError("weights"),
    ],
)
def test_other_errors_are_not_taken_for_lack_of_memory(error):
    tried = []

    def attempt(rung):
        tried.append(rung)
        raise error

    with pytest.raises(type(error)):
        run_ladder(ladder(CPU, 4), attempt)
    assert len(tried) == 1


def test_when_every_rung_fails_the_message_says_what_to_do():
    def attempt(rung):
        raise MemoryError("no room")

    with pytest.raises(DeviceError, match=r"2 at a time \(no room\).*crop the image"):
        run_ladder(ladder(CPU, 2), attempt)


def test_what_a_failed_rung_held_is_let_go_before_the_next_runs():
    class Block:
        def __init__(self):
            self.data = np.zeros(1000)

    alive = []

    def attempt(rung):
        gc.disable()
        try:
            if alive:
                return alive[0]() is None
            block = Block()
            alive.append(weakref.ref(block))
            try:
                raise ValueError("inner")
            except ValueError:
                raise MemoryError("no room") from None
        finally:
            gc.enable()

    assert run_ladder(ladder(CPU, 2), attempt)


def test_stop_ends_the_ladder():
    job = Job()

    def attempt(rung):
        job.cancel()
        raise MemoryError

    with pytest.raises(Cancelled):
        run_ladder(ladder(CPU, 2), attempt, job)


def test_the_processor_computes_in_full_precision():
    with device.autocast(CPU):
        assert not torch.is_autocast_enabled("cpu")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
