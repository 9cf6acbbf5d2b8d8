"""Correct: classes, brush, tools, and one history over everything that is done to an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog, QPushButton, QToolButton, QWidget

from maskloop.core.case import Change
from maskloop.core.labels import LabelTable
from maskloop.gui import layers, parents
from maskloop.gui.banner import Banner, Refusal
from maskloop.gui.brush import BrushBar
from maskloop.gui.choices import is_alive
from maskloop.gui.classes import Classes
from maskloop.gui.clicking import ClickBar
from maskloop.gui.editing import source_of
from maskloop.gui.ghost import Ghost
from maskloop.gui.history_view import HistoryView
from maskloop.gui.host import Host, set_setting
from maskloop.gui.keys import Keys
from maskloop.gui.layer_editor import LayerEditor, refusal_of
from maskloop.gui.ondisk import Found
from maskloop.gui.section import Section, beside, tipped, words
from maskloop.gui.tips import TIPS
from maskloop.gui.toolbox import ToolBox

_HISTORY_HIGH = 170
_SOON_MS = 60


class CorrectSection(Section):
    """Everything about the chosen labels layer and the case of its image."""

    def __init__(self, host: Host) -> None:
        super().__init__("Correct")
        self._host = host
        self._refused: tuple[LayerEditor, Change] | None = None
        self.ghost = Ghost(host.viewer)
        self.new = tipped(QPushButton("New"), TIPS["new_labels"])
        self.new.setMaximumWidth(52)
        self.form().addRow("Labels", beside(host.labels, self.new))
        self.banner = tipped(Banner(), TIPS["continue_case"])
        self.reason = words()
        self.reason.setStyleSheet("color: #ffcf66; background: transparent;")
        self.classes = Classes(host)
        self.table = self.classes.table
        self.brush = BrushBar(host)
        self.click = ClickBar(host)
        self.toolbox = ToolBox(host)
        self.refusal = Refusal()
        self.undo = tipped(QPushButton("Undo"), TIPS["undo"])
        self.redo = tipped(QPushButton("Redo"), TIPS["redo"])
        self.show_history = tipped(QToolButton(), TIPS["show_history"])
        self.show_history.setText("History")
        self.show_history.setCheckable(True)
        self.history = tipped(HistoryView(), TIPS["history"])
        self.history.setFixedHeight(_HISTORY_HIGH)
        self.history.hide()
        self.kept = words()
        self.choose_workspace = tipped(QPushButton("Choose a workspace..."), TIPS["workspace"])
        self.choose_workspace.hide()
        self._place(self.banner, self.reason, self.classes)
        self.add(self.undo, self.redo, self.show_history)
        self._place(self.refusal, self.history)
        form = self.form()
        form.addRow("Brush", self.brush)
        form.addRow("Click", self.click)
        self._place(self.toolbox, self.kept, self.choose_workspace)
        self.keys = Keys(host.viewer, self)
        self._check_soon = QTimer(self)  # once for a stroke and all that follows from it
        self._check_soon.setSingleShot(True)
        self._check_soon.setInterval(_SOON_MS)
        self._check_soon.timeout.connect(self._check)
        self._connect()
        self._labels_changed()

    @property
    def editor(self) -> LayerEditor | None:
        """The editor of the chosen layer, or None where it can have none."""
        return self._host.editors.of(self._host.labels.layer)

    def make_labels(self) -> None:
        """Add an empty labels layer on the chosen image."""
        from napari.layers import Layer

        image = self._host.image.layer
        if image is None:
            return
        data = layers.blank_like(image, LabelTable.classes(["label 1"]), f"{image.name}_labels")
        added = self._host.viewer.add_layer(Layer.create(*data))
        self._host.labels.choose(added)

    def step(self, word: str) -> None:
        """Undo or redo the last step of the case of the chosen layer."""
        layer, editor = self._host.labels.layer, self.editor
        if editor is not None:
            editor.undo() if word == "undo" else editor.redo()
        elif layer is not None:
            layer.undo() if word == "undo" else layer.redo()

    def insist(self) -> None:
        """Let the last step change what a person painted, too."""
        if self._refused is not None:
            editor, change = self._refused
            self._forget_refused()
            self._host.editors.insist(editor, change)

    def go_on(self, found: Found) -> None:
        """Open the earlier case of the image, its masks as layers."""
        image = self._image_of(found.source)
        if image is None:
            return
        keeping = self._host.keeping

        def show(opened: Any) -> None:  # Any: a Case and layer data
            shown = keeping.go_on(found, *opened)
            self._host.labels.choose(shown[0])
            case = opened[0]
            told = "; ".join(case.notices) or "as it was left, bit for bit"
            kind = "warning" if case.notices else "good"
            self._host.say(f"{image.name}: {len(case.history):,} steps, {told}.", kind)

        title = f"Opening the corrections of {image.name}"
        self._host.start(lambda job: keeping.open(found, image, job=job), title, show)

    def start_afresh(self, found: Found) -> None:
        """Put the earlier case aside and begin a new one at the next step."""
        try:
            aside = self._host.keeping.start_afresh(found)
        except OSError as error:
            self._host.say(f"The case could not be renamed: {error.strerror}.", "error")
            return
        self._host.say(f"The earlier case is kept as {aside.name}.", "good")

    def ask_workspace(self) -> None:
        """Let the person choose where cases go whose image's folder is no place for them."""
        name = QFileDialog.getExistingDirectory(self, "Choose a workspace for cases")
        if name:
            self.use_workspace(Path(name))

    def use_workspace(self, folder: Path) -> None:
        """Remember a workspace in the preferences and move the cases of this window there."""
        set_setting("workspace", str(folder))
        self._host.keeping.try_again()

    def release(self) -> None:
        """Stop listening to the layer, and give the keys back."""
        self.keys.release()
        self.classes.release()
        self.brush.release()
        self.click.release()
        self.toolbox.release()

    def _place(self, *widgets: QWidget) -> None:
        for widget in widgets:
            self.rows.addWidget(widget)

    def _connect(self) -> None:
        host = self._host
        self.undo.clicked.connect(lambda: self.step("undo"))
        self.redo.clicked.connect(lambda: self.step("redo"))
        self.new.clicked.connect(self.make_labels)
        self.show_history.toggled.connect(self._toggle_history)
        self.history.chosen.connect(self._go_to)
        self.banner.go_on.connect(self.go_on)
        self.banner.start_afresh.connect(self.start_afresh)
        self.choose_workspace.clicked.connect(self.ask_workspace)
        self.refusal.insisted.connect(self.insist)
        self.refusal.dismissed.connect(self._forget_refused)
        host.editors.changed.connect(self._case_changed)
        host.editors.stepped.connect(self._stepped)
        host.editors.refused.connect(self._tell_refused)
        host.keeping.changed.connect(self._check_soon.start)
        host.labels.changed.connect(self._labels_changed)
        host.image.changed.connect(self._image_changed)
        host.busy.connect(self._busy_changed)

    def _busy_changed(self, is_busy: bool) -> None:
        if not is_busy:
            self.classes.refresh()
        self._check()

    def _labels_changed(self) -> None:
        layer = self._host.labels.layer
        others = [layers.bare(x) for x in self._host.viewer.layers]
        if layer is not None:
            parents.adopt(layer, others)
        editor = self.editor  # listens to the layer from now on
        if editor is not None:
            self._host.keeping.look(source_of(layer, parents.image_behind(layer, others)))
            if not editor.is_open and editor.is_barred:
                layer.editable = False
        self.classes.show_layer(layer)
        self._show_history()
        self._check()

    def _image_changed(self) -> None:
        self._host.keeping.look(self._source())
        self._check()

    def _case_changed(self, keeper: object) -> None:
        editor = self.editor
        if editor is not None and editor.is_open and editor.keeper is keeper:
            self._show_history()
        self._check_soon.start()

    def _stepped(self, keeper: object, step: Any) -> None:  # Any: a Step
        self._forget_refused()
        if step.edit.rows_before or step.edit.rows_after:
            self.classes.refresh()

    def _tell_refused(self, editor: LayerEditor, change: Change) -> None:
        if change.refused is None:
            return
        self._refused = (editor, change)
        self.ghost.show(editor, change.refused)
        can_insist = bool(change.refused.by_hand)
        self.refusal.tell(f"{change.refused.words}.", can_insist=can_insist)
        self.open()  # the button to insist is here

    def _forget_refused(self) -> None:
        self._refused = None
        self.ghost.clear()
        self.refusal.hide()

    def _toggle_history(self, is_shown: bool) -> None:
        self.history.setVisible(is_shown)
        self._show_history()

    def _show_history(self) -> None:
        editor = self.editor
        is_open = editor is not None and editor.is_open and editor.keeper.is_open
        case = editor.case if is_open and editor is not None else None
        self.history.show_history(case.history if case is not None else None)
        self.undo.setEnabled(case is None or case.history.can_undo)
        self.redo.setEnabled(case is not None and case.history.can_redo)

    def _go_to(self, position: int) -> None:
        if self.editor is not None:
            self.editor.go_to(position)

    def _source(self) -> Path | None:
        """Return the file of the image that the chosen labels, or else the image, came from."""
        layer = self._host.labels.layer
        others = [layers.bare(x) for x in self._host.viewer.layers]
        image = parents.image_behind(layer, others) if layer is not None else None
        image = image if image is not None else self._host.image.layer
        source = layers.placement_of(image).source if image is not None else None
        return source.resolve() if source is not None and source.exists() else None

    def _image_of(self, source: Path) -> Any:  # Any: a napari layer
        for layer in self._host.viewer.layers:
            known = layers.placement_of(layer).source
            is_image = type(layers.bare(layer)).__name__ == "Image"
            if is_image and known is not None and known.resolve() == source:
                return layers.bare(layer)
        return None

    def _problem(self) -> str:
        layer = self._host.labels.layer
        if layer is None:
            return "Predict, open a mask, or press New."
        if not layer.editable and not layer.multiscale:
            return f"{layer.name} is open for reading only."
        return refusal_of(layer)

    def _ask(self, found: Found | None) -> None:
        """Ask about an earlier case where it is seen: this section may be closed."""
        if found is not None and found is not self.banner.found:
            self.open()
            self._host.say(found.words, "warning")
        self.banner.ask(found, is_busy=self._host.is_busy)

    def _check(self) -> None:
        if not is_alive(self):
            return
        host, layer = self._host, self._host.labels.layer
        problem = self._problem()
        self.reason.setText(problem)
        self.reason.setVisible(bool(problem))
        source = self._source()
        self._ask(host.keeping.asked(source))
        text, must_act = host.keeping.words_for(source)
        self.kept.setText(text if host.image.layer is not None or layer is not None else "")
        colour = "#ffcf66" if must_act else "#9aa0aa"
        self.kept.setStyleSheet(f"color: {colour}; background: transparent;")
        self.choose_workspace.setVisible(must_act and "workspace" in text)
        self.new.setEnabled(host.image.layer is not None)
        self.brush.setEnabled(layer is not None and bool(layer.editable))
        if layer is None:
            self.undo.setEnabled(False)
