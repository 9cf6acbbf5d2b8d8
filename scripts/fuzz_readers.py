"""Feed damaged files to every reader and count what a file must never do.

Seeds are small valid files, written by this project or by other programs. Each input is one of them
with its header or body changed at random, from a fixed seed: the same number is the same input. A
hit is an exception that is not deliberate, a call over 5 seconds, more memory than 64 MB and 1100
times the file, a crash, a file written outside the folder, or a file opened that the name in a
header led to.

    python scripts/fuzz_readers.py --count 20000
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from maskloop.core.errors import MaskloopError  # noqa: E402
from maskloop.core.geometry import Geometry  # noqa: E402
from maskloop.core.image import Image  # noqa: E402
from maskloop.core.labels import LabelTable  # noqa: E402
from maskloop.core.mask import Mask  # noqa: E402
from maskloop.desk.check import info  # noqa: E402
from maskloop.loop.export import export  # noqa: E402
from maskloop.loop.load import load, load_mask, load_masks  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 5.0
LEAST_MEMORY = 64 << 20
MEMORY_RATIO = 1100
SLACK = 32 << 20  # what the interpreter itself takes meanwhile
CANARY = "canary.raw"
GRID = Geometry.regular((4, 5, 6), (3, 0.7, 0.8), (1, 2, 3))


@dataclass(frozen=True)
class Seed:
    """Valid content: files by name, which of them is damaged, and what is called with it."""

    name: str
    files: dict[str, bytes]
    opened: str  # the path given to the readers; empty for the folder itself
    damaged: tuple[str, ...]
    image: Image | None = None  # for readers that ask for one


@dataclass
class Found:
    """What came of all inputs."""

    inputs: int = 0
    refused: int = 0
    read: int = 0
    hits: list[tuple[str, int, str]] = field(default_factory=list)
    seconds: float = 0.0
    slowest_s: float = 0.0


class TooSlow(BaseException):
    """Raised in the worker by its alarm; no reader catches it."""


@cache
def seeds() -> list[Seed]:
    """Return one valid file for every reader, and more where a format has several shapes."""
    ids = np.zeros(GRID.shape, np.uint8)
    ids[1, 2, 1:5], ids[2, 1:3, 2] = 1, 2
    mask = Mask(ids, GRID, LabelTable.classes(["liver", "tumour"]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [*_volumes(folder, mask), *_pictures(folder, ids), *_dicom(folder)]
    return sorted(made, key=lambda seed: seed.name)


def _of(name: str, *paths: Path, opened: str | None = None, **more: object) -> Seed:
    files = {path.name: path.read_bytes() for path in paths}
    return Seed(name, files, paths[0].name if opened is None else opened, tuple(files), **more)


def _volumes(folder: Path, mask: Mask) -> Iterator[Seed]:
    import nibabel
    import nrrd
    import SimpleITK as sitk

    values = np.random.default_rng(0).integers(-900, 900, GRID.shape).astype(np.int16)
    affine = GRID.affine[:, [2, 1, 0, 3]]
    for end in (".nii", ".nii.gz"):
        image = nibabel.Nifti1Image(values.T, affine)
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"note"))
        nibabel.save(image, folder / f"ct{end}")
        yield _of(f"nifti{end}", folder / f"ct{end}")
    nibabel.save(nibabel.Nifti2Image(values.T, affine), folder / "two.nii")
    yield _of("nifti2.nii", folder / "two.nii")
    for end in (".mgz", ".mgh"):
        nibabel.save(nibabel.MGHImage(values.T.astype(np.float32), affine), folder / f"ct{end}")
        yield _of(f"mgh{end}", folder / f"ct{end}")
    space = {"space": "left-posterior-superior", "space directions": np.diag((0.8, 0.7, 3))}
    for encoding in ("gzip", "raw", "ascii", "bzip2"):
        path = folder / f"{encoding}.nrrd"
        nrrd.write(str(path), values.T, {**space, "encoding": encoding})
        yield _of(f"nrrd {encoding}", path)
    nrrd.write(str(folder / "ct.nhdr"), values.T, {**space, "encoding": "gzip"})
    yield _of("nhdr", folder / "ct.nhdr", folder / "ct.raw.gz")
    picture = sitk.GetImageFromArray(values)
    sitk.WriteImage(picture, str(folder / "ct.mha"), True)
    yield _of("mha packed", folder / "ct.mha")
    sitk.WriteImage(picture, str(folder / "plain.mha"), False)
    yield _of("mha", folder / "plain.mha")
    sitk.WriteImage(picture, str(folder / "ct.mhd"), True)
    yield _of("mhd", folder / "ct.mhd", folder / "ct.zraw")
    for end in (".nii.gz", ".seg.nrrd", ".mha"):
        export(mask, folder / f"labels{end}")
        side = folder / f"labels{end}.labels.json"
        yield _of(f"labels{end}", folder / f"labels{end}", *([side] if side.exists() else []))


def _pictures(folder: Path, ids: np.ndarray) -> Iterator[Seed]:
    import tifffile
    from PIL import Image as Pillow

    colours = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    for end in (".png", ".jpg", ".tif"):
        Pillow.fromarray(colours).save(folder / f"photo{end}")
        yield _of(f"photo{end}", folder / f"photo{end}")
    tifffile.imwrite(folder / "stack.tif", ids.astype(np.uint16), imagej=True, compression=None)
    yield _of("tif stack", folder / "stack.tif")
    tifffile.imwrite(folder / "packed.tif", ids, compression="zlib", photometric="minisblack")
    yield _of("tif packed", folder / "packed.tif")
    objects = LabelTable.objects([1, 2])
    cells = Mask(ids[1] | ids[2], Geometry.pixels(ids.shape[1:]), objects)
    for end in (".json", ".png"):
        export(cells, folder / f"cells{end}")
        side = folder / f"cells{end}.labels.json"
        yield _of(f"cells{end}", folder / f"cells{end}", *([side] if side.exists() else []))


def _dicom(folder: Path) -> Iterator[Seed]:
    from tests.formats import test_rtstruct
    from tests.formats.ct_series import geometry_of, write_series

    image = write_series(folder / "series")
    files = sorted((folder / "series").iterdir())
    yield _of("dicom series", *files, opened="")
    tool = Path(sys.executable).parent / "gdcmconv"
    for name, way in (
        *(("rle", "--rle"), ("jpeg-ls", "--jpegls"), ("jpeg lossless", "--jpeg")),
        ("jpeg 2000", "--j2k"),
    ):
        packed = folder / name
        packed.mkdir()
        for file in files:
            subprocess.run([tool, way, file, packed / file.name], check=True)
        yield _of(f"dicom {name}", *sorted(packed.iterdir()), opened="")
    yield _of("dicom enhanced", _enhanced(folder / "enhanced.dcm", files[0]), opened="")
    ids = np.zeros(image.data.shape, np.uint8)
    ids[1:3, 3:9, 4:20], ids[2, 5:8, 6:9] = 1, 2
    export(Mask.like(image, ids, ["liver", "tumour"]), folder / "labels.seg.dcm")
    yield _of("dicom seg", folder / "labels.seg.dcm")
    grid = geometry_of((1, 0, 0, 0, 1, 0))
    drawn = {"liver": [test_rtstruct.box(n, 3, 9, 4, 20) for n in (1, 2)]}
    path = test_rtstruct.write(folder / "drawn.rtstruct.dcm", grid, drawn)
    yield _of("rtstruct", path, image=Image(np.zeros(grid.shape, np.int16), grid))


def _enhanced(path: Path, plain: Path) -> Path:
    """Write three frames of a CT as one enhanced file."""
    import pydicom

    data = pydicom.dcmread(plain)
    uid = "1.2.840.10008.5.1.4.1.1.2.1"
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid
    place = [float(n) for n in data.ImagePositionPatient]
    shared, plane, measures, rescale = (pydicom.Dataset() for _ in range(4))
    plane.ImageOrientationPatient = data.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = data.PixelSpacing, 2.5
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
    shared.PlaneOrientationSequence = [plane]
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [rescale]
    frames = []
    for number in range(3):
        frame, position, content = (pydicom.Dataset() for _ in range(3))
        position.ImagePositionPatient = [*place[:2], place[2] + 2.5 * number]
        content.InStackPositionNumber, content.StackID = number + 1, "1"
        content.DimensionIndexValues = [1, number + 1]
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frames.append(frame)
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = frames
    data.NumberOfFrames, data.PixelData = 3, data.PixelData * 3
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del data[keyword]
    data.save_as(path)
    return path


NUMBERS = [b"0", b"-1", b"1000000", b"1000000000000", b"NaN", b"inf", b"1e308", b"", b"0x7f", b"2"]
PLACES = [f"../{CANARY}".encode(), b"/etc/hostname", b"..", b"LIST", b"a%d.raw 0 9 1", b"LOCAL"]
WIDE = [0, 1, -1, 127, 128, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1]


def mutated(chance: random.Random, content: bytes) -> bytes:
    """Return content with one to four changes, mostly in its first 2 KB, or inside its gzip."""
    if content[:2] == b"\x1f\x8b" and chance.random() < 0.6:
        return gzip.compress(mutated(chance, zlib.decompress(content, 31)), 1, mtime=0)
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        if found:
            chance.choice(WAYS)(chance, found)
    return bytes(found)


def _at(chance: random.Random, content: bytearray) -> int:
    head = min(len(content), chance.choice((64, 400, 2048)))
    return chance.randrange(head if chance.random() < 0.85 else len(content))


def _flip(chance: random.Random, content: bytearray) -> None:
    content[_at(chance, content)] ^= 1 << chance.randrange(8)


def _set(chance: random.Random, content: bytearray) -> None:
    code = chance.choice("bhiqfd")
    order = chance.choice("<>")
    if code in "fd":
        number: float = chance.choice((float("nan"), float("inf"), 1e30, -1.0, 0.0, 1e-30))
        raw = struct.pack(order + code, number)
    else:
        bits = 8 * struct.calcsize(order + code)
        raw = (chance.choice(WIDE) % 2**bits).to_bytes(bits // 8, "little")
        raw = raw[::-1] if order == ">" else raw
    at = _at(chance, content)
    at -= at % len(raw) if chance.random() < 0.7 else 0
    content[at : at + len(raw)] = raw


def _number(chance: random.Random, content: bytearray) -> None:
    spots = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(content[:4096])))
    if spots:
        spot = chance.choice(spots)
        content[spot.start() : spot.end()] = chance.choice(NUMBERS)


def _name(chance: random.Random, content: bytearray) -> None:
    spots = list(re.finditer(rb"[\w.]+\.(raw|gz|zraw|nrrd)|LOCAL", bytes(content[:4096])))
    if spots:
        spot = chance.choice(spots)
        content[spot.start() : spot.end()] = chance.choice(PLACES)
    else:
        _number(chance, content)


def _word(chance: random.Random, content: bytearray) -> None:
    spots = list(re.finditer(rb"[A-Za-z_]{2,}", bytes(content[:4096])))
    if spots:
        one, other = chance.choice(spots), chance.choice(spots)
        content[one.start() : one.end()] = other.group()


def _delete(chance: random.Random, content: bytearray) -> None:
    at = _at(chance, content)
    del content[at : at + chance.choice((1, 2, 4, 16, 100))]


def _double(chance: random.Random, content: bytearray) -> None:
    at, size = _at(chance, content), chance.choice((1, 4, 16, 100))
    content[at:at] = content[at : at + size] * chance.choice((1, 2, 50))


def _insert(chance: random.Random, content: bytearray) -> None:
    content[(at := _at(chance, content)) : at] = chance.randbytes(chance.choice((1, 2, 8, 64)))


def _cut(chance: random.Random, content: bytearray) -> None:
    del content[chance.choice((_at(chance, content), chance.randrange(len(content)))) :]


WAYS: list[Callable[[random.Random, bytearray], None]] = [
    *(_flip, _flip, _set, _set, _set, _number, _number, _number),
    *(_name, _word, _delete, _double, _insert, _cut),
]


def damaged(seed: Seed, number: int, start: int) -> dict[str, bytes]:
    """Return the files of input `number`: the seed's, one or all of them changed."""
    chance = random.Random(f"{start} {seed.name} {number}")
    files = dict(seed.files)
    if not seed.opened and chance.random() < 0.3:  # the same change in each slice of a series
        state = chance.getstate()
        for name in seed.damaged:
            chance.setstate(state)
            files[name] = mutated(chance, files[name])
        return files
    weights = [8, *[1] * (len(seed.damaged) - 1)]
    for name in chance.choices(seed.damaged, weights, k=1):
        files[name] = mutated(chance, files[name])
    return files


