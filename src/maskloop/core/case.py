"""One image under correction: its mask, its history, and the folder that outlives a crash."""

from __future__ import annotations

import datetime
import errno
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from maskloop.core.edits import Edit, History
from maskloop.core.errors import FormatError, MissingFileError, StorageError
from maskloop.core.geometry import Geometry
from maskloop.core.journal import Journal
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maskloop.core.geometry import Box

_VERSION = 1


class Case:
    """A mask being corrected, every step of it on disk.

    The folder holds ``case.json`` (grid, labels, hashes, versions: no patient name, no path),
    ``start.npy`` (the ids before the first step) and ``journal``; readable by its owner only.
    Make one with `create`, or with `open` where the folder exists.

    Parameters
    ----------
    folder : Path
        The case folder, ``NAME.maskloop``.
    mask : Mask
        The start; its ids are copied.
    journal : Journal
        Replayed onto the copy.
    provenance : mapping
        JSON-ready facts from ``case.json``.
    """

    def __init__(
        self, folder: Path, mask: Mask, journal: Journal, provenance: Mapping[str, Any]
    ) -> None:  # Any: plain JSON values
        self.folder = folder
        self.provenance = dict(provenance)
        self._journal = journal
        self._mask = replace(mask, data=mask.data.copy())
        self.history = History()
        for entry in journal.entries:
            self._take(entry)

    @classmethod
    def create(
        cls,
        folder: Path,
        mask: Mask,
        *,
        provenance: Mapping[str, Any] | None = None,  # Any: plain JSON values
    ) -> Case:
        """Make the folder with `mask` as the start.

        Parameters
        ----------
        folder : Path
            Must not exist yet.
        mask : Mask
            Ids and labels before the first step.
        provenance : mapping, optional
            JSON-ready facts to keep, such as hashes of inputs and the model; no patient's name.

        Raises
        ------
        StorageError
            If the folder exists or cannot be written.
        """
        about = {
            "version": _VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "shape": list(mask.geometry.shape),
            "affine": mask.geometry.affine.tolist(),
            "unit": mask.geometry.unit,
            "labels": mask.labels.to_rows(),
            "provenance": dict(provenance or {}),
        }
        try:
            _make(folder, mask, json.dumps(about, indent=1).encode())
        except OSError as error:
            msg = (
                f"expected to make the case folder {folder}, got {error.strerror or error}; "
                f"open the case there or choose another folder"
            )
            raise StorageError(msg) from error
        return cls(folder, mask, Journal(folder / "journal"), about["provenance"])

    @classmethod
    def open(cls, folder: Path) -> Case:
        """Open a case folder and replay its journal.

        Raises
        ------
        MissingFileError
            If there is no case.
        FormatError
            If its files are damaged.
        """
        about_file = folder / "case.json"
        if not about_file.is_file():
            msg = (
                f"expected a case folder with case.json at {folder}, got none; open the image "
                "instead"
            )
            raise MissingFileError(msg)
        try:
            about = json.loads(about_file.read_bytes())
            geometry = Geometry(tuple(about["shape"]), np.array(about["affine"]), about["unit"])
            data = np.load(folder / "start.npy", allow_pickle=False)
            labels = LabelTable.from_rows(about["labels"])
            mask = Mask(data, geometry, labels)
            provenance = about["provenance"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = (
                f"expected the files of a case in {folder.name}, got {error}; restore them from a "
                "backup"
            )
            raise FormatError(msg) from error
        return cls(folder, mask, Journal(folder / "journal"), provenance)

    @property
    def mask(self) -> Mask:
        """The mask now; its array is the live one and changes with each step."""
        return self._mask

    @property
    def dropped(self) -> str:
        """What the journal lost at opening, in words; empty if nothing."""
        return self._journal.dropped

    def apply(self, edit: Edit) -> Box:
        """Apply a step, keep it on disk, return the changed box."""
        self._require_room(edit)
        edit.apply(self._mask.data)
        try:
            self._journal.append(edit)
        except StorageError:
            edit.revert(self._mask.data)
            raise
        self.history.push(edit)
        self._mask = replace(self._mask, labels=edit.table_after(self._mask.labels))
        return edit.box

    def undo(self) -> Edit | None:
        """Revert the last step; return it, or None if there is none."""
        return self._walk("undo") if self.history.can_undo else None

    def redo(self) -> Edit | None:
        """Apply the next undone step; return it, or None if there is none."""
        return self._walk("redo") if self.history.can_redo else None

    def close(self) -> None:
        """Let go of the folder; every step is already on disk."""
        self._journal.close()

    def __enter__(self) -> Case:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _walk(self, word: Any) -> Edit | None:  # Any: "undo" or "redo"
        self._journal.append(word)
        return self._take(word)

    def _take(self, entry: Edit | str) -> Edit | None:
        """Take one step in memory."""
        if isinstance(entry, Edit):
            self._require_room(entry)
            self.history.apply(entry, self._mask.data)
            table = entry.table_after(self._mask.labels)
            self._mask = replace(self._mask, labels=table)
            return entry
        data, labels = self._mask.data, self._mask.labels
        edit = self.history.undo(data) if entry == "undo" else self.history.redo(data)
        if edit is not None:
            table = edit.table_before(labels) if entry == "undo" else edit.table_after(labels)
            self._mask = replace(self._mask, labels=table)
        return edit

    def _require_room(self, edit: Edit) -> None:
        """Widen the ids where the step needs it; the array is then a new one."""
        data = self._mask.data
        wanted = np.promote_types(data.dtype, np.dtype(edit.dtype).newbyteorder("="))
        if edit.voxels and wanted != data.dtype:
            self._mask = replace(self._mask, data=data.astype(wanted))


def _make(folder: Path, mask: Mask, about: bytes) -> None:
    """Fill a folder beside the wanted one, then rename it: no half case is ever found."""
    if folder.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # mode 0700
    try:
        with _private(made / "start.npy") as file:
            np.save(file, mask.data, allow_pickle=False)
        with _private(made / "case.json") as file:
            file.write(about)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
