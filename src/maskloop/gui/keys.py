"""The keys of the picture: few, and none of napari's, whatever layer is active."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from maskloop.gui import dataset_keys, walk

BRUSH_STEP_MM = 1.0
CLASSES = 9

# The digits alone are napari's (1 to 7 choose the mode of a Labels layer), so Ctrl goes with them.
KEYS = {
    "Ctrl-Z": "undo the last step on this image, in whichever layer it was",
    "Ctrl-Shift-Z": "do it again",
    "Ctrl-1 ... Ctrl-9": "paint with the first ... ninth class of the table",
    "S": "switch between a disc and a ball as the brush",
    "Q": "make the brush narrower by 1 mm",
    "W": "make the brush wider by 1 mm",
    "R": "repeat the last tool on the label selected now",
    **walk.KEYS,
    **dataset_keys.KEYS,
}


class Correcting(Protocol):
    """What the keys act on: the section Correct."""

    brush: Any  # Any: a BrushBar; its type would import the section
    table: Any  # Any: a LabelTableView
    toolbox: Any  # Any: a ToolBox

    def step(self, word: str) -> None:
        """Undo or redo."""


class Keys:
    """Binds the keys to a viewer.

    Parameters
    ----------
    viewer : napari.Viewer
    section : CorrectSection
    """

    def __init__(self, viewer: Any, section: Correcting) -> None:  # Any: napari is untyped
        self._viewer = viewer
        acts: dict[str, Callable[[], object]] = {
            "Control-Z": lambda: section.step("undo"),
            "Control-Shift-Z": lambda: section.step("redo"),
            "S": lambda: section.brush.sphere.toggle(),
            "Q": lambda: section.brush.widen(-BRUSH_STEP_MM),
            "W": lambda: section.brush.widen(BRUSH_STEP_MM),
            "R": lambda: section.toolbox.repeat(),
        }
        for number in range(CLASSES):
            acts[f"Control-{number + 1}"] = lambda n=number: section.table.choose_row(n)  # type: ignore[misc]  # mypy cannot tell a default
        self.bound = tuple(acts)
        for key, act in acts.items():
            viewer.bind_key(key, lambda _, act=act: _do(act), overwrite=True)

    def release(self) -> None:
        """Give the keys back."""
        for key in self.bound:
            self._viewer.bind_key(key, None, overwrite=True)


def _do(act: Callable[[], object]) -> None:
    act()  # napari takes what a key returns for a generator
