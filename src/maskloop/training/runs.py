"""The folder of one training: manifest, prepared volumes, checkpoints, scores on the way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

JSON = Any  # Any: plain JSON values


@dataclass(frozen=True, slots=True)
class Run:
    """A training that can be gone on with.

    Parameters
    ----------
    folder : Path
        Readable by its owner only: it holds pictures of patients.
    key : str
        sha256 of everything that decides the result.
    """

    folder: Path
    key: str

    @classmethod
    def open(cls, folder: Path, manifest: Mapping[str, JSON], *, overwrite: bool) -> Run:
        """Open the run in `folder`, or begin one.

        Raises
        ------
        InputError
            If another training (other cases, base, seed or steps) was begun there, unless
            `overwrite`.
        StorageError
            If the disk refuses.
        """
        run = cls(folder, key_of(manifest))
        begun = folder / "manifest.json"
        if begun.is_file():
            known = json.loads(begun.read_text(encoding="utf-8"))
            if key_of(known) == run.key:
                return run
            if not overwrite:
                both = sorted({*manifest, *known})
                changed = ", ".join(k for k in both if known.get(k) != manifest.get(k))
                msg = (
                    f"expected to go on with the training in {folder}, got another one: not the "
                    f"same {changed}; choose another name, or delete that folder"
                )
                raise InputError(msg)
            shutil.rmtree(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            run.write("manifest.json", manifest)
        except OSError as error:
            msg = (
                f"expected to begin a training in {folder}, but the disk refused: {error}; "
                f"free space or set MASKLOOP_HOME"
            )
            raise StorageError(msg) from error
        return run

    def read(self, name: str) -> JSON | None:
        """Return what `write` kept under `name`, or None."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write(self, name: str, value: JSON) -> None:
        """Keep JSON under a file name; complete or not at all."""
        part = self.folder / f".{name}.part"
        with part.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(self.folder / name)

    @property
    def has_steps(self) -> bool:
        """Whether it holds a checkpoint to go on from."""
        return any(self.folder.glob("step_*"))

    def remove(self) -> None:
        """Delete the run: its volumes are copies of patients' pictures."""
        shutil.rmtree(self.folder, ignore_errors=True)


def key_of(manifest: Mapping[str, JSON]) -> str:
    """Return a sha256 that two manifests share only if they are equal."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
