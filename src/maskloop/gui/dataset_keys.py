"""Keys in the picture for the list of a dataset: on, back, done, flagged; each saves on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

KEYS = {
    "K": "save, and open the next image of the dataset",
    "Shift-K": "save, and open the image before",
    "U": "save, and open the next image that nobody has seen",
    "J": "call the image done, save, and open the next one that nobody has seen",
    "Shift-J": "flag the image, or take the flag back",
}


class Walked(Protocol):
    """A list of images to go through."""

    def step(self, by: int) -> None:
        """Open the next image, or the one before."""

    def step_unseen(self) -> None:
        """Open the next image that nobody has seen."""

    def finish(self) -> None:
        """Call the image done and go on."""

    def toggle_flag(self) -> None:
        """Flag the image, or take the flag back."""


class ListKeys:
    """Binds the keys to a viewer.

    Parameters
    ----------
    viewer : napari.Viewer
    walked : Walked
    """

    def __init__(self, viewer: Any, walked: Walked) -> None:  # Any: napari is untyped
        self._viewer = viewer
        acts: dict[str, Callable[[], None]] = {
            "K": lambda: walked.step(1),
            "Shift-K": lambda: walked.step(-1),
            "U": walked.step_unseen,
            "J": walked.finish,
            "Shift-J": walked.toggle_flag,
        }
        for key, act in acts.items():
            viewer.bind_key(key, lambda _, act=act: _do(act), overwrite=True)

    def release(self) -> None:
        """Give the keys back."""
        for key in KEYS:
            self._viewer.bind_key(key, None, overwrite=True)


def _do(act: Callable[[], None]) -> None:
    act()  # napari takes what a key returns for a generator
