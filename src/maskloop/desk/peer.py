"""Load a COCO file with one of other people's readers, in a process of its own.

It imports nothing of ours, so that any Python that has the reader can run it by its path.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any  # Any: all that other people's packages return

NAMES = ("pycocotools", "faster-coco-eval", "torchvision", "supervision", "datumaro")


def ask(name: str, path: str, pictures: str, images: list[int]) -> dict[str, Any]:
    """Return what a reader counts, and prints of the masks of some images by image id."""
    if name in ("pycocotools", "faster-coco-eval"):
        return _cocoapi(name, path, images)
    return {"torchvision": _torchvision, "supervision": _supervision, "datumaro": _datumaro}[name](
        path, pictures, images
    )


def _print(mask: Any) -> str:
    """Return a hash of a mask's pixels."""
    numpy = importlib.import_module("numpy")
    bits = numpy.packbits(numpy.ascontiguousarray(mask).astype(bool))
    return hashlib.sha1(bits.tobytes(), usedforsecurity=False).hexdigest()


def _cocoapi(name: str, path: str, images: list[int]) -> dict[str, Any]:
    if name == "pycocotools":
        loaded = importlib.import_module("pycocotools.coco").COCO(path)
    else:
        loaded = importlib.import_module("faster_coco_eval").COCO(path)
    masks = {
        str(number): [_print(loaded.annToMask(a)) for a in loaded.imgToAnns.get(number, [])]
        for number in images
    }
    return {"images": len(loaded.imgs), "annotations": len(loaded.anns), "masks": masks}


def _torchvision(path: str, pictures: str, images: list[int]) -> dict[str, Any]:
    loaded = importlib.import_module("torchvision.datasets").CocoDetection(pictures, path)
    for number in images:
        loaded[list(loaded.ids).index(number)]
    total = sum(len(loaded.coco.imgToAnns.get(number, [])) for number in loaded.ids)
    return {"images": len(loaded), "annotations": total}


def _supervision(path: str, pictures: str, images: list[int]) -> dict[str, Any]:
    kind = importlib.import_module("supervision").DetectionDataset
    loaded = kind.from_coco(pictures, path, force_masks=True)
    content = json.loads(Path(path).read_bytes())
    numbers = {i["file_name"]: i["id"] for i in content["images"]}
    root = Path(pictures)
    masks = {}
    for place, found in loaded.annotations.items():
        number = numbers.get(Path(place).relative_to(root).as_posix())
        if number in images:
            masks[str(number)] = [_print(m) for m in (found.mask if found.mask is not None else [])]
    total = sum(len(found) for found in loaded.annotations.values())
    return {"images": len(loaded.annotations), "annotations": total, "masks": masks}


def _datumaro(path: str, pictures: str, images: list[int]) -> dict[str, Any]:
    """Load through a folder of the names that datumaro wants."""
    loader = importlib.import_module("datumaro").Dataset
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "annotations").mkdir()
        (root / "images").mkdir()
        (root / "annotations" / "instances_all.json").write_bytes(Path(path).read_bytes())
        (root / "images" / "all").symlink_to(Path(pictures).resolve(), target_is_directory=True)
        loaded = loader.import_from(folder, "coco_instances")
        content = json.loads(Path(path).read_bytes())
        numbers = {
            Path(i["file_name"]).with_suffix("").as_posix(): i["id"] for i in content["images"]
        }
        count = total = 0
        masks: dict[str, list[str]] = {}
        for item in loaded:
            count += 1
            drawn = [a for a in item.annotations if a.type.name in ("mask", "polygon")]
            total += len({a.id for a in drawn})  # the parts of one share its id
            number = numbers.get(item.id)
            if number in images and all(a.type.name == "mask" for a in drawn):
                masks[str(number)] = [_print(a.image) for a in drawn]
    return {"images": count, "annotations": total, "masks": masks}


def main(arguments: list[str]) -> int:
    """Ask the reader that the arguments name, and write its answer as JSON."""
    name, path, pictures, chosen, out = arguments
    try:
        answer: dict[str, Any] = {"version": metadata.version(name)}
    except metadata.PackageNotFoundError:
        answer = {"version": "", "is_missing": True}
    else:
        try:
            answer.update(ask(name, path, pictures, json.loads(chosen)))
        except Exception as error:  # the report is the purpose: whatever it raises is the answer
            answer["error"] = f"{type(error).__name__}: {error}"[:400]
    Path(out).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
