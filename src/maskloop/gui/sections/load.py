"""Load: open files and examples, look at CT in its windows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFileDialog, QGridLayout, QMainWindow, QPushButton

from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.gui import contributions, layers
from maskloop.gui.bearing import CONVENTIONS, Convention
from maskloop.gui.choices import is_alive, slim
from maskloop.gui.host import Host, setting
from maskloop.gui.intake import Decision, Intake
from maskloop.gui.ortho import ThreeViews
from maskloop.gui.section import Section, tipped, words
from maskloop.gui.tips import TIPS
from maskloop.gui.windows import WINDOWS, Window

_VIEWS_HIGH = 280
SAMPLES: dict[str, Callable[[], list[layers.LayerData]]] = {
    "Phantom CT": contributions.sample_ct,
    "Phantom CT with liver and tumours": contributions.sample_ct_with_mask,
    "Nuclei picture": contributions.sample_nuclei,
}


@dataclass(frozen=True, slots=True)
class Found:
    """Layers to add, and what the reader had to say."""

    layers: list[layers.LayerData]
    notes: tuple[str, ...] = ()


def filters(what: str) -> str:
    """Return the filter of a file dialog for the formats that read ``"images"`` or ``"masks"``."""
    from maskloop.desk.catalogue import list_formats

    rows = [row for row in list_formats() if what in row["reads"]]
    ends = " ".join(dict.fromkeys(f"*{end}" for row in rows for end in row["suffixes"]))
    return f"{what.capitalize()} ({ends});;All files (*)"


class LoadSection(Section):
    """Open images, masks and samples; CT windows for the chosen image."""

    def __init__(self, host: Host) -> None:
        super().__init__("Load", is_open=True)
        self._host = host
        self.open_image = tipped(QPushButton("Open image"), TIPS["open_image"])
        self.open_folder = tipped(QPushButton("DICOM"), TIPS["open_folder"])
        self.open_mask = tipped(QPushButton("Open mask"), TIPS["open_mask"])
        self.open_image.clicked.connect(self._ask_image)
        self.open_folder.clicked.connect(self._ask_folder)
        self.open_mask.clicked.connect(self._ask_mask)
        self.add(self.open_image, self.open_folder, self.open_mask)
        self.sample_choice = tipped(slim(QComboBox()), TIPS["sample_choice"])
        self.sample_choice.addItems(list(SAMPLES))
        self.sample = tipped(QPushButton("Open sample"), TIPS["sample"])
        self.sample.clicked.connect(self.open_sample)
        self.add(self.sample_choice, self.sample)
        self.window_title = words()
        self.rows.addWidget(self.window_title)
        self.windows: dict[str, QPushButton] = {}
        grid = QGridLayout()
        grid.setSpacing(4)
        for number, window in enumerate(WINDOWS):
            button = QPushButton(window.name)
            low, high = window.limits
            button.setToolTip(TIPS["window"].format(low=low, high=high))
            button.clicked.connect(partial(self._show_window, window))
            grid.addWidget(button, number // 3, number % 3)
            self.windows[window.name] = button
        self.rows.addLayout(grid)
        self.three_views = tipped(QPushButton("Three views"), TIPS["three_views"])
        self.three_views.clicked.connect(self.toggle_views)
        self.convention = tipped(slim(QComboBox()), TIPS["convention"])
        self.convention.addItems([name.capitalize() for name in CONVENTIONS])
        wanted = str(setting("sides", CONVENTIONS[0]))
        self.convention.setCurrentIndex(CONVENTIONS.index(wanted) if wanted in CONVENTIONS else 0)
        self.convention.currentIndexChanged.connect(self._face)
        self.views: ThreeViews | None = None
        self.intake: Intake | None = None
        self.add(self.convention, self.three_views)
        host.image.changed.connect(self._check)
        host.busy.connect(self._set_busy)
        self._check()

    def open_path(self, path: Path) -> None:
        """Load a file or DICOM folder beside the window and show it; ask where that is needed."""
        known = self._image_below()

        def work(job: Job) -> Found | dict[str, Any]:  # Any: an intake report
            if path.is_dir() and (report := contributions.intake_of(path, job=job)):
                return report
            found = contributions.load_items(path, image=known, job=job)
            return Found(contributions.layers_of(found, path), tuple(job.notes))

        # A DICOM folder is often named after the patient: its name goes nowhere.
        title = "Opening a DICOM folder" if path.is_dir() else f"Opening {path.name}"
        self._host.start(work, title, lambda found: self._opened(found, path))

    def ask(self, path: Path, report: dict[str, Any]) -> Intake:  # Any: plain JSON values
        """Let the person choose a series of a folder, and what to do about its problems."""
        self.intake = Intake(report, self)
        self.intake.decided.connect(lambda decision: self.open_series(path, decision))
        self.intake.open()
        return self.intake

    def open_series(self, path: Path, decision: Decision) -> None:
        """Load one series of a DICOM folder as decided."""
        from maskloop import Choices

        choices = Choices(decision.series, decision.resample, decision.fill_gap)

        def work(job: Job) -> Found:
            found = contributions.load_items(path, choices=choices, job=job)
            return Found(contributions.layers_of(found, path), tuple(job.notes))

        self._host.start(work, f"Opening series {decision.series}", self._add)

    def open_mask_path(self, path: Path) -> None:
        """Load masks beside the window, for the chosen image where there is one."""
        known = self._image_below()

        def work(job: Job) -> Found:
            from maskloop.loop.load import load_masks

            masks = load_masks(path, image=known(), job=job)
            return Found(contributions.layers_of(masks, path), tuple(job.notes))

        self._host.start(work, f"Opening {path.name}", self._add)

    def _image_below(self) -> Callable[[], Image | None]:
        layer = self._host.image.layer
        if layer is None or layers.frames_of(layer):
            return lambda: None
        return layers.capture(layer).image

    def open_sample(self) -> None:
        """Draw the chosen sample and show it."""
        name = self.sample_choice.currentText()
        self._host.start(lambda job: Found(SAMPLES[name]()), f"Drawing {name}", self._add)

    @property
    def chosen_convention(self) -> Convention:
        """On which side of the screen the patient's right is."""
        return CONVENTIONS[max(self.convention.currentIndex(), 0)]

    def toggle_views(self) -> None:
        """Show the two other planes below the picture, or take them away."""
        window = self._host.viewer.window
        if self.views is not None and is_alive(self.views):
            was_visible = self.views.isVisible()
            self.views.release()
            with suppress(LookupError):  # closed by hand before
                window.remove_dock_widget(self.views)
            self.views.deleteLater()
            self.views = None
            if was_visible:
                return
        if self._host.viewer.dims.ndim < 3:
            self._host.say("Three views need a volume; open one first.", "warning")
            return
        self.views = ThreeViews(self._host.viewer, self.chosen_convention)
        dock = window.add_dock_widget(self.views, name="Three views", area="bottom")
        main = self.window()
        if isinstance(main, QMainWindow):
            # Below the picture only: across the window it would squeeze the panel.
            main.setCorner(Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea)
            main.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
            main.resizeDocks([layers.bare(dock)], [_VIEWS_HIGH], Qt.Orientation.Vertical)

    def release(self) -> None:
        """Let go of the viewer."""
        if self.views is not None and is_alive(self.views):
            self.views.release()
            dock = self.views.parentWidget()
            if dock is not None:
                dock.hide()

    def _face(self) -> None:
        if self.views is not None and is_alive(self.views):
            self.views.convention = self.chosen_convention

    def _opened(self, found: Found | dict[str, Any], path: Path) -> None:  # Any: a report
        if isinstance(found, Found):
            self._add(found)
        else:
            self._host.say("Choose what to open of this folder.")
            self.ask(path, found)

    def _add(self, found: Found) -> None:
        from napari.layers import Layer

        made = [Layer.create(*data) for data in found.layers]
        more = len(made) - 1
        about = f"{made[-1].name}: {layers.words_of(made[-1])}"
        about += f", and {more} more" if more else ""
        said = [note.rstrip(".") for note in dict.fromkeys(found.notes)]
        # Before they are added: what is then found of an earlier case is said after it.
        self._host.say(". ".join([about, *said]) + ".", "warning" if said else "")
        for layer in made:
            self._host.viewer.add_layer(layer)

    def _ask_image(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open image", "", filters("images"))
        if name:
            self.open_path(Path(name))

    def _ask_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Open a DICOM series")
        if name:
            self.open_path(Path(name))

    def _ask_mask(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open mask", "", filters("masks"))
        if name:
            self.open_mask_path(Path(name))

    def _show_window(self, window: Window) -> None:
        if (layer := self._host.image.layer) is not None:
            layer.contrast_limits = window.limits

    def _check(self) -> None:
        layer = self._host.image.layer
        is_ct = layer is not None and layers.is_ct(layer)
        self.window_title.setText(f"CT window of {layer.name}" if is_ct else "CT window")
        for window in WINDOWS:
            low, high = window.limits
            tip = TIPS["window"].format(low=low, high=high)
            button = self.windows[window.name]
            button.setEnabled(is_ct)
            button.setToolTip(tip if is_ct else f"{tip} Only for CT: this image has no HU.")

    def _set_busy(self, is_busy: bool) -> None:
        for button in (self.open_image, self.open_folder, self.open_mask, self.sample):
            button.setEnabled(not is_busy)
