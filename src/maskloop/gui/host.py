"""What the sections share: the viewer, one running task with its Stop, and a line for words."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from maskloop.core.job import Job, Progress
from maskloop.gui.choices import LayerChoice, is_alive
from maskloop.gui.editing import Editors
from maskloop.gui.keeping import Keeping
from maskloop.gui.readout import Readout
from maskloop.gui.runner import Run
from maskloop.gui.section import tipped, words
from maskloop.gui.tips import TIPS
from maskloop.gui.walk import Walk

PLUGIN = "napari-maskloop"
_TWO_LINES = "\n"  # at any time: the panel must not jump while the mouse moves
_COLOURS = {"error": "#ff8a80", "warning": "#ffcf66", "good": "#7ee2a8"}


class Host(QWidget):
    """The foot of the panel: what lies under the mouse, words, progress, Stop; and the layers.

    Two layers are meant by all sections: the image and the labels.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    image, labels : LayerChoice
        Placed by the sections Predict and Correct.
    editors : Editors
        The case behind each Labels layer.
    keeping : Keeping
        Where on disk the cases are.

    Signals
    -------
    busy(bool), models_changed(), reviewed()
    """

    busy = Signal(bool)
    models_changed = Signal()
    reviewed = Signal()

    def __init__(self, viewer: Any) -> None:  # Any: napari is untyped
        super().__init__()
        self.viewer = viewer
        self.run: Run | None = None
        self.image = tipped(LayerChoice(viewer, "Image", "no image yet"), TIPS["image"])
        self.labels = tipped(LayerChoice(viewer, "Labels", "no labels yet"), TIPS["labels"])
        self.said = ("", "")  # what `say` showed last
        self.message = words("Open an image, or drop one on the window.")
        self.under_mouse = tipped(words(_TWO_LINES), TIPS["cursor"])
        self.under_mouse.setWordWrap(False)
        self.walk = Walk(viewer)
        self.editors = Editors(viewer, self._say_if_alive, lambda: str(setting("author", "")))
        self.keeping = Keeping(self.editors, setting, lambda: self.is_busy)
        # A window that is closed with the program does not always tell its docks.
        atexit.register(self.keeping.close)
        self._readout = Readout(viewer)
        viewer.cursor.events.position.connect(self._read)
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.stop_button = QPushButton("Stop")
        self.stop_button.setToolTip(TIPS["stop"])
        self.stop_button.clicked.connect(self.stop)
        self._moving = QWidget()
        row = QHBoxLayout(self._moving)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.bar, 1)
        row.addWidget(self.stop_button)
        self._moving.hide()
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 4, 8, 6)
        column.addWidget(self.under_mouse)
        column.addWidget(self.message)
        column.addWidget(self._moving)

    @property
    def is_busy(self) -> bool:
        """Whether a task is running."""
        return self.run is not None

    def say(self, text: str, kind: str = "") -> None:
        """Show a sentence; `kind` is ``"error"``, ``"warning"``, ``"good"`` or empty."""
        self.said = (text, kind)
        self.message.setText(text)
        colour = f"color: {_COLOURS[kind]};" if kind else ""
        self.message.setStyleSheet(f"{colour} background: transparent;")

    def _say_if_alive(self, text: str, kind: str = "") -> None:
        if is_alive(self.message):  # cases are closed after the panel has gone
            self.say(text, kind)

    def start(
        self,
        work: Callable[[Job], object],
        title: str,
        done: Callable[[Any], None],  # Any: what the work returns
        moved: Callable[[Progress], None] | None = None,
    ) -> Run | None:
        """Run `work` beside the window and `done` in it; None where something runs already."""
        if self.is_busy:
            self.say("Something is running; stop it or wait.", "warning")
            return None
        run = Run(work, title, self)
        run.moved.connect(self._move)
        if moved is not None:
            run.moved.connect(moved)
        run.said.connect(lambda note: self.say(note))
        run.done.connect(lambda value: self._finish(done, value))
        run.failed.connect(lambda words: self.say(words, "error"))
        run.stopped.connect(lambda: self.say(f"{title}: stopped; nothing was changed."))
        run.ended.connect(self._end)
        self.run = run
        self.bar.setRange(0, 0)
        self.bar.setFormat(title)
        self.stop_button.setEnabled(True)
        self._moving.show()
        self.say(f"{title} ...")
        self.busy.emit(True)
        run.start()
        return run

    def stop(self) -> None:
        """Ask the running task to stop."""
        if self.run is not None:
            self.stop_button.setEnabled(False)
            self.say("Stopping ...")
            self.run.stop()

    def release(self) -> None:
        """Stop the running task and stop listening to the viewer."""
        if self.run is not None:
            self.run.stop()
        self.viewer.cursor.events.position.disconnect(self._read)
        self.walk.release()
        self.keeping.close()
        atexit.unregister(self.keeping.close)
        self.image.release()
        self.labels.release()

    def _read(self, event: Any = None) -> None:  # Any: napari events are untyped
        position = self.viewer.cursor.position
        text = self._readout.text(position, self.image.layer, self.labels.layer)
        self.under_mouse.setText(text if "\n" in text else f"\n{text}")

    def _move(self, progress: Progress) -> None:
        self.bar.setRange(0, progress.total)
        self.bar.setValue(min(progress.done, progress.total))
        count = f" {progress.done}/{progress.total}" if progress.total else ""
        self.bar.setFormat(f"{progress.stage}{count}")

    def _finish(self, done: Callable[[Any], None], value: Any) -> None:
        try:
            done(value)
        except Exception as error:
            self.say(f"{type(error).__name__}: {error}", "error")
            raise

    def _end(self) -> None:
        run, self.run = self.run, None
        self._moving.hide()
        self.busy.emit(False)
        if run is not None:
            run.deleteLater()


def setting(name: str, default: Any) -> Any:  # Any: text or bool
    """Return what the person chose in napari's preferences, or the default."""
    from napari.settings import get_plugin_settings

    try:
        return getattr(get_plugin_settings(PLUGIN).maskloop, name)
    except (KeyError, AttributeError):
        return default


def set_setting(name: str, value: str | bool) -> None:
    """Change what napari's preferences hold for us; kept for the next start."""
    from napari.settings import get_plugin_settings

    setattr(get_plugin_settings(PLUGIN).maskloop, name, value)
