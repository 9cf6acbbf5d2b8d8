"""The JSON file that lists, image by image, what a model nearly drew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError
from maskloop.formats.swap import Swap
from maskloop.ops.candidates import Sieve

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.review import Candidate
    from maskloop.formats.verify import Receipt


@dataclass(slots=True)
class Worklists:
    """One row an image, good as long as the mask beside it is the same.

    Parameters
    ----------
    path : Path
        The file.
    model : str
        Name of the model's card.
    low : float
        Probability from which a voxel is listed.
    rows : dict
        Mask's file name -> row.
    """

    path: Path
    model: str
    low: float
    rows: dict[str, dict[str, Any]]  # Any: plain JSON values

    @classmethod
    def of(cls, path: Path, model: str, low: float) -> Worklists:
        """Return the file's rows; none where it is new, of another model or threshold.

        Raises
        ------
        InputError
            If the path holds something else, or the threshold is out of range.
        """
        Sieve(low)
        if path.is_dir():
            msg = f"expected a file for the candidates, got the folder {str(path)!r}; add a name"
            raise InputError(msg)
        if not path.parent.is_dir():
            msg = f"expected an existing folder to write {path.name!r} in, got none; make it first"
            raise InputError(msg)
        if not path.exists():
            return cls(path, model, low, {})
        try:
            found = json.loads(path.read_bytes())
            rows = {str(row["mask"]): dict(row) for row in found["images"]}
            is_same = (found["model"], found["low"]) == (model, low)
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = (
                f"expected {str(path)!r} to be free or a list of candidates, got another file; "
                "choose another name"
            )
            raise InputError(msg) from error
        return cls(path, model, low, rows if is_same else {})

    def knows(self, receipt: Receipt) -> bool:
        """Return whether the file lists the candidates beside this very mask."""
        name = receipt.path.name
        row = self.rows.get(name)
        return row is not None and row.get("mask_sha256") == receipt.sha256.get(name)

    def put(
        self, image: Path, receipt: Receipt | None, candidates: tuple[Candidate, ...] | None
    ) -> None:
        """Add the row of one image and replace the file.

        Raises
        ------
        StorageError
            If the disk refuses; the file is what it was.
        """
        if receipt is None:
            return
        name = receipt.path.name
        self.rows[name] = {
            # A folder is often called after a patient.
            "image": image.name if image.is_file() else "a folder",
            "mask": name,
            "mask_sha256": receipt.sha256[name],
            "candidates": None if candidates is None else [one.to_json() for one in candidates],
        }
        found = {"model": self.model, "low": self.low, "images": list(self.rows.values())}
        with Swap(self.path, ".json") as swap:
            swap.file(self.path).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            swap.commit()
