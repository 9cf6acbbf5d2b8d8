"""Objects: the live table of lesions or cells, their measures, and a verdict on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QCheckBox, QFileDialog, QPushButton

from maskloop.core.errors import MaskloopError
from maskloop.gui import layers, parents
from maskloop.gui.host import Host
from maskloop.gui.marks import Mark, jump
from maskloop.gui.objects_view import ObjectView, details, number_of, unit_of
from maskloop.gui.section import Section, tipped, words
from maskloop.gui.tips import TIPS
from maskloop.gui.turns import Slow
from maskloop.gui.verdicts import Verdict, Verdicts, decide

_LARGE = 1 << 21  # voxels of a changed box from which on the table is made anew, beside the window


class ObjectsSection(Section):
    """The objects of the chosen labels layer."""

    def __init__(self, host: Host) -> None:
        super().__init__("Objects")
        self._host = host
        self._editor: Any = None  # Any: a LayerEditor
        self._case: Any = None  # Any: the Case that the index follows
        self._leave: Any = None  # Any: what ends the subscription
        self._index: Any = None  # Any: an ObjectIndex
        self._verdicts: Verdicts | None = None
        self._wanted = 0  # which building of the index is the newest
        self._mark = Mark(host.viewer, "long and short axis", "line")
        self._build()
        host.labels.changed.connect(self.refresh)
        host.image.changed.connect(self.refresh)
        host.editors.changed.connect(lambda _: self._case_changed())
        host.reviewed.connect(self._show_or_hide)
        self.header.toggled.connect(lambda _: self.refresh())
        self.refresh()

    def _build(self) -> None:
        self.list = tipped(ObjectView(), TIPS["objects"])
        self.list.setMinimumHeight(150)
        self.list.setMaximumHeight(240)
        self.about = words()
        self.details = words()
        self.lines = tipped(QCheckBox("draw both axes on their slice"), TIPS["lines"])
        self.lines.setChecked(True)
        self.accept = tipped(QPushButton("Accept (A)"), TIPS["objects_accept"])
        self.reject = tipped(QPushButton("Reject (D)"), TIPS["objects_reject"])
        self.edit = tipped(QPushButton("Edit (E)"), TIPS["objects_edit"])
        self.previous = tipped(QPushButton("Back (P)"), TIPS["objects_previous"])
        self.next = tipped(QPushButton("Next (N)"), TIPS["objects_next"])
        self.csv = tipped(QPushButton("CSV ..."), TIPS["objects_csv"])
        self.json = tipped(QPushButton("JSON ..."), TIPS["objects_json"])
        for widget in (self.about, self.list, self.details, self.lines):
            self.rows.addWidget(widget)
        self.add(self.accept, self.reject, self.edit)
        self.add(self.previous, self.next, self.csv, self.json)
        self.list.chosen.connect(self.go_to)
        self.list.wanted.connect(self._decide)
        self.lines.toggled.connect(lambda _: self._draw())
        self.accept.clicked.connect(self.accept_current)
        self.reject.clicked.connect(self.drop_current)
        self.edit.clicked.connect(lambda: self._decide("edit"))
        self.previous.clicked.connect(lambda: self.list.step(-1))
        self.next.clicked.connect(lambda: self.list.step(1))
        self.csv.clicked.connect(lambda: self._ask_where("csv"))
        self.json.clicked.connect(lambda: self._ask_where("json"))

    # Walking and deciding

    def step(self, by: int) -> None:
        """Go to the next object, or the one before."""
        self.list.step(by)

    def accept_current(self) -> None:
        """Accept the chosen object."""
        self._decide("accept")

    def drop_current(self) -> None:
        """Reject the chosen object."""
        self._decide("reject")

    def go_to(self, number: int) -> None:
        """Show an object and its axes on their slice."""
        row = self.list.rows.row(number)
        layer = self._host.labels.layer
        if row is None or layer is None:
            return
        self._host.walk.take(self)
        m = row.measured
        ends = np.array([m.long_axis.start, m.long_axis.stop, m.short_axis.start])
        middle = np.where(np.ptp(ends, axis=0) > 0, ends[:2].mean(axis=0), ends[0])
        jump(self._host.viewer, layer, middle.tolist())
        if row.status != "rejected":
            layer.selected_label = m.label
        self._tell()
        self._draw()

    def _draw(self) -> None:
        row, layer = self.list.current, self._host.labels.layer
        if row is None or layer is None or not self.lines.isChecked() or self._is_hidden():
            self._mark.remove()
            return
        both = (row.measured.long_axis, row.measured.short_axis)
        self._mark.show(layer, [[a.start, a.stop] for a in both if a.length > 0])

    def _decide(self, word: str) -> None:
        row, editor = self.list.current, self._editor
        if row is None or editor is None or self._index is None:
            return
        if row.status == "rejected":
            self._host.say("This object was rejected; undo that first (Ctrl+Z).", "warning")
            return
        kinds: dict[str, Verdict] = {
            "accept": "accepted",
            "reject": "rejected",
            "edit": "edited",
        }
        verdict = kinds[word]
        editor.flush()
        decision = decide(editor.case, editor.mask_name, row, verdict, by=self._index.by)
        try:
            change = editor.change(decision.ids, row.measured.box, **decision.options)
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        name = f"{row.name} {row.measured.id}"
        if change.edit.is_empty:
            # Nothing to keep in the history: the voxels are the person's already.
            self._index.mark(row.measured.id, verdict)
            self._took([row.measured.id], [])
        note = f" {change.refused.words}." if change.refused else ""
        self._host.say(f"{name}: {verdict}.{note}", "warning" if note else "good")
        layer = editor.layer
        if word == "edit" and layer is not None:
            self._host.viewer.layers.selection.active = layer
            layer.mode = "paint"
        else:
            self.list.step(1)

    # The index

    def refresh(self) -> None:
        """Follow the chosen layer; make its table where this section is open."""
        layer = self._host.labels.layer
        editor = self._host.editors.of(layer) if layer is not None else None
        if editor is not self._editor:
            self._let_go()
            self._editor = editor
        if self.header.isChecked() and self._index is None and not self._problem():
            self._make()
        self._tell()

    def _make(self) -> None:
        """Measure all objects, in turn with the steps of the case, beside the window."""
        editor = self._editor
        if not editor.is_open:
            self._host.editors.open(editor)
        image = self._image()
        seen = layers.capture(image) if image is not None else None
        self._wanted += 1
        ticket = self._wanted

        def work() -> Any:  # Any: case, index and verdicts
            from maskloop.ops.objects import ObjectIndex

            case = editor.case
            index = ObjectIndex.of_case(
                case, seen.image() if seen is not None else None, mask=editor.mask_name
            )
            done = list(case.history)[: case.history.position]
            verdicts = Verdicts(index, done, editor.mask_name)
            _ = list(index)  # measures are made when first asked for: here, not in the window
            return case, index, verdicts

        def end(found: Any) -> None:  # Any: what `work` returned
            if ticket == self._wanted and editor is self._editor:
                self._take(*found)

        self.about.setText("Measuring ...")
        editor.keeper.turns.add(lambda: Slow(work, end))

    def _take(self, case: Any, index: Any, verdicts: Verdicts) -> None:  # Any: Case, ObjectIndex
        if self._leave is not None:
            self._leave()
        self._case, self._index, self._verdicts = case, index, verdicts
        self._leave = self._editor.subscribe(self._heard)
        grid = case.masks[self._editor.mask_name].geometry
        self.list.rows.fill([*index, *verdicts.rejected], unit=grid.unit, ndim=grid.ndim)
        self._show_or_hide()

    def _heard(self, step: Any) -> None:  # Any: a core.case.Step
        if self._index is None or self._verdicts is None or step.mask != self._editor.mask_name:
            return
        mask = self._case.masks[step.mask]
        size = np.prod([part.stop - part.start for part in step.box]) if step.edit.voxels else 0
        by = "labels" if mask.labels.kind == "objects" else "pieces"
        if not self.header.isChecked() or size > _LARGE or by != self._index.by:
            self._forget()
            self.refresh()
            return
        found = self._index.take(step)
        number = self._verdicts.follow(step)
        if step.edit.rows_before or step.edit.rows_after:
            changed = list(self._index.numbers)
        else:
            changed = [*found.changed, *found.added, *([number] if number else [])]
        self._took(changed, list(found.gone))

    def _took(self, changed: list[int], gone: list[int]) -> None:
        """Show the new rows of some objects."""
        index, verdicts = self._index, self._verdicts
        if verdicts is None:
            return
        rejected = verdicts.rejected
        stale = [n for n in self.list.rows.numbers if n < 0]
        rows = [index[n] for n in changed if n in index]
        self.list.rows.change([*rows, *rejected], [*gone, *stale] if stale else gone)
        self._tell()
        if self.list.current is not None and number_of(self.list.current) in changed:
            self._draw()

    def _case_changed(self) -> None:
        """Make the table again where the case has moved to disk: its steps are told elsewhere."""
        editor = self._editor
        is_other = editor is not None and editor.is_open and editor.keeper.is_open
        if is_other and self._index is not None and editor.case is not self._case:
            self._forget()
            self.refresh()

    def _forget(self) -> None:
        self._wanted += 1
        if self._leave is not None:
            self._leave()
        self._leave, self._index, self._verdicts, self._case = None, None, None, None

    def _let_go(self) -> None:
        self._forget()
        self._mark.remove()
        self.list.rows.fill([], unit="mm", ndim=3)

    def _image(self) -> Any:  # Any: a napari layer or None
        others = [layers.bare(x) for x in self._host.viewer.layers]
        behind = parents.image_behind(self._editor.layer, others)
        return behind if behind is not None and not behind.rgb else None

    # Words

    def _problem(self) -> str:
        layer = self._host.labels.layer
        if layer is None:
            return "Predict, or open a mask."
        if self._editor is None:
            return f"{layer.name} is not corrected here."
        if layers.placement_of(layer).lead:
            return "Objects are measured in one volume or picture, not in a series."
        return ""

    def _is_hidden(self) -> bool:
        """Whether the draft is hidden while the reader searches: its objects then are too."""
        editor = self._editor
        is_open = editor is not None and editor.is_open and editor.keeper.is_open
        return bool(is_open and editor.case.review.is_searching)

    def _show_or_hide(self) -> None:
        is_hidden = self._is_hidden()
        for widget in (self.list, self.details, self.lines):
            widget.setVisible(not is_hidden)
        if is_hidden:
            self._mark.remove()
        self._tell()

    def _tell(self) -> None:
        problem = self._problem()
        row = None if self._is_hidden() else self.list.current
        if problem:
            self.about.setText(problem)
        elif self._is_hidden():
            self.about.setText("Hidden, as the draft is, until you have looked (see Review).")
        elif self._index is not None:
            self.about.setText(self._summary())
        grid = None if self._case is None else self._case.mask.geometry
        self.details.setText("" if row is None or grid is None else self._words_of(row, grid))
        can_decide = row is not None and row.status != "rejected" and self._index is not None
        for button in (self.accept, self.reject, self.edit):
            button.setEnabled(can_decide)
        has_rows = bool(self.list.rows.rowCount()) and not self._is_hidden()
        for button in (self.previous, self.next, self.csv, self.json):
            button.setEnabled(has_rows)

    def _words_of(self, row: Any, grid: Any) -> str:  # Any: a Row, a Geometry
        return details(row, grid.unit, grid.ndim)

    def _summary(self) -> str:
        count = len(self._index)
        text = f"{count} object{'s' * (count != 1)}"
        lost, size = self._index.lost
        grid = self._case.mask.geometry
        cubic = unit_of(grid.unit, grid.ndim)
        if lost:
            text += (
                f"; {lost} of the draft {'is' if lost == 1 else 'are'} gone ({size:,.0f} {cubic})"
            )
        return f"{text}."

    # Files

    def _ask_where(self, kind: str) -> None:
        layer = self._host.labels.layer
        start = str(Path.home() / f"{layer.name if layer is not None else 'objects'}.{kind}")
        name, _ = QFileDialog.getSaveFileName(
            self, "Write the table", start, f"{kind.upper()} (*.{kind})"
        )
        if name:
            self.write(Path(name))

    def write(self, path: Path) -> None:
        """Write what there is now as CSV or JSON, as the suffix says; rejected objects are gone."""
        from maskloop.desk.measure import live_entry_of, to_csv, to_json

        if self._index is None or self._case is None:
            return
        mask = self._case.masks[self._editor.mask_name]
        entries = [live_entry_of(row, mask) for row in self._index]
        try:
            (to_csv if path.suffix.lower() == ".csv" else to_json)(entries, path)
        except (MaskloopError, OSError) as error:
            self._host.say(str(error), "error")
            return
        self._host.say(f"{path.name}: {len(entries)} objects.", "good")

    def release(self) -> None:
        """Stop following the case."""
        self._forget()
