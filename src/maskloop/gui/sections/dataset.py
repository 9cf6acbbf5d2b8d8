"""Dataset: its images as a list, from one to the next, who does what and how far it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QSpinBox,
)

from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job
from maskloop.core.standing import STATUSES, Progress
from maskloop.desk.worklist import Filter
from maskloop.gui import layers
from maskloop.gui.choices import slim
from maskloop.gui.dataset_ahead import Drafter
from maskloop.gui.dataset_keys import ListKeys
from maskloop.gui.dataset_session import Session
from maskloop.gui.dataset_view import ListView
from maskloop.gui.host import Host, setting
from maskloop.gui.section import Section, tipped, words
from maskloop.gui.sections.predict import PredictSection
from maskloop.gui.tips import TIPS

_TYPED_MS = 250
_OTHERS_MS = 20_000  # how often the marks of a team's others are read
_ANY = "any status"
_ANY_CLASS = "any class"
_ANYONE = "anyone"
_FILES = "Datasets (*.json *.xml *.geojson *.yaml *.yml);;All files (*)"


class DatasetSection(Section):
    """The list of a dataset's images.

    Parameters
    ----------
    host : Host
    predict : PredictSection
        Its model drafts the images to come.
    """

    def __init__(self, host: Host, predict: PredictSection) -> None:
        super().__init__("Dataset")
        self._host = host
        self._predict = predict
        self.session = Session(host)
        self._build()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_TYPED_MS)
        self._soon.timeout.connect(self._refilter)
        self._others = QTimer(self)
        self._others.setInterval(_OTHERS_MS)
        self._others.timeout.connect(self._read_others)
        self._others.start()
        self.keys = ListKeys(host.viewer, self.session)
        self._connect()
        self._listed()
        self._check()

    def _build(self) -> None:
        self.open_folder = tipped(QPushButton("Open folder"), TIPS["dataset_folder"])
        self.open_file = tipped(QPushButton("Open file"), TIPS["dataset_file"])
        self.refresh = tipped(QPushButton("\N{CLOCKWISE OPEN CIRCLE ARROW}"), TIPS["dataset_again"])
        self.refresh.setMaximumWidth(32)
        self.about = words()
        self.text = tipped(QLineEdit(), TIPS["filter_text"])
        self.text.setPlaceholderText("part of a name")
        self.text.setClearButtonEnabled(True)
        self.status = tipped(slim(QComboBox()), TIPS["filter_status"])
        self.status.addItems([_ANY, *STATUSES])
        self.label = tipped(slim(QComboBox()), TIPS["filter_class"])
        self.who = tipped(slim(QComboBox()), TIPS["filter_who"])
        self.least = tipped(QSpinBox(), TIPS["filter_least"])
        self.most = tipped(QSpinBox(), TIPS["filter_most"])
        for spin, least, text in ((self.least, 0, "from 0"), (self.most, -1, "no limit")):
            spin.setRange(least, 1_000_000)
            spin.setValue(least)
            spin.setSpecialValueText(text)
        self.count = tipped(QPushButton("Count"), TIPS["dataset_count"])
        self.list = tipped(ListView(self.session), TIPS["dataset_list"])
        self.list.setMinimumHeight(220)
        self.previous = tipped(QPushButton("Back (Shift+K)"), TIPS["dataset_back"])
        self.next = tipped(QPushButton("Next (K)"), TIPS["dataset_next"])
        self.next_unseen = tipped(QPushButton("Next unseen (U)"), TIPS["dataset_unseen"])
        self.next_unseen.setObjectName("maskloop_main")
        self.done = tipped(QPushButton("Done (J)"), TIPS["dataset_done"])
        self.flag = tipped(QPushButton("Flag (Shift+J)"), TIPS["dataset_flag"])
        self.marks = tipped(QPushButton("Mark"), TIPS["dataset_mark"])
        menu = QMenu(self.marks)
        for status in STATUSES:
            menu.addAction(f"as {status}", partial(self.mark, status))
        menu.addSeparator()
        menu.addAction("as reviewed by me", self.review)
        self.marks.setMenu(menu)
        self.assignee = tipped(slim(QComboBox()), TIPS["dataset_assignee"])
        self.assignee.setEditable(True)
        self.assign = tipped(QPushButton("Assign"), TIPS["dataset_assign"])
        self.draft = tipped(QCheckBox("Draft what comes next"), TIPS["dataset_draft"])
        self.ahead = words()
        self.unsaved = tipped(QPushButton("Leave unsaved"), TIPS["dataset_unsaved"])
        self.kind = tipped(slim(QComboBox()), TIPS["dataset_object_class"])
        self.new_object = tipped(QPushButton("New object"), TIPS["dataset_object"])
        self.unsaved.hide()
        self.add(self.open_folder, self.open_file, self.refresh)
        self.rows.addWidget(self.about)
        self.add(self.text, self.status)
        self.add(self.label, self.who)
        self.add(QLabel("Objects"), self.least, self.most, self.count)
        self.rows.addWidget(self.list)
        self.add(self.previous, self.next)
        self.rows.addWidget(self.next_unseen)
        self.add(self.done, self.flag, self.marks)
        self.add(self.assignee, self.assign)
        self.add(self.kind, self.new_object)
        for widget in (self.draft, self.ahead, self.unsaved):
            self.rows.addWidget(widget)

    def _connect(self) -> None:
        session = self.session
        self.open_folder.clicked.connect(self._ask_folder)
        self.open_file.clicked.connect(self._ask_file)
        self.refresh.clicked.connect(session.refresh)
        self.text.textChanged.connect(lambda _: self._soon.start())
        for menu in (self.status, self.label, self.who):
            menu.activated.connect(lambda _: self._refilter())
        for spin in (self.least, self.most):
            spin.valueChanged.connect(lambda _: self._soon.start())
        self.count.clicked.connect(self.count_all)
        self.list.opened.connect(session.go)
        self.previous.clicked.connect(lambda: session.step(-1))
        self.next.clicked.connect(lambda: session.step(1))
        self.next_unseen.clicked.connect(session.step_unseen)
        self.done.clicked.connect(session.finish)
        self.flag.clicked.connect(session.toggle_flag)
        self.assign.clicked.connect(self.assign_chosen)
        self.draft.toggled.connect(lambda _: self._choose_drafter())
        self._predict.model.currentIndexChanged.connect(lambda _: self._choose_drafter())
        self.new_object.clicked.connect(self.add_object)
        self.unsaved.clicked.connect(session.leave_unsaved)
        session.listed.connect(self._listed)
        session.marked.connect(self._marked)
        session.moved.connect(self._moved)
        session.stuck.connect(self.unsaved.show)
        session.ahead.said.connect(self.ahead.setText)
        self._host.busy.connect(lambda _: self._check())
        self._host.labels.changed.connect(self._check)

    def open_path(self, path: Path) -> None:
        """List the dataset at a path; told in the foot of the panel where it is none."""
        self.open()
        self.session.open(path)

    # What is listed

    def count_all(self) -> None:
        """Read the masks of every item whose classes or count are not known, as corrected."""
        session = self.session
        dataset, workspace = session.dataset, str(setting("workspace", "")) or None
        if dataset is None:
            return
        unknown = session.uncounted()
        if not unknown:
            self._host.say("The objects and classes of every image are known already.", "good")
            return

        def work(job: Job) -> Any:  # Any: facts by name
            from maskloop.desk.items import count_items

            return count_items(dataset, unknown, workspace=workspace, job=job)

        def done(found: Any) -> None:  # Any: facts by name
            session.learn(found)
            missing = len(unknown) - len(found)
            left = f"; {missing:,} could not be read" if missing else ""
            self._host.say(f"{len(found):,} images counted{left}.", "warning" if left else "good")

        self._host.start(work, "Counting", done)

    def _refilter(self) -> None:
        least, most = self.least.value(), self.most.value()
        wanted = Filter(
            text=self.text.text().strip(),
            status=self.status.currentText() if self.status.currentIndex() > 0 else "",
            label=self.label.currentText() if self.label.currentIndex() > 0 else "",
            least=least or None,
            most=None if most < 0 else most,
            assignee=self.who.currentText() if self.who.currentIndex() > 0 else "",
        )
        if wanted != self.session.filter:
            self.session.refilter(wanted)

    def _listed(self) -> None:
        session = self.session
        self.list.rows.fill(session.order)
        self.list.show_place(session.place)
        names = [row.name for row in session.dataset.scheme.values()] if session.dataset else []
        _refill(self.label, [_ANY_CLASS, *names], session.filter.label)
        things = session.dataset is not None and session.dataset.kind != "classes"
        _refill(self.kind, names if things else [], self.kind.currentText())
        if session.filter == Filter():
            self.status.setCurrentIndex(0)
        self._marked()

    def _marked(self) -> None:
        session = self.session
        self.list.rows.changed()
        people = session.worklist.people()
        _refill(self.who, [_ANYONE, *people], session.filter.assignee)
        me = str(setting("author", ""))
        typed = self.assignee.currentText()
        _refill(self.assignee, [n for n in dict.fromkeys((me, *people)) if n], typed or me)
        self.about.setText(self._words())
        self._check()

    def _words(self) -> str:
        session = self.session
        if session.dataset is None:
            return "A dataset, or a folder of images, as a list. Drop one on the window."
        counts = dict.fromkeys(STATUSES, 0)
        for place in range(len(session.items)):
            counts[session.standing(place).status] += 1
        told = ", ".join(f"{n:,} {status}" for status, n in counts.items() if n)
        listed = f"; {len(session.order):,} listed" if session.filter != Filter() else ""
        unknown = 0
        if session.filter.label or session.filter.least or session.filter.most is not None:
            unknown = sum(session.facts_of(item).count is None for item in session.items)
        more = f" {unknown:,} are not counted yet: press Count." if unknown else ""
        form = "" if session.dataset.format == "images" else f" ({session.dataset.format})"
        return f"{session.dataset.name}{form}: {told}{listed}.{more}"

    def _moved(self) -> None:
        self.unsaved.hide()
        self.list.show_place(self.session.place)
        self._check()

    def _read_others(self) -> None:
        if self.session.dataset is not None and not self._host.is_busy:
            self.session.refresh()

    # Marks

    def mark(self, status: Progress) -> None:
        """Mark the selected rows."""
        self.session.mark(self.list.chosen, status=status)

    def review(self) -> None:
        """Record the person as the reviewer of the selected rows, which are done then."""
        me = str(setting("author", ""))
        if not me:
            self._host.say("Put your name into napari's preferences (maskloop) first.", "warning")
            return
        self.session.mark(self.list.chosen, status="done", reviewer=me)

    def assign_chosen(self) -> None:
        """Give the selected rows to the person whose name is typed; an empty one takes it away."""
        self.session.mark(self.list.chosen, assignee=self.assignee.currentText().strip())

    # Objects

    def add_object(self) -> None:
        """Give the chosen labels a row for one more object of the chosen class, to paint with."""
        from maskloop.desk.items import class_row, free_id

        session, layer = self.session, self._host.labels.layer
        editor = self._host.editors.of(layer)
        if session.dataset is None or editor is None:
            return
        row = next(
            (r for r in session.dataset.scheme.values() if r.name == self.kind.currentText()), None
        )
        if row is None:
            return
        try:
            masks = [*editor.case.masks.values()] if editor.is_open else []
            tables = [mask.labels for mask in masks] or [layers.table_of(layer)]
            fresh = class_row(free_id(tables), row)
            editor.set_labels(editor.labels.with_rows([fresh]), f"add {fresh.name}")
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        layer.selected_label = fresh.id
        layer.mode = "paint"
        self._host.say(f"Paint {fresh.name}.")

    # The model that drafts

    def _choose_drafter(self) -> None:
        row = self._predict.chosen
        session = self.session
        if not self.draft.isChecked() or row is None or row["state"] != "present":
            session.ahead.use(None)
            is_wanted = self.draft.isChecked()
            self.ahead.setText("Choose a model that is ready under Predict." if is_wanted else "")
            return
        memory = row["memory"]["bytes"] if row["memory"] else 0
        device = self._predict.device.currentText()
        session.ahead.use(Drafter(row["name"], device, tuple(row["ndim"]), int(memory)))
        self.ahead.setText(f"{row['name']} drafts images that nothing is drawn on.")
        session.draft_now()

    def release(self) -> None:
        """Stop listening to the viewer."""
        self._others.stop()
        self._soon.stop()
        self.keys.release()
        self.session.release()

    def _check(self) -> None:
        session, is_busy = self.session, self._host.is_busy
        has_list = session.dataset is not None
        for button in (self.open_folder, self.open_file):
            button.setEnabled(not is_busy)
        for button in (self.previous, self.next, self.next_unseen, self.count):
            button.setEnabled(has_list and not is_busy)
        for button in (self.done, self.flag):
            button.setEnabled(session.place is not None and not is_busy)
        self.marks.setEnabled(has_list)
        self.assign.setEnabled(has_list)
        can_add = bool(self.kind.count()) and self._host.labels.layer is not None
        self.kind.setVisible(bool(self.kind.count()))
        self.new_object.setVisible(bool(self.kind.count()))
        self.new_object.setEnabled(can_add and session.place is not None)

    def _ask_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Open a dataset, or a folder of images")
        if name:
            self.open_path(Path(name))

    def _ask_file(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open a dataset", "", _FILES)
        if name:
            self.open_path(Path(name))


def _refill(menu: QComboBox, texts: list[str], kept: str) -> None:
    """Put texts into a menu and keep the choice; tells nobody."""
    if [menu.itemText(i) for i in range(menu.count())] == texts and not menu.isEditable():
        return
    before = menu.blockSignals(True)
    menu.clear()
    menu.addItems(texts)
    if menu.isEditable():
        menu.setEditText(kept)
    else:
        menu.setCurrentIndex(max(menu.findText(kept), 0) if texts else -1)
    menu.blockSignals(before)
