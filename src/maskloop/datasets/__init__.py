"""The shelf of dataset formats: one line each; nothing is imported until asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from maskloop.core.errors import FormatError
from maskloop.core.registry import Registry
from maskloop.formats.base import missing

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.datasets.base import DatasetFormat

# Profiles of mask folders (`profiles/NAME.toml`), in the order in which they are asked.
PROFILES = (
    *("cityscapes", "kitti", "bdd100k-panoptic", "bdd100k-instances", "bdd100k", "mapillary"),
    *("apolloscape", "coco-stuff", "sceneparse", "ade20k", "voc", "sbd", "pascal-context"),
    *("pascal-context-mat", "camvid", "msrc", "stanford-background", "siftflow", "barcelona"),
    *("ccp", "pratheepan", "isbi-em", "inria-aerial", "graz02", "dsb2018", "urbanmapper3d"),
    *("airsim", "human-parsing", "data-from-games", "daimler", "roaddetector", "binary"),
)

# In the order in which they are asked whether a folder is theirs: the surest first.
DATASETS = Registry(
    "dataset format",
    "maskloop.datasets",
    {
        "maskfolder": "maskloop.datasets.maskfolder:FORMAT",
        "cvat": "maskloop.datasets.cvat:FORMAT",
        "geojson": "maskloop.datasets.geojson:FORMAT",
        "stanford-background": "maskloop.datasets.maskfolder:stanford-background",
        "yolo": "maskloop.datasets.yolo:FORMAT",
        "labelme": "maskloop.datasets.labelme:FORMAT",
        "coco-volume": "maskloop.datasets.cocovolume:FORMAT",
        "coco-panoptic": "maskloop.datasets.cocopanoptic:FORMAT",
        "coco": "maskloop.datasets.coco:FORMAT",
        "indexed": "maskloop.datasets.indexed:FORMAT",
        "huggingface": "maskloop.datasets.huggingface:FORMAT",
        **{name: f"maskloop.datasets.maskfolder:{name}" for name in PROFILES},
        "cityscapes": "maskloop.datasets.cityscapes:FORMAT",  # the same profiles, and a writer
        "voc": "maskloop.datasets.voc:FORMAT",
        "nnunet": "maskloop.datasets.nnunet:FORMAT",
        "monai": "maskloop.datasets.monai:FORMAT",
        "lits": "maskloop.datasets.pairs:LITS",
        "cases": "maskloop.datasets.cases:FORMAT",
        "dicomseg": "maskloop.datasets.dicomseg:FORMAT",
        "pairs": "maskloop.datasets.pairs:FORMAT",  # the least sure: last
    },
)


def get(name: str) -> DatasetFormat:
    """Import and return the dataset format called `name`; see `Registry.get` for the errors."""
    found: DatasetFormat = DATASETS.get(name)
    return found


def known(path: Path) -> DatasetFormat | None:
    """Return the first dataset format that knows a file or folder, or None.

    What the receipt of a written dataset says is asked first.
    """
    said = _stated(path)
    for name in [said, *DATASETS] if said else DATASETS:
        found = get(name)
        if found.open is not None and found.sniff(path):
            return found
    return None


def others(path: Path, chosen: DatasetFormat) -> list[str]:
    """Return the names of further formats that know a file or folder that tells none itself."""
    if _stated(path) == chosen.name:
        return []
    found = (get(name) for name in DATASETS)
    return [f.name for f in found if f.name != chosen.name and f.open and f.sniff(path)]


def format_of(path: Path) -> DatasetFormat:
    """Return the first dataset format that knows a file or folder.

    Raises
    ------
    MissingFileError
        If nothing is there.
    FormatError
        If no format knows it; the message lists those that can be named.
    """
    if not path.exists():
        raise missing(path, "a dataset")
    found = known(path)
    if found is not None:
        return found
    if not (any(path.iterdir()) if path.is_dir() else path.stat().st_size):
        what = "folder" if path.is_dir() else "file"
        msg = f"expected a dataset, got {path.name!r}, an empty {what}; choose another"
        raise FormatError(msg)
    names = ", ".join(name for name in DATASETS if get(name).open is not None)
    msg = (
        f"expected a dataset of a known format, got {path.name!r}, which none knows; name its "
        f"format with --from ({names}), or write a profile for it"
    )
    raise FormatError(msg)


def _stated(path: Path) -> str:
    """Return the format that the receipt of a written dataset names; empty where it names none."""
    receipt = path / "receipt.json"
    try:
        name = json.loads(receipt.read_bytes()).get("format") if path.is_dir() else ""
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return name if isinstance(name, str) and name in DATASETS else ""
