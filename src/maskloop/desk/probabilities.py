"""The files that keep how likely every class is at every voxel, beside the masks."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import InputError
from maskloop.formats.swap import Swap

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.mask import Mask
    from maskloop.formats.verify import Receipt

SUFFIX = ".npz"


@dataclass(frozen=True, slots=True)
class ProbabilityFiles:
    """Where probabilities go: one ``.npz`` a mask, good as long as that mask is the same.

    A file holds ``probabilities`` (float32, ``(1 + labels, z, y, x)`` or ``(1 + labels, y, x)``:
    background, then the labels in order of id), ``ids`` (the label id of each), ``affine`` (array
    index z, y, x to world) and ``about`` (JSON: names of the labels, the mask's file and hash).

    Parameters
    ----------
    path : Path
        A file, or a folder.
    is_folder : bool
    """

    path: Path
    is_folder: bool

    @classmethod
    def of(cls, path: Path, images: int) -> ProbabilityFiles:
        """Return where those of so many images go; a folder is made if need be.

        Raises
        ------
        InputError
            If a file is named for several images, or the place holds something else.
        """
        is_file = path.suffix.lower() == SUFFIX and not path.is_dir()
        if is_file and images > 1:
            msg = (
                f"expected a folder for the probabilities of {images} images, got the file name "
                f"{str(path)!r}; name a folder"
            )
            raise InputError(msg)
        if is_file:
            if not path.parent.is_dir():
                msg = (
                    f"expected an existing folder to write {path.name!r} in, got none; "
                    f"make it first"
                )
                raise InputError(msg)
            if path.exists() and _about(path) is None:
                msg = (
                    f"expected {str(path)!r} to be free or a file of probabilities, got another "
                    "file; choose another name"
                )
                raise InputError(msg)
            return cls(path, is_folder=False)
        if (path.exists() and not path.is_dir()) or (path.suffix and not path.exists()):
            msg = (
                f"expected a file {SUFFIX} or a folder for the probabilities, got {str(path)!r}; "
                f"choose another name"
            )
            raise InputError(msg)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path, is_folder=True)

    def _place(self, receipt: Receipt) -> Path:
        # With the mask's own suffix: a.png and a.nii.gz are two masks.
        return self.path / f"{receipt.path.name}{SUFFIX}" if self.is_folder else self.path

    def knows(self, receipt: Receipt) -> bool:
        """Return whether the file holds the probabilities of this very mask."""
        found = _about(self._place(receipt))
        return found is not None and found["mask_sha256"] == receipt.sha256.get(receipt.path.name)

    def put(self, receipt: Receipt, mask: Mask, found: npt.NDArray[np.float32]) -> None:
        """Write the probabilities of one mask, whole or not at all.

        Raises
        ------
        StorageError
            If the disk refuses; what was there before stays.
        """
        name, place = receipt.path.name, self._place(receipt)
        about = {
            "labels": {str(i): label for i, label in mask.labels.names.items()},
            "mask": name,
            "mask_sha256": receipt.sha256[name],
        }
        with Swap(place, SUFFIX) as swap:
            np.savez_compressed(
                swap.file(place),
                probabilities=found,
                ids=np.array([0, *mask.labels], np.uint32),
                affine=mask.geometry.affine,
                about=np.array(json.dumps(about)),
            )
            swap.commit()


def _about(path: Path) -> dict[str, Any] | None:  # Any: plain JSON values
    """Return what such a file tells of itself; None where there is none."""
    try:
        with np.load(path, allow_pickle=False) as held:
            found = json.loads(str(held["about"]))
            is_ours = "probabilities" in held and "mask_sha256" in found
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return found if is_ours else None
