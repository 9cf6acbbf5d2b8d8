"""COCO: encoding, decoding and writing objects against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from timing import SAMPLED, table

from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets import coco as cocoset
from maskloop.datasets.base import Options
from maskloop.formats import coco
from maskloop.formats.base import Target
from maskloop.formats.coco_stream import CocoStream
from maskloop.loop.export import export
from maskloop.ops import outlines
from maskloop.ops.rings import rings


def instances(count: int = 500, side: int = 2048) -> Mask:
    random = np.random.default_rng(0)
    ids = np.zeros((side, side), np.uint16)
    y, x = np.mgrid[-40:41, -40:41]
    cells = [(r, c) for r in range(45, side - 45, 86) for c in range(45, side - 45, 86)]
    for number, at in enumerate(random.permutation(len(cells))[:count], start=1):
        row, column = cells[at]
        a, b = random.uniform(12, 40, 2)
        ids[row - 40 : row + 41, column - 40 : column + 41][(y / a) ** 2 + (x / b) ** 2 < 1] = (
            number
        )
    return Mask(ids, Geometry.pixels(ids.shape), LabelTable.objects(range(1, count + 1), "cell"))


def extra_memory(work: Callable[[], object]) -> int:
    """Return the most bytes that were in use at a time beside those before."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def bench_coco(folder: Path) -> None:
    from pycocotools import mask as peer

    mask = instances()
    ids, numbers = mask.data, mask.ids()

    def usual(wanted: list[int]) -> list[dict[str, Any]]:
        found = []
        for number in wanted:
            run = peer.encode(np.asfortranarray(ids == number).astype(np.uint8))
            area, box = int(peer.area(run)), peer.toBbox(run).tolist()
            run["counts"] = run["counts"].decode()
            found.append({"id": number, "segmentation": run, "area": area, "bbox": box})
        return found

    def usual_file() -> None:
        with (folder / "usual.json").open("w") as stream:
            json.dump({"annotations": usual(numbers[::5])}, stream)

    def careful() -> list[Any]:
        """Encode each object in its box, pasted into one canvas that is cleaned again."""
        from scipy import ndimage

        canvas = np.zeros(ids.shape, np.uint8, order="F")
        found = []
        for number, box in enumerate(ndimage.find_objects(ids), start=1):
            canvas[box] = ids[box] == number
            run = peer.encode(canvas)
            found.append((run, int(peer.area(run)), peer.toBbox(run)))
            canvas[box] = 0
        return found

    theirs = [a["segmentation"]["counts"] for a in usual(numbers)]
    ours = [outline.counts for outline in outlines.encode(ids)]
    print(f"\nRun lengths equal pycocotools' byte for byte: {ours == theirs}")
    table(
        f"4a {len(numbers)} run lengths, areas and boxes of one 2048x2048 label picture",
        {
            "maskloop outlines.encode": lambda: outlines.encode(ids),
            f"pycocotools, the usual loop {SAMPLED}": lambda: usual(numbers[::5]),
            "pycocotools, objects in their boxes on one canvas": careful,
            "floor: transpose the picture": lambda: np.ascontiguousarray(ids.T),
        },
        f"pycocotools, the usual loop {SAMPLED}",
        ">= 500 times faster (<= 0.002), >= 45 times faster than in boxes",
    )
    most = extra_memory(lambda: outlines.encode(ids)) / ids.nbytes
    print(f"\nEncoding takes {most:.2f} times the label picture's memory beside it (at most 2).")
    runs = [a["segmentation"] for a in usual(numbers)]

    def decoded(wanted: list[dict[str, Any]]) -> Any:  # Any: the picture
        picture = np.zeros(ids.shape, np.uint16)
        for number, run in enumerate(wanted, start=1):
            picture[peer.decode(run) > 0] = number
        return picture

    def ours_decoded() -> Any:  # Any: the picture
        every = outlines.decode([run["counts"] for run in runs], ids.size)
        return outlines.painted(every, range(1, len(every) + 1), ids.shape, np.uint16)

    same = np.array_equal(decoded(runs), ours_decoded())
    print(f"\nDecoded label pictures equal pycocotools': {same}")
    most = extra_memory(ours_decoded) / ids.nbytes
    print(f"\nDecoding takes {most:.2f} times the label picture's memory, the picture counted.")
    table(
        f"4b {len(numbers)} run lengths to one label picture",
        {
            "maskloop outlines.decode and painted": ours_decoded,
            f"pycocotools, decoded one by one {SAMPLED}": lambda: decoded(runs[::5]),
        },
        f"pycocotools, decoded one by one {SAMPLED}",
        ">= 600 times faster (<= 0.0017)",
    )
    plain = folder / "plain.json"

    def write() -> None:
        coco.write_mask(mask, Target(plain, ".json", plain))

    table(
        "4c the whole COCO file of that picture",
        {
            "maskloop write alone": write,
            "maskloop export (written, read back, compared)": lambda: export(
                mask, folder / "m.json"
            ),
            f"pycocotools loop and json.dump {SAMPLED}": usual_file,
        },
        f"pycocotools loop and json.dump {SAMPLED}",
        "write alone >= 450 times faster (<= 0.0022)",
    )


