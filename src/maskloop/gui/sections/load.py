"""Load: open files and examples, look at CT in its windows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from qtpy.QtWidgets import QComboBox, QFileDialog, QGridLayout, QPushButton

from maskloop.core.image import Image, stem_of
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.gui import contributions, layers
from maskloop.gui.choices import slim
from maskloop.gui.host import Host
from maskloop.gui.section import Section, tipped, words
from maskloop.gui.tips import TIPS
from maskloop.gui.windows import WINDOWS, Window

_IMAGES = "Images (*.nii *.nii.gz *.dcm *.png *.jpg *.jpeg *.tif *.tiff);;All files (*)"
_MASKS = "Masks (*.nii *.nii.gz *.png *.tif *.tiff *.json);;All files (*)"
SAMPLES: dict[str, Callable[[], list[layers.LayerData]]] = {
    "Phantom CT": contributions.sample_ct,
    "Phantom CT with liver and tumours": contributions.sample_ct_with_mask,
    "Nuclei picture": contributions.sample_nuclei,
}


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
        host.image.changed.connect(self._check)
        host.busy.connect(self._set_busy)
        self._check()

    def open_path(self, path: Path) -> None:
        """Load a file or DICOM folder beside the window and show it."""
        self._host.start(
            lambda job: contributions.load_any(path, job=job),
            f"Opening {path.name}",
            lambda item: self._show(item, path),
        )

    def open_mask_path(self, path: Path) -> None:
        """Load a mask beside the window, for the chosen image where there is one."""
        layer = self._host.image.layer
        if layer is not None and layers.frames_of(layer):
            layer = None
        seen = layers.capture(layer) if layer is not None else None

        def work(job: Job) -> Mask:
            from maskloop.loop.load import load_mask

            return load_mask(path, image=seen.image() if seen else None, job=job)

        self._host.start(work, f"Opening {path.name}", lambda mask: self._show(mask, path))

    def open_sample(self) -> None:
        """Draw the chosen sample and show it."""
        name = self.sample_choice.currentText()
        self._host.start(lambda job: SAMPLES[name](), f"Drawing {name}", self._add)

    def _show(self, item: Image | Mask, path: Path) -> None:
        if isinstance(item, Mask):
            self._add([layers.mask_layer(item, name=stem_of(path))])
        else:
            self._add(layers.image_layers(item))

    def _add(self, found: list[layers.LayerData]) -> None:
        from napari.layers import Layer

        for data in found:
            added = self._host.viewer.add_layer(Layer.create(*data))
        self._host.say(f"{added.name}: {layers.words_of(added)}.")

    def _ask_image(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open image", "", _IMAGES)
        if name:
            self.open_path(Path(name))

    def _ask_folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Open a DICOM series")
        if name:
            self.open_path(Path(name))

    def _ask_mask(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open mask", "", _MASKS)
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
