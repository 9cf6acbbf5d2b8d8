"""A COCO file written image by image: no more than one image's annotations are in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BufferedWriter
    from pathlib import Path
    from types import TracebackType

_Entry = Mapping[str, Any]  # Any: plain JSON values


class CocoStream:
    """Write annotations as they come, and the entries of images and categories behind them.

    Parameters
    ----------
    path : Path
        The file, written anew.
    head : mapping
        What stands first: ``info``, ``licenses`` and further keys.
    """

    def __init__(self, path: Path, head: _Entry) -> None:
        self._stream: BufferedWriter = path.open("wb")
        self._images: list[bytes] = []
        self._has_annotations = False
        text = _dumps(dict(head))[1:-1]
        self._stream.write(b"{" + text + (b"," if text else b"") + b'"annotations":[')

    def add(self, image: _Entry, annotations: Sequence[_Entry]) -> None:
        """Write the annotations of one image, and keep its entry for the end."""
        self._images.append(_dumps(dict(image)))
        if annotations:
            if self._has_annotations:
                self._stream.write(b",")
            self._stream.write(_dumps(list(annotations))[1:-1])
            self._has_annotations = True

    def finish(self, categories: Sequence[_Entry]) -> None:
        """Write the entries of images and categories, and close the file."""
        self._stream.write(b'],"images":[' + b",".join(self._images))
        self._stream.write(b'],"categories":' + _dumps(list(categories)) + b"}\n")
        self._stream.close()

    def __enter__(self) -> CocoStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, as far as it came."""
        self._stream.close()


def _dumps(value: object) -> bytes:
    import orjson

    return orjson.dumps(value)