def many(count: int = 60_000, images: int = 5_000) -> dict[str, Any]:
    """Return the content of a COCO file with polygons of 10 to 40 corners."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 500, (count, 80)).round(2)
    lengths = random.integers(10, 40, count)
    return {
        "info": {},
        "licenses": [],
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640}
            for i in range(1, images + 1)
        ],
        "annotations": [
            {
                "id": number + 1,
                "image_id": number * images // count + 1,
                "category_id": number % 80 + 1,
                "segmentation": [corners[number, : 2 * length].tolist()],
                "area": 123.5,
                "bbox": [1.0, 2.0, 3.5, 4.5],
                "iscrowd": 0,
            }
            for number, length in enumerate(lengths.tolist())
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
    }


def bench_files(folder: Path) -> None:
    import orjson
    from pycocotools.coco import COCO

    content = many()
    path = folder / "instances_train.json"
    groups: dict[int, list[Any]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        groups[annotation["image_id"]].append(annotation)

    def streamed() -> None:
        with CocoStream(path, {"info": {}, "licenses": []}) as stream:
            for image in content["images"]:
                stream.add(image, groups[image["id"]])
            stream.finish(content["categories"])

    def dumped() -> None:
        with (folder / "dumped.json").open("w") as file:
            json.dump(content, file)

    table(
        "4d writing 60,000 annotations of 5,000 images",
        {
            "maskloop CocoStream, image by image": streamed,
            "json.dump": dumped,
            "orjson, all at once": lambda: (folder / "o.json").write_bytes(orjson.dumps(content)),
        },
        "json.dump",
        "<= 0.3 of json.dump; <= 1.1 of orjson with bounded memory",
    )
    streamed()
    assert json.loads(path.read_bytes()) == content

    def indexed() -> object:
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(str(path))

    table(
        "4d reading them",
        {
            "maskloop, listed and checked": lambda: cocoset.open_dataset(
                path, options=Options(), job=Job()
            ),
            "pycocotools COCO()": indexed,
            "json.load alone": lambda: json.loads(path.read_bytes()),
        },
        "pycocotools COCO()",
        "<= 0.5 of pycocotools",
    )


def bench_rings() -> None:
    from scipy import ndimage
    from skimage.measure import find_contours

    ids = instances().data
    boxes = ndimage.find_objects(ids)
    crops = [np.pad(ids[box] == n, 1) for n, box in enumerate(boxes, start=1)]
    table(
        "polygons of 500 objects, each in its box",
        {
            "maskloop rings (exact, along pixel edges)": lambda: [rings(c) for c in crops],
            "scikit-image find_contours": lambda: [find_contours(c, 0.5) for c in crops],
        },
        "scikit-image find_contours",
        "none set",
    )


def main() -> None:
    warnings.simplefilter("ignore")
    print("## COCO\n\nMedian of 5 rounds in turn, after one to warm up.")
    with tempfile.TemporaryDirectory() as name:
        bench_coco(Path(name))
        bench_files(Path(name))
    bench_rings()


if __name__ == "__main__":
    main()
