"""Keys in the picture for the list walked last: objects, candidates, or differences."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

# None of napari's own, whatever layer is active: P paints on a Labels layer, so Shift+N goes back.
KEYS = {
    "N": "go to the next object, candidate or difference",
    "Shift-N": "go to the one before",
    "A": "accept it",
    "D": "reject the object, or dismiss the candidate",
}


class Walked(Protocol):
    """A list of places to go to, one at a time, and to decide on."""

    def step(self, by: int) -> None:
        """Go to the next one, or the one before."""

    def accept_current(self) -> None:
        """Accept the one shown."""

    def drop_current(self) -> None:
        """Reject or dismiss the one shown."""


class Walk:
    """Binds the keys to a viewer.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Any) -> None:  # Any: napari is untyped
        self._viewer = viewer
        self._list: weakref.ref[Walked] | None = None
        acts = {
            "N": lambda walked: walked.step(1),
            "Shift-N": lambda walked: walked.step(-1),
            "A": lambda walked: walked.accept_current(),
            "D": lambda walked: walked.drop_current(),
        }
        for key, act in acts.items():
            viewer.bind_key(key, lambda _, act=act: self._do(act), overwrite=True)

    def take(self, walked: Walked) -> None:
        """Let the keys mean this list from now on."""
        self._list = weakref.ref(walked)

    def release(self) -> None:
        """Give the keys back."""
        for key in KEYS:
            self._viewer.bind_key(key, None, overwrite=True)

    def _do(self, act: Any) -> None:  # Any: one of ours
        walked = self._list() if self._list is not None else None
        if walked is not None:
            act(walked)
