"""One case in the window: its layers follow each step, from memory to disk and back."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Qt, Signal

from maskloop.core.case import Case, Step
from maskloop.core.edits import Edit
from maskloop.core.geometry import Box
from maskloop.gui.turns import Slow, Turns

if TYPE_CHECKING:
    from maskloop.gui.layer_editor import LayerEditor

FAR = 20  # steps; a longer walk through the history is made beside the window


class Keeper(QObject):
    """Keeps one case and tells its layers, in the window's thread, what has changed.

    Parameters
    ----------
    source : Path, optional
        The image file; None where the image has none.
    failed : callable
        Takes what an action raised.
    image : napari.layers.Image, optional

    Attributes
    ----------
    case : Case
        In memory at first; later the one on disk, with the same steps.
    editors : dict of str to LayerEditor
        By the name of the mask.
    note : str
        Why the steps are not on disk; empty where they are, or will be.

    Signals
    -------
    changed()
        The history, the tables or the place of the case are others.
    stepped(Step)
        Each step, also those made in another thread.
    troubled(str)
        The disk refused, or works again.
    """

    changed = Signal()
    stepped = Signal(object)
    troubled = Signal(str)
    _arrived = Signal()

    def __init__(
        self, source: Path | None, failed: Callable[[Exception], None], image: Any = None
    ) -> None:  # Any: a napari layer
        super().__init__()
        self.source = source
        self._image = None if image is None else weakref.ref(image)
        self.editors: dict[str, LayerEditor] = {}
        self.note = ""
        self.is_settling = False
        self.turns = Turns(failed)
        self._case: Case | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._news: deque[tuple[Step, bool]] = deque()
        self._shown_already: set[int] = set()
        self._arrived.connect(self.deliver, Qt.ConnectionType.QueuedConnection)

    @property
    def image(self) -> Any:  # Any: a napari layer
        """The image layer; None where there is none, or it is gone."""
        return None if self._image is None else self._image()

    @property
    def is_open(self) -> bool:
        """Whether the case is there already."""
        return self._case is not None

    @property
    def case(self) -> Case:
        """The case; waits for it where it is still being made."""
        if self._case is None and threading.current_thread() is threading.main_thread():
            self.turns.wait()
        if self._case is None:
            msg = "the case was asked for before a layer was opened"
            raise RuntimeError(msg)
        return self._case

    @case.setter
    def case(self, case: Case) -> None:
        self._unsubscribe()
        self._case = case
        case.on_trouble = self.troubled.emit
        self._unsubscribe = case.subscribe(self._hear)
        self.changed.emit()

    @property
    def is_on_disk(self) -> bool:
        """Whether the steps are kept in a folder."""
        return self._case is not None and self._case.folder is not None

    @property
    def has_steps(self) -> bool:
        """Whether anything was ever done here, also what was taken back since."""
        return self._case is not None and bool(len(self._case.history))

    @contextmanager
    def shown_already(self) -> Iterator[None]:
        """Let steps of this thread not be drawn: the layer shows them already."""
        thread = threading.get_ident()
        self._shown_already.add(thread)
        try:
            yield
        finally:
            self._shown_already.discard(thread)

    def _hear(self, step: Step) -> None:
        self._news.append((step, threading.get_ident() not in self._shown_already))
        if threading.current_thread() is not threading.main_thread():
            self._arrived.emit()

    def deliver(self) -> None:
        """Draw the steps made since the last call, and tell of them; in the window's thread."""
        boxes: dict[str, list[Box]] = {}
        tables: set[str] = set()
        steps = []
        while self._news:
            step, must_show = self._news.popleft()
            steps.append(step)
            if must_show and step.edit.voxels:
                boxes.setdefault(step.mask, []).append(step.box)
            if step.edit.rows_before or step.edit.rows_after:
                tables.add(step.mask)
        for name in tables & self.editors.keys():
            self.editors[name].show_table()
        for name in boxes.keys() & self.editors.keys():
            self.editors[name].show(around(boxes[name]))
        for step in steps:
            self.stepped.emit(step)
        if steps:
            self.changed.emit()

    def walk(self, word: str) -> Edit | None:
        """Undo or redo one step; return it."""
        case = self.case
        edit = case.undo() if word == "undo" else case.redo()
        self.deliver()
        return edit

    def go_to(self, position: int, done: Callable[[], None]) -> Slow | None:
        """Undo or redo until `position` steps are applied; an action for `turns`."""
        case = self.case

        def end(_: object) -> None:
            self.deliver()
            done()

        if abs(case.history.position - position) > FAR:
            return Slow(lambda: case.go_to(position), end)
        end(case.go_to(position))
        return None

    def close(self) -> None:
        """Finish what waits, write what is pending, let go of the folder."""
        self.turns.close()
        self.let_go()

    def let_go(self) -> None:
        """Write what is pending and let go of the folder, when no turn is left; in any thread."""
        self._unsubscribe()
        if self._case is not None:
            self._case.close()


def around(boxes: list[Box]) -> Box:
    """Return the box that holds all of these."""
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*boxes, strict=True)
    )
