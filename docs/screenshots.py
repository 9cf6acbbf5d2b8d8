"""Make docs/images/*.png from the real window: xvfb-run -a python docs/screenshots.py [NAME...].

Everything shown is drawn by maskloop itself, segmented by the models it ships, and exported and
trained for real. Needs an X display of at least 1400 x 900 and no network.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = (1366, 820)
MOST_BYTES = 300_000


def wait(condition: Callable[[], bool], seconds: float) -> None:
    """Serve the window until the condition holds."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def settle(panel: Any) -> None:
    """Wait for the panel's task, and for what it drew."""
    wait(lambda: not panel.host.is_busy, 1800)
    wait(lambda: False, 0.6)


def save(viewer: Any, name: str) -> None:
    """Write the whole window as a small PNG."""
    from PIL import Image

    path = IMAGES / f"{name}.png"
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    size = path.stat().st_size
    print(f"{path.name}: {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        sys.exit(f"{path.name} is larger than {MOST_BYTES} bytes")


def only(panel: Any, *sections: Any) -> None:
    """Open these sections and close the others."""
    for section in panel.sections:
        section.header.setChecked(section in sections)
    panel.area.verticalScrollBar().setValue(0)
    wait(lambda: False, 0.3)


def window(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw a phantom CT, segmented and being corrected."""
    viewer.open_sample("napari-maskloop", "phantom-ct")
    panel.predict.choose("phantom-liver")
    panel.predict.run.click()
    settle(panel)
    labels = panel.host.labels.layer
    labels.opacity = 0.45
    slices = (labels.data == 2).sum(axis=(1, 2))
    viewer.dims.set_current_step(0, int(slices.argmax()))
    labels.selected_label = 2
    panel.load.windows["Liver"].click()
    only(panel, panel.load, panel.predict, panel.correct)
    panel.host.say("")  # the seconds are those of whatever else the machine was doing
    viewer.reset_view()
    save(viewer, "window")


def nuclei(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw a picture of nuclei, each an object of its own."""
    viewer.open_sample("napari-maskloop", "nuclei")
    panel.predict.choose("nuclei")
    panel.predict.run.click()
    settle(panel)
    panel.host.labels.layer.opacity = 0.5
    only(panel, panel.predict, panel.correct)
    panel.host.say("")
    viewer.reset_view()
    save(viewer, "nuclei")


def export(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw the receipt of an export."""
    viewer.open_sample("napari-maskloop", "phantom-ct-with-mask")
    viewer.dims.set_current_step(0, 46)
    os.chdir(folder)
    panel.export.path.setText("liver.nii.gz")
    panel.export.run.click()
    settle(panel)
    only(panel, panel.export)
    save(viewer, "export")


def train(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw a fine-tuning: curve, both scores, verdict."""
    from napari.layers import Layer

    from maskloop.gui import layers
    from maskloop.ops.phantom import phantom_ct

    for seed in range(21, 25):
        viewer.layers.clear()
        image, mask = phantom_ct(seed, shape=(48, 72, 72), spacing=(6, 5, 5), lesions=(3, 6))
        for data in (
            *layers.image_layers(image, name=f"CT {seed}"),
            layers.mask_layer(mask, name=f"CT {seed} corrected"),
        ):
            viewer.add_layer(Layer.create(*data))
        panel.train.add_current()
    viewer.dims.set_current_step(0, 24)
    panel.train.base.setCurrentText("phantom-liver")
    panel.train.steps.setValue(30)
    only(panel, panel.train)
    panel.train.run.click()
    settle(panel)
    save(viewer, "train")


def views(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw three linked planes, the crosshair in a tumour, and what lies under the mouse."""
    _, mask = viewer.open_sample("napari-maskloop", "phantom-ct-with-mask")
    mask.opacity = 0.45
    panel.load.three_views.click()
    slices = (mask.data == 2).sum(axis=(1, 2))
    at = int(slices.argmax())
    rows, columns = (mask.data[at] == 2).nonzero()
    viewer.dims.current_step = (at, int(rows[0]) + 3, int(columns[0]))
    viewer.cursor.position = tuple(viewer.dims.point)
    only(panel, panel.load, panel.correct)
    viewer.reset_view()
    save(viewer, "views")


def letters(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw an oblique scan, sagittal: two letters where an axis leads between two directions."""
    import numpy as np
    from napari.layers import Layer

    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.gui import layers
    from maskloop.ops.phantom import phantom_ct

    image, _ = phantom_ct(5, lesions=(4, 6))
    cos, sin = np.cos(np.deg2rad(30)), np.sin(np.deg2rad(30))
    turn = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
    turned = Image(image.data, Geometry(image.geometry.shape, turn @ image.geometry.affine))
    viewer.add_layer(Layer.create(*layers.image_layers(turned, name="oblique CT")[0]))
    viewer.dims.order = (2, 0, 1)
    viewer.dims.set_current_step(2, 40)
    viewer.cursor.position = tuple(viewer.dims.point)
    only(panel, panel.load)
    viewer.reset_view()
    save(viewer, "letters")


def _reviewed(viewer: Any, panel: Any) -> Any:
    """Return the labels of a drawn liver CT, segmented, over its image."""
    viewer.open_sample("napari-maskloop", "phantom-ct")
    panel.predict.choose("phantom-liver")
    panel.predict.run.click()
    settle(panel)
    labels = panel.host.labels.layer
    labels.opacity = 0.45
    panel.load.windows["Liver"].click()
    return labels


def objects(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw the table of objects, one accepted, one rejected, the axes of a third in the picture."""
    _reviewed(viewer, panel)
    only(panel, panel.objects)
    wait(lambda: panel.objects.list.rows.rowCount() > 2, 60)
    from qtpy.QtCore import Qt

    view = panel.objects.list
    view.sortByColumn(2, Qt.SortOrder.DescendingOrder)
    view.step(1)
    view.step(1)
    panel.objects.accept.click()
    view.choose(view.rows.numbers[-1])
    panel.objects.reject.click()
    view.choose(view.rows.numbers[2])
    viewer.scene.camera.zoom *= 2.5
    wait(lambda: False, 0.5)
    save(viewer, "objects")


def review(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw the worklist of candidates and the strip of slices looked at, in two windows."""
    labels = _reviewed(viewer, panel)
    only(panel, panel.review)
    panel.review.watch.is_active = lambda: True
    for number in range(18, 52):
        viewer.dims.set_current_step(0, number)
        if number == 38:
            panel.load.windows["Soft tissue"].click()
        wait(lambda: False, 0.45)
    editor = panel.host.editors.of(labels)
    if not editor.case.review.candidates:
        sys.exit("the model gave no candidates")
    panel.review.refresh()
    panel.review.list.step(1)
    panel.review.list.step(1)
    viewer.scene.camera.zoom *= 1.6
    wait(lambda: False, 0.5)
    save(viewer, "review")


def tools(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw the tools: a search, and a form with what it wants drawn."""
    labels = _reviewed(viewer, panel)
    slices = (labels.data == 2).sum(axis=(1, 2))
    viewer.dims.set_current_step(0, int(slices.argmax()))
    labels.selected_label = 2
    only(panel, panel.correct)
    box = panel.correct.toolbox
    box.choose("scissors")
    box.query.setText("sm")
    panel.area.ensureWidgetVisible(box.outcome)
    wait(lambda: False, 0.3)
    save(viewer, "tools")


def compare(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw a model beside the true labels of a drawn CT: agreement map, legend, differences."""
    _, mask = viewer.open_sample("napari-maskloop", "phantom-ct-with-mask")
    only(panel, panel.compare)
    panel.compare.a.choose(f"layer: {mask.name}")
    panel.compare.b.choose("phantom-liver")
    panel.compare.run.click()
    settle(panel)
    panel.load.windows["Liver"].click()
    other = next(d for d in panel.compare._found.differences if d.a and d.b)
    panel.compare.list.selectRow(other.number - 1)
    viewer.scene.camera.zoom *= 1.2
    wait(lambda: False, 0.5)
    save(viewer, "compare")


def panoptic(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw objects and stuff in one layer: legend, table with scores."""
    from maskloop.ops.device import load_dynamo

    load_dynamo()  # torchvision, which is imported next, would crash this window
    from kinds import panoptic as drawn
    from napari.layers import Layer

    from maskloop.core.geometry import Geometry
    from maskloop.core.mask import Mask
    from maskloop.gui import layers

    grey, ids, table = drawn()
    viewer.add_image(grey, name="cells on tissue")
    mask = Mask(ids, Geometry.pixels(ids.shape), table)
    labels = viewer.add_layer(Layer.create(*layers.mask_layer(mask, name="objects and stuff")))
    labels.opacity = 0.5
    only(panel, panel.objects)
    wait(lambda: panel.objects.list.rows.rowCount() == len(table), 60)
    panel.objects.list.choose(panel.objects.list.rows.numbers[3])
    panel.host.say("")
    viewer.reset_view()
    wait(lambda: False, 0.5)
    save(viewer, "panoptic")


def families(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw a family of objects about to be trained: its recipe, and what it can never do."""
    viewer.open_sample("napari-maskloop", "nuclei")
    panel.predict.choose("nuclei")
    panel.predict.run.click()
    settle(panel)
    panel.host.labels.layer.opacity = 0.5
    only(panel, panel.train)
    panel.train.add_current()
    panel.train.base.choose("polarmask:resnet50")
    panel.host.say("")
    viewer.reset_view()
    wait(lambda: False, 0.5)
    save(viewer, "families")


def _cells(panel: Any, folder: Path) -> Any:
    """Write drawn pictures of nuclei as a COCO dataset, list it, open one; return the session."""
    import numpy as np
    from PIL import Image as Picture

    from maskloop.core.dataset import Dataset, Item, Sample
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.desk.datasets import convert_dataset
    from maskloop.ops.phantom import nuclei_picture

    (folder / "pictures").mkdir(parents=True)
    samples = {}
    for number in range(16):
        image, mask = nuclei_picture(100 + number)
        path = folder / "pictures" / f"slide{number // 4 + 1}_field{number % 4 + 1}.png"
        Picture.fromarray(image.data).save(path)
        item = Item(path.stem, path, group=path.stem.split("_")[0])
        # Some lie over others, which not every format can hold.
        over = np.where((mask.data % 6 == 1) & (mask.data < 20), mask.data + len(mask.labels), 0)
        rows = LabelTable.objects(np.unique(over)[1:], mask.labels[1].category or "nucleus")
        above = Mask(np.roll(over, (7, 9), (0, 1)).astype(np.uint16), mask.geometry, rows)
        samples[item.name] = Sample(item, (mask, above))
    items = tuple(sample.item for sample in samples.values())
    table = LabelTable.classes([next(iter(samples.values())).labels[1].category or "nucleus"])
    made = Dataset(
        "nuclei", "drawn", folder, table, items, lambda i, job: samples[i.name], "objects"
    )
    convert_dataset(made, folder / "nuclei", "coco")
    panel.dataset.open_path(folder / "nuclei")
    settle(panel)
    session = panel.dataset.session
    session.mark(range(5), status="done", assignee="anna")
    session.mark(range(3), reviewer="bo")
    session.mark([3], status="flagged")
    session.mark(range(5, 9), assignee="bo")
    session.step_unseen()
    settle(panel)
    wait(lambda: session.place is not None, 60)
    return session


def dataset(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw a dataset as a list: what is done and flagged, whose it is, the image that is open."""
    session = _cells(panel, folder / "listed")
    session.worklist.author = "bo"
    panel.host.labels.layer.opacity = 0.5
    only(panel, panel.dataset)
    panel.host.say("")
    viewer.reset_view()
    wait(lambda: False, 0.5)
    save(viewer, "dataset")


def losses(viewer: Any, panel: Any, folder: Path) -> None:
    """Draw what a format cannot hold of a dataset, before anything is written."""
    _cells(panel, folder / "lost")
    panel.host.labels.layer.opacity = 0.5
    only(panel, panel.export)
    box = panel.convert
    box.choose("voc")
    box.folder.setText("nuclei-voc")
    box.look.click()
    wait(lambda: box._planned is not None, 120)
    settle(panel)
    panel.host.say("")
    panel.area.ensureWidgetVisible(box.answer)
    wait(lambda: False, 0.5)
    save(viewer, "losses")


SCENES = {
    scene.__name__: scene
    for scene in (
        window,
        nuclei,
        export,
        train,
        views,
        letters,
        objects,
        review,
        tools,
        compare,
        panoptic,
        families,
        dataset,
        losses,
    )
}


def main(names: list[str]) -> None:
    """Draw the named scenes, or all."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MASKLOOP_HOME"] = folder
        os.environ["NAPARI_CONFIG"] = f"{folder}/settings.yaml"
        import napari

        IMAGES.mkdir(exist_ok=True)
        for name in names or list(SCENES):
            viewer = napari.Viewer()
            viewer.window.resize(*SIZE)
            _, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
            wait(lambda: False, 0.5)
            SCENES[name](viewer, panel, Path(folder))
            viewer.close()


if __name__ == "__main__":
    main(sys.argv[1:])