def attempt(seed: Seed, place: Path) -> bool:
    """Call every reader that takes the files; return whether any of them gave something."""
    path = place / seed.opened if seed.opened else place
    calls: list[Callable[[], object]] = [
        lambda: load(path),
        lambda: load_mask(path, image=seed.image),
        lambda: load_masks(path, image=seed.image),
        lambda: info(path),
    ]
    gave = False
    for call in calls:
        try:
            call()
            gave = True
        except MaskloopError:
            pass
    return gave


_watched: list[Path] = []
_trespasses: list[str] = []
_is_hooked: list[bool] = []
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod"}


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: note what is opened or changed outside the watched folder."""
    if not _watched or (event != "open" and event not in _CHANGES):
        return
    if not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    path = os.path.realpath(os.fsdecode(arguments[0]))
    if path.startswith(str(_watched[0]) + os.sep) or path == "/dev/null":
        return
    is_change = event != "open" or bool(int(arguments[2] or 0) & _WRITES)  # type: ignore[call-overload]
    if is_change or path.endswith((CANARY, "/etc/hostname")):
        _trespasses.append(f"{event} {path}")


def worker(jobs: list[tuple[Seed, int]], start: int, folder: Path, report: int) -> None:
    """Run jobs one after another and report each in a line; runs in a process of its own."""
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if not _is_hooked:
        sys.addaudithook(_watch)
        _is_hooked.append(True)

    def late(number: int, frame: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, late)
    unlimited = resource.getrlimit(resource.RLIMIT_AS)[1]
    place = folder / f"input{os.getpid()}"
    place.mkdir()
    _watched[:] = [Path(os.path.realpath(place))]
    before: set[str] = set()
    for seed, number in jobs:
        files = damaged(seed, number, start)
        for name in before - set(files):
            (place / name).unlink()
        before = set(files)
        for name, content in files.items():
            (place / name).write_bytes(content)
        size = sum(len(content) for content in files.values())
        resource.setrlimit(resource.RLIMIT_AS, (_allowed(size), unlimited))
        signal.setitimer(signal.ITIMER_REAL, 4 * LIMIT_S)
        began, what = time.perf_counter(), "read"
        _trespasses.clear()
        try:
            what = "read" if attempt(seed, place) else "refused"
        except TooSlow:
            what = f"hit: over {LIMIT_S} s"
        except MemoryError:
            what = f"hit: wanted more than {_allowed(size) >> 20} MB for {size} bytes {_where()}"
        except BaseException as error:
            what = f"hit: {type(error).__name__}: {error} {_where()}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
        took = time.perf_counter() - began
        if _trespasses:
            what = f"hit: {_trespasses[0]}"
        elif took > LIMIT_S and not what.startswith("hit"):
            what = f"hit: took {took:.1f} s"
        line = f"{took:.4f} {what}".replace("\n", " ")[:900] + "\n"
        os.write(report, line.encode("utf-8", "replace"))


def _where() -> str:
    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [f for f in frames if "/maskloop/" in f.filename] or frames
    return f"at {Path(own[-1].filename).name}:{own[-1].lineno}"


def _allowed(size: int) -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize() + max(LEAST_MEMORY, MEMORY_RATIO * size) + SLACK


def fuzz(count: int, start: int = 0, only: str = "") -> Found:
    """Run `count` inputs, in turn over all seeds whose name holds `only`.

    Parameters
    ----------
    count : int
        How many inputs.
    start : int
        Another number gives other inputs.
    only : str
        Part of a seed's name.
    """
    found, began = Found(), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / CANARY).write_bytes(bytes(range(240)))
        chosen = [seed for seed in seeds() if only in seed.name]
        for seed in chosen:  # valid files must read; this imports what reading needs, too
            place = folder / "valid" / seed.name
            place.mkdir(parents=True)
            for file, content in seed.files.items():
                (place / file).write_bytes(content)
            if not attempt(seed, place):
                msg = f"expected the seed {seed.name!r} to read, got a refusal; repair the seed"
                raise RuntimeError(msg)
        jobs = [(chosen[n % len(chosen)], n // len(chosen)) for n in range(count)]
        while jobs:
            jobs = jobs[_batch(jobs, start, folder, found) :]
    found.seconds = time.perf_counter() - began
    return found


def _batch(jobs: list[tuple[Seed, int]], start: int, folder: Path, found: Found) -> int:
    """Give jobs to a worker until it ends, dies or hangs; return how many were settled."""
    answers, report = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a child of a process with threads
        child = os.fork()
    if child == 0:
        try:
            os.close(answers)
            worker(jobs, start, folder, report)
        finally:
            os._exit(0)
    os.close(report)
    done = 0
    with os.fdopen(answers, "rb", buffering=0) as stream:
        rest = b""
        while done < len(jobs):
            ready, _, _ = select.select([stream], [], [], 8 * LIMIT_S)
            piece = stream.read(65536) if ready else None
            if not piece:
                break
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                _settle(jobs[done], line.decode(), found)
                done += 1
        if done < len(jobs):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if done < len(jobs):
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        how = "hung" if not ready else f"ended the process ({ended})"
        _settle(jobs[done], f"0 hit: {how}", found)
        done += 1
    return done


def _settle(job: tuple[Seed, int], line: str, found: Found) -> None:
    took, _, what = line.partition(" ")
    found.inputs += 1
    found.slowest_s = max(found.slowest_s, float(took))
    if what.startswith("hit"):
        found.hits.append((job[0].name, job[1], what[5:]))
    else:
        found.read += what == "read"
        found.refused += what == "refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="another number, other inputs")
    parser.add_argument("--only", default="", help="part of a seed's name")
    asked = parser.parse_args()
    found = fuzz(asked.count, asked.seed, asked.only)
    print(
        f"{found.inputs} inputs in {found.seconds:.0f} s: {found.refused} refused, {found.read} "
        f"read, {len(found.hits)} hits; the slowest took {found.slowest_s:.2f} s"
    )
    kinds: dict[tuple[str, str], list[str]] = {}
    for name, number, what in found.hits:
        kinds.setdefault((name, re.sub(r"\d+", "N", what)[:160]), []).append(f"#{number}: {what}")
    for (name, _), examples in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        print(f"{len(examples):6} {name} {examples[0]}")


if __name__ == "__main__":
    main()
