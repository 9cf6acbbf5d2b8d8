"""A COCO set whose every number comes from pycocotools, beside the label arrays it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture
from pycocotools import mask as api

from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.formats.base import Target, sidecar_of, table_bytes
from maskloop.formats.picture import write_mask

HEIGHT, WIDTH = 64, 96
CLASSES = {1: "cell", 3: "dead cell"}


def label_arrays() -> dict[str, tuple[np.ndarray, dict[int, int]]]:
    """Return ids and their classes by image: a hole, two parts, one pixel, an empty image."""
    first = np.zeros((HEIGHT, WIDTH), np.uint8)
    first[4:24, 6:30] = 1
    first[10:16, 12:20] = 0  # a hole
    first[30:40, 10:14] = 2
    first[30:36, 20:29] = 2  # a second part
    first[50, 70] = 3
    first[40:60, 30:50] = 4
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    second = np.zeros((HEIGHT, WIDTH), np.uint8)
    second[(y - 30) ** 2 + (x - 40) ** 2 < 169] = 1
    second[(y - 45) ** 2 + (x - 75) ** 2 < 49] = 2
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    return {
        "a/one": (first, {1: 1, 2: 3, 3: 1, 4: 3}),
        "a/two": (second, {1: 3, 2: 1}),
        "three": (empty, {}),
    }


def annotation(region: np.ndarray, number: int, image: int, category: int) -> dict[str, Any]:
    """Return one object, as pycocotools counts it."""
    found = api.encode(np.asfortranarray(region.astype(np.uint8)))
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": {"size": found["size"], "counts": found["counts"].decode()},
        "area": int(api.area(found)),
        "bbox": api.toBbox(found).tolist(),
        "iscrowd": 0,
    }


def coco_content() -> dict[str, Any]:
    """Return the JSON of the set."""
    images, annotations = [], []
    for number, (name, (ids, classes)) in enumerate(label_arrays().items(), start=1):
        images.append({"id": number, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH})
        for one, category in classes.items():
            count = len(annotations) + 1
            annotations.append(annotation(ids == one, count, number, category))
    rows = [{"id": n, "name": name, "supercategory": ""} for n, name in CLASSES.items()]
    info = {"description": "made"}
    return {"info": info, "images": images, "annotations": annotations, "categories": rows}


def write_pictures(root: Path) -> None:
    """Write a JPEG for each image."""
    for name in label_arrays():
        path = root / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path)


def write_set(root: Path, content: dict[str, Any] | None = None) -> Path:
    """Write pictures and JSON, and return the dataset's folder."""
    write_pictures(root)
    path = root / "annotations" / "instances_train.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content or coco_content()), encoding="utf-8")
    return root


def write_truth(root: Path) -> Path:
    """Write the label arrays as PNGs with their tables, and return their folder."""
    for name, (ids, classes) in label_arrays().items():
        rows = [
            Label(n, f"{CLASSES[c]} {n}", category=CLASSES[c], is_thing=True)
            for n, c in classes.items()
        ]
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Mask(ids, Geometry.pixels(ids.shape), LabelTable(rows))
        write_mask(mask, Target(path, ".png", path))
        sidecar_of(path).write_bytes(table_bytes(mask.labels))
    return root


def panoptic_content() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the JSON of a panoptic set and the PNGs' ids by file name: things on a background."""
    images, annotations, pictures = [], [], {}
    for number, (name, (ids, classes)) in enumerate(label_arrays().items(), start=1):
        stem = name.replace("/", "_")
        drawn = np.full(ids.shape, 700_000, np.uint32)
        segments = []
        for one in (0, *classes):
            segment = 700_000 if not one else 1000 * number + one
            drawn[ids == one] = segment
            entry = annotation(ids == one, segment, number, classes.get(one, 7))
            segments.append({k: entry[k] for k in ("id", "category_id", "area", "bbox", "iscrowd")})
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH})
        annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
        )
        pictures[f"{stem}.png"] = drawn
    rows = [
        {"id": n, "name": name, "isthing": int(n != 7), "color": [n, 20, 200]}
        for n, name in {**CLASSES, 7: "glass"}.items()
    ]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": rows}
    return content, pictures


def write_panoptic(root: Path, content: dict[str, Any], pictures: dict[str, np.ndarray]) -> Path:
    """Write JSON, PNGs (three bytes, red lowest) and pictures; return the folder."""
    folder = root / "annotations" / "panoptic_train"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    for name, ids in pictures.items():
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        Picture.fromarray(rgb).save(folder / name)
        shown = root / "images" / name.replace(".png", ".jpg")
        Picture.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(shown)
    folder.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")
    return root
