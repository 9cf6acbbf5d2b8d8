"""Pascal VOC: ``SegmentationClass`` and ``SegmentationObject`` PNGs with VOC's palette."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from maskloop.datasets import bitcolours, maskfolder, maskfolder_write
from maskloop.datasets.base import Held, Options, place_image, safe_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from maskloop.core.dataset import Dataset, Sample
    from maskloop.core.job import Job

_MOST = 254  # 255 is void, among classes and among objects


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Settle overlaps; ignored labels become void."""
    return maskfolder_write.held(sample, "Pascal VOC", most_objects=_MOST, with_void=True)


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write masks, pictures, lists of the splits, and two tables: labelmap.txt and classes.json."""
    values = maskfolder_write.Values.of(dataset, most=_MOST, with_void=True)
    splits: dict[str, list[str]] = {}
    colours = bitcolours.colours_of(range(256)).tobytes()
    for sample in samples:
        name = safe_name(sample.item.name)
        ids = sample.masks[0].data
        classes, objects = values.tables(sample.masks[0])
        path = folder / "SegmentationClass" / f"{name}.png"
        maskfolder_write.save(path, classes[ids], colours, header=sample.header)
        if dataset.kind != "classes" or objects.any():
            objects[classes == maskfolder_write.VOID] = maskfolder_write.VOID
            path = folder / "SegmentationObject" / f"{name}.png"
            maskfolder_write.save(path, objects[ids], colours)
        place_image(sample.item, folder / "JPEGImages" / name, options=options, job=job)
        splits.setdefault(sample.item.split or "default", []).append(name)
    maskfolder_write.save_lists(folder / "ImageSets" / "Segmentation", splits)
    (folder / "SegmentationClass").mkdir(exist_ok=True)
    maskfolder_write.save_table(folder / "classes.json", values.table())
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    by_value = {row.id: row.name for row in values.rows.values()}
    for value in range(1, max(by_value, default=0) + 1):
        rgb = ",".join(str(n) for n in colours[3 * value : 3 * value + 3])
        name = by_value.get(value, f"unused {value}").replace(":", "_").replace("\n", " ")
        lines.append(f"{name}:{rgb}::")
    (folder / "labelmap.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


FORMAT = replace(
    maskfolder.format_for("voc"), hold=hold, write=write, options=frozenset({"images"})
)
