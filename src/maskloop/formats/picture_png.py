"""The bytes of a PNG file: one pass, no filters, and a palette that belongs to the ids.

References
----------
.. [1] "Portable Network Graphics (PNG) Specification", W3C, third edition: section 5 (signature,
   chunks), 11.2 (IHDR, PLTE, IDAT, IEND).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def packed(data: npt.NDArray[Any], palette: bytes) -> bytes:
    """Return the bytes of a PNG: 8-bit RGB(A), gray or palette numbers, or 16-bit gray."""
    from isal import isal_zlib

    height, width = data.shape[:2]
    is_small = data.dtype.itemsize == 1
    values = data if is_small else data.astype(">u2")
    values = np.ascontiguousarray(values).view(np.uint8).reshape(height, -1)
    rows = np.zeros((height, values.shape[1] + 1), np.uint8)  # each row starts with filter 0
    rows[:, 1:] = values
    colours = {3: 2, 4: 6}[data.shape[2]] if data.ndim == 3 else 3 if palette else 0
    head = struct.pack(">IIBBBBB", width, height, 8 if is_small else 16, colours, 0, 0, 0)
    listed = _chunk(b"PLTE", palette) if palette else b""
    body = _chunk(b"IDAT", isal_zlib.compress(rows.data, 2))
    return SIGNATURE + _chunk(b"IHDR", head) + listed + body + _chunk(b"IEND", b"")


def depth_of(path: Path) -> tuple[int, int]:
    """Return a PNG's bits a sample and colour type; (0, 0) for other files."""
    with path.open("rb") as stream:
        head = stream.read(26)
    return (head[24], head[25]) if head.startswith(SIGNATURE) and len(head) == 26 else (0, 0)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )
