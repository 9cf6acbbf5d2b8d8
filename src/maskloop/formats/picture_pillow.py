"""Pictures opened with Pillow: damage is told in our words."""

from __future__ import annotations

import struct
import warnings
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, InputError
from maskloop.formats.picture_claims import require_possible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def opened(path: Path) -> Iterator[Any]:  # Any: Pillow's class is imported on demand
    """Open a picture; large ones are welcome, damaged ones are told as such."""
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # damaged EXIF: it places no pixel
        try:
            with PIL.Image.open(path) as picture:
                yield picture
        except PIL.Image.DecompressionBombError as error:
            msg = (
                f"expected a picture of at most 179 million pixels, got {path.name} ({error}); "
                "save it as TIFF"
            )
            raise FormatError(msg) from error
        except MemoryError as error:
            msg = f"expected a picture that fits in memory, got {path.name}; cut or shrink it first"
            raise FormatError(msg) from error
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
            if isinstance(error, (FormatError, InputError)) or getattr(error, "errno", None):
                raise
            msg = (
                f"expected a whole PNG, JPEG or TIFF, got {path.name}: {error}; copy the file "
                "again or convert it"
            )
            raise FormatError(msg) from error


def pages_of(path: Path) -> npt.NDArray[Any]:
    """Return a picture's pages as (y, x [, c]), or (page, y, x [, c]) where there are several."""
    with opened(path) as picture:
        pages = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            require_possible(picture, path)
            pages.append(np.array(picture))
    return pages[0] if len(pages) == 1 else np.stack(pages)
