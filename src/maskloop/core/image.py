"""Pixels and where they lie."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.geometry import Geometry


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A picture or a volume.

    Parameters
    ----------
    data : array
        ``([t,] z, y, x[, channel])`` or ``([t,] y, x[, channel])``, any real dtype: the axes of
        `geometry` together, a time axis first, channels last.
    geometry : Geometry
        The grid of the spatial axes.
    source : Path, optional
        File or folder it came from.
    header : Any
        Opaque; for the format that read it, so that it can write back what it does not understand.
    has_time, has_channels : bool
        Which axes stand beside the spatial ones.
    title : str
        Words for layers, messages and receipts where the source's own name must not be shown, such
        as ``"CT series 4"`` for a folder that may be called after a patient.
    """

    data: npt.NDArray[Any]
    geometry: Geometry
    source: Path | None = None
    header: Any = field(default=None, repr=False)  # Any: opaque to all but its own format
    has_time: bool = False
    has_channels: bool = False
    title: str = ""

    def __post_init__(self) -> None:
        spatial = self.data.shape[int(self.has_time) : self.data.ndim - int(self.has_channels)]
        if spatial != self.geometry.shape:
            msg = (
                f"expected pixels of shape {self.geometry.shape}, got {self.data.shape} "
                f"(time axis: {self.has_time}, channels: {self.has_channels}); "
                f"choose a frame or channel"
            )
            raise InputError(msg)

    @property
    def name(self) -> str:
        """The title, else the file name without its suffixes, or ``"image"``."""
        return self.title or (stem_of(self.source) if self.source is not None else "image")

    @property
    def channels(self) -> int:
        """Number of channels; 1 where there is no channel axis."""
        return int(self.data.shape[-1]) if self.has_channels else 1

    @property
    def frames(self) -> int:
        """Number of time points; 1 where there is no time axis."""
        return int(self.data.shape[0]) if self.has_time else 1

    def frame(self, number: int) -> Image:
        """Return one time point as an image without a time axis."""
        if not self.has_time:
            return self
        if not 0 <= number < self.frames:
            msg = f"expected a frame from 0 to {self.frames - 1}, got {number!r}; choose another"
            raise InputError(msg)
        return replace(self, data=self.data[number], has_time=False)

    def channel(self, number: int) -> Image:
        """Return one channel as an image without a channel axis."""
        if not self.has_channels:
            return self
        if not 0 <= number < self.channels:
            msg = f"expected a channel from 0 to {self.channels - 1}, got {number!r}; choose one"
            raise InputError(msg)
        return replace(self, data=self.data[..., number], has_channels=False)


def stem_of(path: Path) -> str:
    """Return the name of a file without its suffixes; ``.nii.gz`` counts as one.

    Examples
    --------
    >>> from pathlib import Path
    >>> stem_of(Path("scans/case.01.nii.gz"))
    'case.01'
    """
    name = path.name
    for double in (".nii.gz", ".seg.nrrd", ".seg.dcm", ".rtstruct.dcm", ".ome.tif", ".ome.tiff"):
        if name.lower().endswith(double):
            return name[: -len(double)]
    return name if path.is_dir() else path.stem


def smallest_unsigned(highest: int) -> np.dtype[Any]:  # Any: the width is chosen at run time
    """Return the narrowest unsigned dtype that holds `highest`."""
    return np.min_scalar_type(max(int(highest), 0))
