"""Review: search first, slices looked at, candidates that the model left out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QPushButton

from maskloop.core.errors import MaskloopError
from maskloop.core.labels import Label
from maskloop.core.review import Candidate, Review, ranges_in_words
from maskloop.gui import layers, parents
from maskloop.gui.choices import slim
from maskloop.gui.coverage import CoverageStrip, Watch
from maskloop.gui.host import Host, setting
from maskloop.gui.marks import Mark, jump
from maskloop.gui.review_view import CandidateView
from maskloop.gui.section import Section, beside, tipped, words
from maskloop.gui.tips import TIPS

_SAVE_MS = 1500
WHOLE = "whole volume"
# Searched first where the draft has such a label: lesions are looked for in it.
ORGANS = ("liver", "kidney", "lung", "pancreas", "prostate", "brain")


class ReviewSection(Section):
    """The reader's safety net for the chosen labels layer."""

    def __init__(self, host: Host) -> None:
        super().__init__("Review")
        self._host = host
        self._editor: Any = None  # Any: a LayerEditor
        self._leave: Any = None  # Any: what ends the subscription
        self._image: Any = None  # Any: a napari layer
        self._hidden: Any = None  # Any: the labels layer that the search hides
        self._known: Review | None = None
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="maskloop review")
        self._mark = Mark(host.viewer, "candidate", "ring")
        self._build()
        self.watch = Watch(host.viewer, lambda: self._image, self._review, self)
        self.watch.seen.connect(self.refresh_coverage)
        self._clock = QTimer(self)
        self._clock.setInterval(_SAVE_MS)
        self._clock.timeout.connect(self._save)
        self._clock.start()
        host.labels.changed.connect(self.refresh)
        host.image.changed.connect(self.refresh)
        host.busy.connect(lambda _: self.refresh())
        host.editors.changed.connect(self._case_changed)
        self.header.toggled.connect(lambda _: self.refresh())
        self.refresh()

    def _build(self) -> None:
        self.search = tipped(QPushButton("Search first"), TIPS["search_first"])
        self.show_draft = tipped(QPushButton("Show anyway"), TIPS["show_draft"])
        self.scope = tipped(slim(QComboBox()), TIPS["scope"])
        self.strip = tipped(CoverageStrip(), TIPS["coverage"])
        self.coverage = words()
        self.list = tipped(CandidateView(), TIPS["candidates"])
        self.next = tipped(QPushButton("Next (N)"), TIPS["next_candidate"])
        self.accept = tipped(QPushButton("Accept (A)"), TIPS["accept_candidate"])
        self.dismiss = tipped(QPushButton("Dismiss (D)"), TIPS["dismiss_candidate"])
        self.reopen = tipped(QPushButton("Ask again"), TIPS["reopen_candidate"])
        self.about = words()
        self.rows.addWidget(self.search)
        self.rows.addWidget(self.show_draft)
        self.form().addRow("To look at", self.scope)
        self.rows.addWidget(self.strip)
        self.rows.addWidget(self.coverage)
        self.rows.addWidget(self.about)
        self.rows.addWidget(self.list)
        self.buttons = beside(self.accept, self.dismiss, self.next)
        self.rows.addWidget(self.buttons)
        self.rows.addWidget(self.reopen)
        self.search.clicked.connect(self.begin_search)
        self.show_draft.clicked.connect(self.end_search)
        self.scope.currentIndexChanged.connect(lambda _: self.refresh_coverage())
        self.strip.chosen.connect(self._go_to_slice)
        self.list.chosen.connect(self.go_to)
        self.list.accepted.connect(self.accept_current)
        self.list.dismissed.connect(self.drop_current)
        self.next.clicked.connect(lambda: self.list.step(1))
        self.accept.clicked.connect(self.accept_current)
        self.dismiss.clicked.connect(self.drop_current)
        self.reopen.clicked.connect(self.ask_again)

    # Search first

    def begin_search(self) -> None:
        """Hide the draft until the reader has been through the slices."""
        review = self._review()
        if review is not None:
            review.begin_search()
            self._host.say("The draft is hidden. Look through the slices first.")
            self.refresh()

    def end_search(self) -> None:
        """Show the draft; what was not looked at by then is recorded."""
        review = self._review()
        if review is None:
            return
        left = len(self._unseen(review))
        review.show_draft(self._person(), unseen=left)
        self._mind_visibility()
        self._save()
        text = f"with {left} slices not looked at; this is recorded" if left else "after the search"
        self._host.say(f"The draft is shown {text}.", "warning" if left else "good")
        self.refresh()

    @property
    def is_searching(self) -> bool:
        """Whether the draft is hidden now."""
        review = self._review()
        return review is not None and review.is_searching

    def _mind_visibility(self, event: Any = None) -> None:  # Any: napari events are untyped
        """Keep the draft hidden while the reader searches; show it again afterwards."""
        layer = self._editor.layer if self._editor is not None else None
        wanted = layer if self.is_searching else None
        if self._hidden is not None and self._hidden is not wanted:
            old, self._hidden = self._hidden, None
            old.events.visible.disconnect(self._mind_visibility)
            old.visible = True
        if wanted is None:
            return
        if self._hidden is None:
            self._hidden = wanted
            wanted.events.visible.connect(self._mind_visibility)
        elif wanted.visible:
            self._host.say("The draft stays hidden: look first, or press Show anyway.", "warning")
        if wanted.visible:
            wanted.visible = False

    # Coverage

    def refresh_coverage(self) -> None:
        """Show again which slices were looked at."""
        review = self._review()
        axis, now, is_turned = self._axis()
        if review is None or self._editor is None or axis < 0:
            self.strip.show_review(None, 0, 0, wanted=range(0), now=-1, turned=False)
            self.coverage.setText("")
            return
        shape = self._editor.case.mask.geometry.shape
        wanted = self._wanted(axis)
        self.strip.show_review(review, axis, shape[axis], wanted=wanted, now=now, turned=is_turned)
        unseen = review.unseen(axis, wanted)
        seen = len(wanted) - len(unseen)
        times = [f"{w} {review.seconds(axis, w).sum():.0f} s" for w in review.windows(axis) if w]
        text = f"{seen} of {len(wanted)} slices looked at"
        text += f" ({', '.join(times)})" if times else ""
        text += f"; not yet: {ranges_in_words(unseen, most=3)}" if len(unseen) > 0 else ""
        self.coverage.setText(f"{text}.")
        self._tell_search(len(unseen))
        self._host.reviewed.emit()

    def _tell_search(self, left: int) -> None:
        is_searching = self.is_searching
        self.search.setVisible(not is_searching)
        self.show_draft.setVisible(is_searching)
        self.show_draft.setText(f"Show anyway ({left} unseen)" if left else "Show the draft")

    def _axis(self) -> tuple[int, int, bool]:
        """Return the axis of the true grid that the slider walks, the slice, and its turn."""
        from maskloop.gui.coverage import look_of

        look = look_of(self._host.viewer, self._image, is_ct=False)
        if look is None:
            return -1, -1, False
        place = layers.placement_of(self._image)
        return look.axis, look.index, place.flips[place.axes.index(look.axis)]

    def _wanted(self, axis: int) -> range:
        """Return the slices that are to be looked at along an axis."""
        case, number = self._editor.case, self.scope.currentData()
        box = case.extent(int(number)) if number else None
        if box is None:
            return range(case.mask.geometry.shape[axis])
        part = box[axis - len(case.mask.geometry.shape)]
        return range(part.start, part.stop)

    def _unseen(self, review: Review) -> tuple[int, ...]:
        axis = self._axis()[0]
        axis = review.main_axis if axis < 0 else axis
        return review.unseen(axis, self._wanted(axis))

    def _go_to_slice(self, index: int) -> None:
        axis, _, _ = self._axis()
        if axis >= 0 and self._image is not None:
            place = layers.placement_of(self._image)
            own = place.axes.index(axis)
            count = place.geometry.shape[axis]
            at = count - 1 - index if place.flips[own] else index
            dims = self._host.viewer.dims
            first = dims.ndim - self._image.ndim
            position = [0.0] * self._image.ndim
            position[place.lead + own] = at
            world = self._image.data_to_world(position)
            dims.set_point(first + place.lead + own, float(world[place.lead + own]))

    # Candidates

    def step(self, by: int) -> None:
        """Go to the next open candidate, or the one before."""
        self.list.step(by)

    def accept_current(self) -> None:
        """Draw the chosen candidate, if it is still open."""
        one = self.list.current
        if one is not None and one.status == "open":
            self.take(one.number)

    def drop_current(self) -> None:
        """Dismiss the chosen candidate, if it is still open."""
        one = self.list.current
        if one is not None and one.status == "open":
            self.drop(one.number)

    def go_to(self, number: int) -> None:
        """Show a candidate and mark it."""
        one, layer = self._candidate(number), self._behind()
        if one is None or layer is None:
            return
        self._host.walk.take(self)
        jump(self._host.viewer, layer, one.centre)
        largest = max(part.stop - part.start for part in one.box)
        self._mark.show(layer, [[one.centre]], size=max(10.0, 2.2 * largest))
        self._tell_current()

    def take(self, number: int) -> None:
        """Draw a candidate as an object, by the person's decision, as one undoable step."""
        one, review = self._candidate(number), self._review()
        if one is None or review is None or self._editor is None or self._problem():
            return
        case = self._editor.case
        before = case.mask.data[one.box]
        table = case.mask.labels
        if one.label not in table:
            table = table.with_rows([Label(one.label, one.name)])
        try:
            change = self._editor.change(
                one.wanted(before),
                one.box,
                labels=table,
                tool="candidate",
                words=f"accept candidate {number}: {one.name}",
                kind="person",
                claimed=one.region,
                about={"candidate": number, "peak": round(one.peak, 4)},
            )
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        review.accept(number, self._person())
        note = f" {change.refused.words}." if change.refused else ""
        voxels = f"{change.edit.voxels:,} voxels"
        self._host.say(f"Candidate {number} is drawn as {one.name}: {voxels}.{note}", "good")
        self._after()

    def drop(self, number: int) -> None:
        """Dismiss a candidate: looked at, and not wanted."""
        review = self._review()
        if review is not None and self._candidate(number) is not None:
            review.dismiss(number, self._person())
            self._host.say(f"Candidate {number} is dismissed.")
            self._after()

    def ask_again(self) -> None:
        """Take the dismissal of the chosen candidate back."""
        one, review = self.list.current, self._review()
        if review is not None and one is not None and one.status == "dismissed":
            review.reopen(one.number)
            self.refresh()

    def _after(self) -> None:
        self._save()
        self.refresh()
        self.list.step(1)
        review = self._review()
        if review is not None and not review.open_candidates:
            self._mark.remove()

    def _candidate(self, number: int) -> Candidate | None:
        review = self._review()
        found = review.candidates if review is not None else ()
        return next((one for one in found if one.number == number), None)

    def _heard(self, step: Any) -> None:  # Any: a core.case.Step
        """Follow undo and redo of an acceptance with the worklist."""
        review, number = self._review(), step.edit.about.get("candidate")
        if review is not None and number is not None:
            if step.is_undo:
                review.reopen(int(number))
            else:
                review.accept(int(number), self._person())
            QTimer.singleShot(0, self.refresh)

    # All of it

    def refresh(self) -> None:
        """Read everything again."""
        self._follow_editor()
        self._mind_visibility()
        review = self._review()
        self._fill_scope()
        self.refresh_coverage()
        problem = self._problem()
        rows = review.candidates if review is not None and not self.is_searching else ()
        self.list.fill(rows, axis=max(self._axis()[0], 0))
        self.about.setText(problem or self._words(review))
        self.search.setEnabled(review is not None)
        for widget in (self.list, self.buttons):
            widget.setVisible(bool(rows))
        self._tell_current()
        left = sum(row.status == "open" for row in rows)
        self.header.setText(f"Review ({left} to decide)" if left else "Review")

    def _tell_current(self) -> None:
        """Enable what can be done with the chosen candidate."""
        one = self.list.current
        is_open = one is not None and one.status == "open" and not self._problem()
        self.accept.setEnabled(is_open)
        self.dismiss.setEnabled(is_open)
        self.reopen.setVisible(one is not None and one.status == "dismissed")

    def _words(self, review: Review | None) -> str:
        if review is None:
            return ""
        if review.is_searching:
            return "Candidates are shown with the draft."
        left, all_ = len(review.open_candidates), len(review.candidates)
        if not all_:
            return "No candidates: this model gives none, or it was not run here."
        return f"{left} of {all_} candidates still to decide." if left else "All decided."

    def _problem(self) -> str:
        if self._host.labels.layer is None:
            return "Predict, or open a mask."
        if self._editor is None:
            return "These labels are not corrected here yet."
        if self._host.is_busy:
            return "Something is running; stop it or wait."
        if self._editor.case.is_read_only and self._editor.case.folder is not None:
            return "The case is open for reading only."
        return ""

    def _review(self) -> Review | None:
        if self._editor is None:
            return None
        review: Review = self._editor.case.review
        return review

    def _person(self) -> str:
        return str(self._editor.case.author or setting("author", ""))

    def _behind(self) -> Any:  # Any: a napari layer
        return self._editor.layer if self._editor is not None else self._image

    def _follow_editor(self) -> None:
        layer = self._host.labels.layer
        others = [layers.bare(x) for x in self._host.viewer.layers]
        behind = parents.image_behind(layer, others) if layer is not None else None
        self._image = behind if behind is not None else self._host.image.layer
        editor = self._opened(layer)
        if editor is self._editor:
            return
        if self._leave is not None:
            self._leave()
        self._mark.remove()
        self._editor, self._leave = editor, None
        if editor is not None:
            self._leave = editor.subscribe(self._heard)
            review = editor.case.review
            if review.shape is None:
                review.shape = editor.case.mask.geometry.shape
            if review.notice:
                self._host.say(f"{review.notice}.", "warning")

    def _opened(self, layer: Any) -> Any:  # Any: napari layers are untyped; a LayerEditor or None
        """Return the editor of a layer whose case is open; open it where this section is wanted."""
        editors = self._host.editors
        editor = editors.of(layer) if layer is not None else None
        if editor is not None and not editor.is_open and self.header.isChecked():
            editors.open(editor)
        is_ready = editor is not None and editor.is_open and editor.keeper.is_open
        return editor if is_ready else None

    def _case_changed(self, keeper: Any) -> None:  # Any: a Keeper
        """Look again where a case has just been opened or moved to disk."""
        review = self._review()
        if self._editor is None or (self._editor.keeper is keeper and review is not self._known):
            self._known = review
            self.refresh()

    def _fill_scope(self) -> None:
        table = self._editor.case.mask.labels if self._editor is not None else {}
        rows = [(WHOLE, 0), *((row.name, row.id) for row in list(table.values())[:50])]
        if [
            (self.scope.itemText(i), self.scope.itemData(i)) for i in range(self.scope.count())
        ] == rows:
            return
        kept = self.scope.currentData()
        before = self.scope.blockSignals(True)
        was_empty = self.scope.count() <= 1
        self.scope.clear()
        for name, number in rows:
            self.scope.addItem(name, number)
        organ = next((i for name, i in rows if any(o in name.lower() for o in ORGANS)), 0)
        self.scope.setCurrentIndex(max(self.scope.findData(organ if was_empty else kept), 0))
        self.scope.blockSignals(before)

    def _save(self) -> None:
        review = self._review()
        if review is not None and review.folder is not None:
            self._disk.submit(self._written, review)

    def _written(self, review: Review) -> None:
        try:
            review.save_if_due()
        except MaskloopError as error:
            # Kept in memory and tried again; closing the case tells for good.
            review.notice = str(error)

    def release(self) -> None:
        """Write what is pending and let go of the viewer."""
        self.watch.release()
        if self._leave is not None:
            self._leave()
        self._disk.shutdown(wait=True)
