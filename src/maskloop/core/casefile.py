"""The files of a case folder: its start, its description, and the steps in words."""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import json
import os
import platform
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.boxes import difference_box
from maskloop.core.errors import FormatError, MissingFileError, StorageError
from maskloop.core.files import put, sync_folder, write_new
from maskloop.core.geometry import Geometry
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maskloop.core.edits import Edit

_VERSION = 2
_Json = dict[str, Any]  # Any: plain JSON values


def make(folder: Path, mask: Mask, provenance: Mapping[str, Any], *, mode: int) -> None:
    """Make a case folder with one start; no half case is ever found.

    Raises
    ------
    StorageError
        If the folder exists or cannot be written.
    """
    about = {
        "version": _VERSION,
        "created": _now(),
        "shape": list(mask.geometry.shape),
        "affine": mask.geometry.affine.tolist(),
        "unit": mask.geometry.unit,
        "masks": [_start_row("", mask, 0)],
        "provenance": {"versions": _versions(), **provenance},
        "steps": [],
    }
    try:
        if folder.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _admit_group(made, mode)
            write_new(made / "start-0.npz", _packed(mask), mode=mode & 0o666)
            write_new(made / "case.json", _text(about), mode=mode & 0o666)
            made.rename(folder)
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        msg = (
            f"expected to make the case folder {folder}, got {error.strerror or error}; "
            f"open the case there or choose another folder"
        )
        raise StorageError(msg) from error


def read(folder: Path) -> tuple[dict[str, Mask], _Json]:
    """Return the starts of a case by name, and what ``case.json`` says.

    Raises
    ------
    MissingFileError
        If there is no case.
    FormatError
        If its files are damaged, or of another version.
    StorageError
        If they may not be read.
    """
    try:
        if not (folder / "case.json").is_file():
            msg = f"expected a case folder with case.json at {folder}, got none; "
            raise MissingFileError(msg + "open the image instead")
        about = json.loads((folder / "case.json").read_bytes())
        if about["version"] != _VERSION:
            msg = (
                f"expected a case of version {_VERSION} in {folder.name}, got version "
                f"{about['version']!r}; open it with the version of maskloop that made it"
            )
            raise FormatError(msg)
        geometry = Geometry(tuple(about["shape"]), np.array(about["affine"]), about["unit"])
        starts = {row["name"]: _start(folder, row, geometry) for row in about["masks"]}
        about["provenance"] = dict(about["provenance"])
        if not starts or not isinstance(about.get("steps", []), list):
            raise ValueError("no masks or no list of steps in case.json")
    except (FormatError, MissingFileError):
        raise
    except PermissionError as error:
        msg = (
            f"expected to read the case {folder.name}, got {error.strerror}; ask its owner for "
            "permission, or choose a workspace of your own"
        )
        raise StorageError(msg) from error
    except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        msg = (
            f"expected the files of a case in {folder.name}, got {error}; restore them from a "
            "backup"
        )
        raise FormatError(msg) from error
    return starts, about


def add_start(folder: Path, name: str, mask: Mask) -> None:
    """Add the start of one more mask."""
    about = json.loads((folder / "case.json").read_bytes())
    row = _start_row(name, mask, len(about["masks"]))
    about["masks"].append(row)
    try:
        write_new(folder / row["file"], _packed(mask), mode=file_mode(folder))
        put(folder / "case.json", _text(about), mode=file_mode(folder))
    except OSError as error:
        msg = (
            f"expected to write a mask into {folder.name}, got {error.strerror or error}; "
            "free space or choose a workspace that can be written"
        )
        raise StorageError(msg) from error


def write_log(folder: Path, steps: list[_Json], masks: Mapping[str, Mask]) -> None:
    """Put the steps in words, and the labels as they are, into ``case.json``."""
    about = json.loads((folder / "case.json").read_bytes())
    found = {
        **about,
        "changed": _now(),
        "steps": steps,
        "labels": {name: mask.labels.to_rows() for name, mask in masks.items()},
        "models": [row["about"] for row in steps if row["kind"] == "model"],
    }
    if {**found, "changed": ""} == {**about, "changed": ""}:
        return
    try:
        put(folder / "case.json", _text(found), mode=file_mode(folder))
    except OSError as error:
        msg = (
            f"expected to write case.json in {folder.name}, got {error.strerror or error}; "
            "free space: the steps themselves are safe in the journal"
        )
        raise StorageError(msg) from error


def in_words(edit: Edit) -> _Json:
    """Return one step for the log."""
    when = datetime.datetime.fromtimestamp(edit.time, datetime.UTC)
    return {
        "time": when.isoformat(timespec="seconds"),
        "author": edit.author,
        "kind": edit.kind,
        "tool": edit.tool,
        "words": edit.words,
        "voxels": edit.voxels,
        "mask": edit.mask,
        "about": dict(edit.about),
    }


def file_mode(folder: Path) -> int:
    """Return the permissions of files in a case folder: the folder's, without executing."""
    return folder.stat().st_mode & 0o666


def _admit_group(folder: Path, mode: int) -> None:
    """Give a new folder its permissions and, if a group has any, the group of the folder above."""
    if os.name == "posix" and mode & 0o070:
        with contextlib.suppress(PermissionError):  # of a group that we are not in
            os.chown(folder, -1, folder.parent.stat().st_gid)
        mode |= stat.S_ISGID  # or files would get the group of whoever makes them
    folder.chmod(mode)


def _start_row(name: str, mask: Mask, number: int) -> _Json:
    return {
        "name": name,
        "file": f"start-{number}.npz",
        "shape": list(mask.data.shape),
        "dtype": mask.data.dtype.name,
        "labels": mask.labels.to_rows(),
    }


def _packed(mask: Mask) -> bytes:
    """Return what is not background, deflated."""
    nothing = np.zeros((), mask.data.dtype)
    box = difference_box(np.broadcast_to(nothing, mask.data.shape), mask.data)
    box = box or tuple(slice(0, 0) for _ in mask.data.shape)
    corner, ids = [part.start for part in box], mask.data[box]
    stream = io.BytesIO()
    np.savez_compressed(stream, ids=ids, corner=np.array(corner))
    return stream.getvalue()


def _start(folder: Path, row: _Json, geometry: Geometry) -> Mask:
    if Path(row["file"]).name != row["file"]:
        raise ValueError(row["file"])
    try:
        content = io.BytesIO((folder / row["file"]).read_bytes())
        with np.load(content, allow_pickle=False) as stored:
            ids, corner = stored["ids"], stored["corner"]
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{row['file']}: {error}") from error
    data = np.zeros(tuple(row["shape"]), np.dtype(row["dtype"]))
    box = tuple(slice(int(c), int(c) + n) for c, n in zip(corner, ids.shape, strict=True))
    data[box] = ids
    return Mask(data, geometry, LabelTable.from_rows(row["labels"]))


def _versions() -> dict[str, str]:
    from maskloop import __version__

    return {"maskloop": __version__, "python": platform.python_version(), "numpy": np.__version__}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _text(about: _Json) -> bytes:
    return json.dumps(about, indent=1).encode()
