"""Asks, within the panel, whether an earlier case is gone on with; and tells where steps are."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFrame, QPushButton, QVBoxLayout, QWidget

from maskloop.gui.ondisk import Found
from maskloop.gui.section import beside, tipped, words
from maskloop.gui.tips import TIPS

_STYLE = "#maskloop_banner { border: 1px solid #ffcf66; border-radius: 4px; }"


class Banner(QFrame):
    """One question with two answers.

    Signals
    -------
    go_on(Found), start_afresh(Found)
    """

    go_on = Signal(object)
    start_afresh = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("maskloop_banner")
        self.setStyleSheet(_STYLE)
        self.found: Found | None = None
        self.text = words()
        self.yes = tipped(QPushButton("Continue"), TIPS["continue_case"])
        self.no = tipped(QPushButton("Start afresh, keep the old"), TIPS["start_afresh"])
        rows = QVBoxLayout(self)
        rows.setContentsMargins(8, 6, 8, 6)
        rows.addWidget(self.text)
        rows.addWidget(beside(self.yes, self.no))
        self.yes.clicked.connect(lambda: self.go_on.emit(self.found))
        self.no.clicked.connect(lambda: self.start_afresh.emit(self.found))
        self.hide()

    def ask(self, found: Found | None, *, is_busy: bool = False) -> None:
        """Ask about an earlier case, or nothing."""
        self.found = found
        self.setVisible(found is not None)
        if found is None:
            return
        self.text.setText(found.words)
        is_broken = bool(found.state.get("problem"))
        self.yes.setText("Open to look at" if found.is_locked else "Continue")
        self.yes.setVisible(not is_broken)
        # A case that another window holds is not moved away from under it.
        self.no.setVisible(not found.is_locked)
        for button in (self.yes, self.no):
            button.setEnabled(not is_busy)


class Refusal(QWidget):
    """What the last step was refused, with a button that makes it change that too.

    Signals
    -------
    insisted(), dismissed()
    """

    insisted = Signal()
    dismissed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.text = words()
        self.text.setStyleSheet("color: #ff9be4; background: transparent;")
        self.insist = tipped(QPushButton("Let it change them"), TIPS["insist"])
        self.hide_it = tipped(QPushButton("Hide"), TIPS["hide_refused"])
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(4)
        rows.addWidget(self.text)
        rows.addWidget(beside(self.insist, self.hide_it))
        self.insist.clicked.connect(self.insisted)
        self.hide_it.clicked.connect(self.dismissed)
        self.hide()

    def tell(self, text: str, *, can_insist: bool) -> None:
        """Show what was refused."""
        self.text.setText(text)
        self.insist.setVisible(can_insist)
        self.show()
