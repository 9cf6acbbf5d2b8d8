"""A second NRRD reader, to prove what the writer wrote: pynrrd, and the axes by the standard.

References
----------
.. [1] G. Kindlmann, "Definition of NRRD File Format", Teem 1.11: space, kinds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import VerificationError
from maskloop.core.geometry import Geometry
from maskloop.formats.base import Evidence

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> Evidence:
    """Return numbers as ([t,] z, y, x [, c]), the grid in RAS+ mm and the names of segments."""
    import nrrd

    with path.open("rb") as stream:
        # pynrrd itself drops letters beyond ASCII from a header; as text it keeps them.
        lines = []
        while (line := stream.readline()).strip():
            lines.append(line.decode())
        try:
            header = nrrd.read_header([*lines, "\n"])
            data = nrrd.read_data(header, stream, str(path), index_order="C")
        except nrrd.errors.NRRDError as error:
            msg = f"expected {path.name} to read back as NRRD, got {error}; the old file was kept"
            raise VerificationError(msg) from error
    data = data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))
    return Evidence(data, _grid(header), _names(header))


def _grid(header: Any) -> Geometry | None:  # Any: pynrrd is untyped
    if header.get("space") != "left-posterior-superior":
        return None
    rows = np.asarray(header["space directions"], dtype=np.float64)
    kept = ~np.isnan(rows).any(axis=1)
    fastest_first, sizes = rows[kept], np.asarray(header["sizes"])[kept]
    if len(sizes) == 2:
        across = np.cross(*fastest_first)
        fastest_first = np.vstack([fastest_first, across / np.linalg.norm(across)])
        sizes = np.append(sizes, 1)
    affine = np.eye(4)
    affine[:3, :3] = fastest_first[::-1].T
    affine[:3, 3] = header["space origin"]
    affine[:2] *= -1
    return Geometry(tuple(int(n) for n in sizes[::-1]), affine, "mm")


def _names(header: Any) -> dict[int, str] | None:  # Any: pynrrd is untyped
    numbers = [key[7:-11] for key in header if re.fullmatch(r"Segment\d+_LabelValue", key)]
    return {
        int(header[f"Segment{n}_LabelValue"]): re.sub(
            r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), header[f"Segment{n}_Name"]
        )
        for n in numbers
    }
