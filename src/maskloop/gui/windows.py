"""Windows for looking at CT, in Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Window:
    """A range of Hounsfield units to show.

    Parameters
    ----------
    name : str
        Shown on its button.
    centre, width : float
        In HU.
    """

    name: str
    centre: float
    width: float

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest HU shown."""
        return self.centre - self.width / 2, self.centre + self.width / 2


SOFT_TISSUE = Window("Soft tissue", 40, 400)
WINDOWS = (
    Window("Liver", 80, 160),
    SOFT_TISSUE,
    Window("Lung", -600, 1500),
    Window("Bone", 500, 2000),
    Window("Brain", 40, 80),
)


def looks_like_ct(sample: npt.NDArray[Any]) -> bool:  # Any: pixel types are chosen at run time
    """Whether values look like Hounsfield units: air well below -500, bodies not far above 4000."""
    if sample.size == 0 or sample.dtype.kind not in "if":
        return False
    low, high = float(np.min(sample)), float(np.max(sample))
    return -8200 <= low <= -500 and 0 < high <= 32767
