"""Inflate a gzip member straight into an array; libdeflate's own call, where it can be reached."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

_SUCCESS = 0
_LARGE = 1 << 22  # from here on numpy asks for large pages


def read_bytes(path: Path) -> npt.NDArray[np.uint8]:
    """Return a whole file in an array that may be written to.

    A memory map would save this copy, but a file cut short meanwhile then kills the process.
    """
    with path.open("rb", buffering=0) as stream:
        content = _fresh(path.stat().st_size)
        view, filled = content.data, 0
        while filled < len(content) and (count := stream.readinto(view[filled:])):
            filled += count
        rest = stream.read()  # a file that grows meanwhile, or one without a size
    content = content[:filled]
    return np.concatenate((content, np.frombuffer(rest, np.uint8))) if rest else content


def gunzip(packed: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8] | None:
    """Return the first gzip member in `packed` if it holds exactly `size` bytes, else None.

    Its checksum is checked. The caller vouches for `size`: that much is allocated.
    """
    library = _library()
    if library is None:
        return _portable(packed, size)
    content = _fresh(size)
    decompressor = library.libdeflate_alloc_decompressor()
    if not decompressor:
        raise MemoryError
    try:
        answer = library.libdeflate_gzip_decompress(
            decompressor, packed.ctypes.data, packed.size, content.ctypes.data, size, None
        )
    finally:
        library.libdeflate_free_decompressor(decompressor)
    return content if answer == _SUCCESS else None


def _fresh(size: int) -> npt.NDArray[np.uint8]:
    """Return memory in small pages, which numpy would ask for in large ones.

    Large pages are four times cheaper while they lie ready, but virtual machines hand free ones
    back to their host after seconds: 157 MB then cost 0.6 s of CPU time instead of 0.1 (measured).
    """
    if size < _LARGE or not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.empty(size, np.uint8)
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError from error
    return np.frombuffer(pages, np.uint8)


def _portable(packed: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8] | None:
    import deflate

    try:
        content = deflate.gzip_decompress(packed, size)
    except deflate.DeflateError:
        return None
    return np.frombuffer(content, np.uint8) if len(content) == size else None


@cache
def _library() -> Any:  # Any: functions found at run time
    """Return libdeflate as the `deflate` package carries it, or None where it hides its names.

    The package's own call chooses the memory itself. Windows hides the names.
    """
    import deflate

    try:
        library = ctypes.CDLL(deflate._deflate.__file__)
        create = library.libdeflate_alloc_decompressor
        inflate = library.libdeflate_gzip_decompress
        free = library.libdeflate_free_decompressor
    except (OSError, AttributeError, TypeError):
        return None
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    create.argtypes, create.restype = [], pointer
    inflate.argtypes = [pointer, pointer, size, pointer, size, pointer]
    inflate.restype = ctypes.c_int
    free.argtypes, free.restype = [pointer], None
    return library
