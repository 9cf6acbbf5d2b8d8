"""Open a case beside its image or in a workspace, say what state it is in, and replay it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core import lock
from maskloop.core.case import Case
from maskloop.core.errors import InputError, MissingFileError, StorageError, UnknownNameError
from maskloop.core.files import sha256_of
from maskloop.core.image import Image, stem_of
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask

if TYPE_CHECKING:
    from maskloop.core.job import Job

WORKSPACE = "MASKLOOP_WORKSPACE"
AUTHOR = "MASKLOOP_AUTHOR"
_PRIVATE = 0o700
_SAMPLES = 4096


def case_folder(image: Path | str, *, workspace: Path | str | None = None) -> Path:
    """Return where an image's case lies, or would lie.

    Beside the image as ``NAME.maskloop``, where there is one that we may read or may be one; in the
    workspace (that given, else of the variable ``MASKLOOP_WORKSPACE``) where the image's folder
    cannot be written or is shared by a team. There the name carries eight digits of the image's
    own, so that images of one name stay apart; a folder's name is left out, as it is often a
    patient's.

    Examples
    --------
    >>> case_folder("scans/ct.nii.gz").name
    'ct.maskloop'
    """
    path = Path(os.path.abspath(image))
    beside = path.parent / f"{stem_of(path)}.maskloop"
    chosen = workspace or os.environ.get(WORKSPACE)
    is_taken = beside.is_dir() and (os.access(beside, os.R_OK | os.X_OK) or not chosen)
    if is_taken or not chosen or not (is_shared(path.parent) or workspace):
        return beside
    name = "series" if path.is_dir() else stem_of(path)
    return Path(chosen).expanduser() / f"{name}-{_digits(path)}.maskloop"


def is_shared(folder: Path) -> bool:
    """Return whether a folder cannot be written by us, or can be by others than its owner."""
    try:
        found = folder.stat()
    except OSError:
        return False
    if not os.access(folder, os.W_OK):
        return True
    if os.name != "posix":
        return False
    import pwd

    uid = os.getuid()
    try:
        own_group = pwd.getpwuid(uid).pw_gid
    except KeyError:
        own_group = os.getgid()
    is_team = bool(found.st_mode & 0o020) and found.st_gid != own_group
    return found.st_uid != uid or is_team or bool(found.st_mode & 0o002)


def case_state(
    image: Path | str, *, workspace: Path | str | None = None
) -> dict[str, Any] | None:  # Any: plain JSON values
    """Return what is known of an image's case without opening it, or None where there is none.

    Returns
    -------
    dict
        ``folder``, ``steps`` (how many at the last proper end), ``changed`` (local time in words),
        ``authors`` (of the people's steps), ``was_closed`` (whether the last program to hold it
        ended properly) and ``locked_by`` (who holds it now, in words, or empty).
    """
    folder = case_folder(image, workspace=workspace)
    try:
        if not (folder / "case.json").is_file():
            return None
        about = json.loads((folder / "case.json").read_bytes())
        steps = about["steps"]
        changed = max((folder / name).stat().st_mtime for name in ("case.json", "journal"))
        holder, was_left = lock.state(folder / "lock")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"folder": folder, "problem": str(error)}
    when = datetime.datetime.fromtimestamp(changed, datetime.UTC).astimezone()
    people = {s["author"] for s in steps if s["kind"] == "person"}
    return {
        "folder": folder,
        "steps": len(steps),
        "changed": when.strftime("%Y-%m-%d %H:%M"),
        "authors": sorted(name for name in people if name),
        "was_closed": not was_left and not holder,
        "locked_by": holder,
        "problem": "",
    }


def open_case(
    image: Image | Path | str,
    *,
    mask: Mask | None = None,
    workspace: Path | str | None = None,
    author: str | None = None,
    read_only: bool = False,
    in_background: bool = False,
    job: Job | None = None,
) -> Case:
    """Open the case of an image, or make one.

    Parameters
    ----------
    image : path or Image
        Image file or DICOM folder; an `Image` that was loaded from one is not loaded again.
    mask : Mask, optional
        The start of a new case; empty where left out. Refused where the case exists.
    workspace : path, optional
        Folder to keep the case in; see `case_folder`.
    author : str, optional
        Signs the steps; that of the variable ``MASKLOOP_AUTHOR`` where left out.
    read_only : bool
        Whether to leave the case as it is.
    in_background : bool
        Whether steps are written in a thread, within a second, rather than before a call returns.
    job : Job, optional
        Progress and cancel; told what `Case.notices` say.

    Returns
    -------
    Case
        With every finished step. Where another window holds it, for reading only.

    Raises
    ------
    MissingFileError
        If there is no such image.
    InputError
        If the image has changed since the case was made, is another series of its folder, has no
        file, or a start is given for an old case.
    StorageError
        If the folder cannot be made.
    """
    path = image.source if isinstance(image, Image) else Path(image)
    if path is None:
        msg = "expected an image that was loaded from a file, got one without; save it first"
        raise InputError(msg)
    if not path.exists():
        from maskloop.formats.base import missing

        raise missing(path, "an image")
    author = os.environ.get(AUTHOR, "") if author is None else author
    folder = case_folder(path, workspace=workspace)
    if not folder.is_dir():
        try:
            _create(folder, image, mask, author, job)
        except StorageError:
            if mask is not None or not is_case(folder):
                raise  # else another window made it in the meantime
    elif mask is not None:
        msg = (
            f"expected no start for the case {folder.name}, which exists, got one; open it as it is"
        )
        raise InputError(msg)
    case = Case.open(folder, author=author, read_only=read_only, in_background=in_background)
    expected = case.provenance.get("image_sha256")
    if expected and expected != _hash(path):
        case.close()
        msg = (
            f"expected the image that {folder.name} was made for, got another; restore it or move "
            "the case away"
        )
        raise InputError(msg)
    if isinstance(image, Image) and not _is_of(case, image):
        case.close()
        msg = (
            f"expected the series that {folder.name} was made for, got another of {path.name!r} or "
            "another grid of it; load that one, or copy each series into a folder of its own"
        )
        raise InputError(msg)
    if job is not None:
        for notice in case.notices:
            job.say(notice)
    return case


def is_case(path: Path | str) -> bool:
    """Return whether a path is a case folder."""
    return (Path(path) / "case.json").is_file()


def open_folder(
    folder: Path | str, *, author: str = "", read_only: bool = False, job: Job | None = None
) -> Case:
    """Open a case by its folder; its image is not looked at."""
    path = Path(folder)
    if not path.is_dir():
        msg = f"expected a case folder, got {str(path)!r}, which is none; give NAME.maskloop"
        raise MissingFileError(msg)
    author = author or os.environ.get(AUTHOR, "")
    case = Case.open(path, author=author, read_only=read_only)
    if job is not None:
        for notice in case.notices:
            job.say(notice)
    return case


def replay(folder: Path | str, *, mask: str | None = None, job: Job | None = None) -> Mask:
    """Return the mask that a case folder's journal leads to, bit for bit; changes nothing.

    Parameters
    ----------
    folder : path
        ``NAME.maskloop``.
    mask : str, optional
        Which of the case's masks; the first where left out.
    job : Job, optional
        Told what `Case.notices` say, and which other masks there are.

    Raises
    ------
    MissingFileError
        If there is no such folder, or it is no case.
    InputError
        If there is no such mask.
    """
    with open_folder(folder, read_only=True, job=job) as case:
        others = [name for name in case.masks if name]
        if mask is None and others and job is not None:
            job.say(f"this is the first mask of the case; it also has {', '.join(others)}")
        if mask is not None and mask not in case.masks:
            raise UnknownNameError.of("mask of the case", mask, others)
        name = Path(os.path.abspath(folder)).name.removesuffix(".maskloop")
        return replace(case.masks[mask or ""], title=f"{name} {mask}" if mask else name)


def _create(
    folder: Path, image: Image | Path | str, mask: Mask | None, author: str, job: Job | None
) -> None:
    from maskloop.loop.load import load

    found = image if isinstance(image, Image) else load(image, job=job)
    if mask is None:
        shape = found.geometry.shape
        if found.has_time:
            shape = (found.data.shape[0], *shape)
        mask = Mask.like(found, np.zeros(shape, np.uint8), LabelTable())
    mask.require_on(found)
    parent = folder.parent
    if not os.access(parent, os.W_OK):
        msg = (
            f"expected a folder that can be written for the case {folder.name}, got "
            f"{str(parent)!r}, which cannot; choose a workspace (the window's preferences, "
            f"--workspace, or the variable {WORKSPACE})"
        )
        raise StorageError(msg)
    source = found.source if found.source is not None else Path(str(image))
    mode, given = _PRIVATE, parent.stat().st_mode & 0o070
    is_team = bool(given & 0o020) and parent != Path(os.path.abspath(source)).parent
    if is_team or is_shared(parent):
        mode |= given
    about = {"image_sha256": _hash(source), "sample": _sample(found)}
    Case.create(folder, mask.checked(), provenance=about, author=author, mode=mode).close()


def _is_of(case: Case, image: Image) -> bool:
    """Return whether a case was made for this very image: a folder may hold several series."""
    known, now = case.provenance.get("sample"), _sample(image)
    # Pixels of another shape are a channel or a frame of it; the grid must do.
    is_same = known is None or known["shape"] != now["shape"] or known == now
    return is_same and case.mask.geometry.matches(image.geometry)


def _sample(image: Image) -> dict[str, Any]:  # Any: plain JSON values
    """Return the shape of an image's pixels, and the SHA-256 of some, spread over all of it."""
    places = np.linspace(0, image.data.size - 1, _SAMPLES).astype(np.intp)
    values = np.asarray(image.data.flat[places], np.float64).round(3) + 0.0  # no minus zero
    digest = hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()
    return {"shape": list(image.data.shape), "sha256": digest}


def _digits(path: Path) -> str:
    """Return eight hexadecimal digits of an image: of its size and its first mebibyte."""
    total = hashlib.sha256()
    if path.is_dir():
        sizes = sorted(file.stat().st_size for file in path.rglob("*") if file.is_file())
        total.update(json.dumps(sizes).encode())
    elif path.is_file():
        total.update(str(path.stat().st_size).encode())
        with path.open("rb") as file:
            total.update(file.read(1 << 20))
    return total.hexdigest()[:8]


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files in order of their hashes."""
    if path.is_dir():
        parts = sorted(
            _hash(file)
            for file in path.rglob("*")
            if file.is_file() and not any(p.suffix == ".maskloop" for p in file.parents)
        )
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    return sha256_of(path)
