"""A whole file, or the first gzip member in it, as an array of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path


def read_bytes(path: Path) -> npt.NDArray[np.uint8]:
    """Return a whole file in an array that may be written to.

    A memory map would save this copy, but a file cut short meanwhile then kills the process.
    """
    with path.open("rb", buffering=0) as stream:
        # Not an empty array: numpy asks for large pages, whose first use cost a virtual machine
        # more than inflating a CT into them (benchmarks/bench_nifti.py).
        content = bytearray(path.stat().st_size)
        view, filled = memoryview(content), 0
        while filled < len(content) and (count := stream.readinto(view[filled:])):
            filled += count
        rest = stream.read()  # a file that grows meanwhile, or one without a size
    found = np.frombuffer(content, np.uint8)[:filled]
    return np.concatenate((found, np.frombuffer(rest, np.uint8))) if rest else found


def gunzip(packed: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8] | None:
    """Return the first gzip member in `packed` if it holds exactly `size` bytes, else None.

    Its checksum is checked. The caller vouches for `size`: that much is allocated.
    """
    import deflate

    try:
        content = deflate.gzip_decompress(packed, size)
    except deflate.DeflateError:
        return None
    return np.frombuffer(content, np.uint8) if len(content) == size else None
