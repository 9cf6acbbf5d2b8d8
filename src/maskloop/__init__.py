"""Load, predict, correct, export, train: segmentation masks that keep their place.

The five verbs, the nouns they pass around, and the listings. Every name is imported when it is
first used, so that ``import maskloop`` costs nothing and viewing never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "maskloop.core.dataset": ("Dataset",),
    "maskloop.core.edits": ("Edit", "History"),
    "maskloop.core.errors": ("Cancelled", "MaskloopError"),
    "maskloop.core.geometry": ("Geometry",),
    "maskloop.core.image": ("Image",),
    "maskloop.core.job": ("Job", "Progress"),
    "maskloop.core.labels": ("Label", "LabelTable"),
    "maskloop.core.mask": ("Mask",),
    "maskloop.core.case": ("Case",),
    "maskloop.core.parameters": ("Points",),
    "maskloop.desk.agree": ("agree",),
    "maskloop.desk.cases": ("open_case", "replay"),
    "maskloop.desk.catalogue": ("list_datasets", "list_formats", "list_models", "list_tools"),
    "maskloop.desk.check": ("info", "score"),
    "maskloop.desk.compare": ("compare", "compare_masks"),
    "maskloop.desk.convert": ("convert",),
    "maskloop.desk.datasets": ("convert_dataset", "open_dataset"),
    "maskloop.desk.measure": ("measure",),
    "maskloop.desk.overlaps": ("load_objects",),
    "maskloop.desk.validate": ("validate",),
    "maskloop.formats.base": ("Choices",),
    "maskloop.loop.correct": ("correct",),
    "maskloop.loop.export": ("export",),
    "maskloop.loop.load": ("load", "load_mask", "load_masks"),
    "maskloop.loop.predict": ("predict", "predict_all"),
    "maskloop.loop.train": ("train",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  (verbs first, then nouns, then listings)
    "load",
    "load_mask",
    "load_masks",
    "load_objects",
    "predict",
    "predict_all",
    "correct",
    "export",
    "train",
    "Choices",
    "Image",
    "Mask",
    "Geometry",
    "Label",
    "LabelTable",
    "Case",
    "Dataset",
    "Edit",
    "History",
    "Points",
    "Job",
    "Progress",
    "MaskloopError",
    "Cancelled",
    "open_case",
    "replay",
    "compare",
    "compare_masks",
    "convert",
    "open_dataset",
    "convert_dataset",
    "validate",
    "agree",
    "info",
    "measure",
    "score",
    "list_models",
    "list_datasets",
    "list_formats",
    "list_tools",
]


def __getattr__(name: str) -> Any:  # Any: whatever the name's home holds
    home = _HOME_OF.get(name)
    if home is None:
        msg = f"module 'maskloop' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from maskloop.core.case import Case
    from maskloop.core.dataset import Dataset
    from maskloop.core.edits import Edit, History
    from maskloop.core.errors import Cancelled, MaskloopError
    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.core.job import Job, Progress
    from maskloop.core.labels import Label, LabelTable
    from maskloop.core.mask import Mask
    from maskloop.core.parameters import Points
    from maskloop.desk.agree import agree
    from maskloop.desk.cases import open_case, replay
    from maskloop.desk.catalogue import list_datasets, list_formats, list_models, list_tools
    from maskloop.desk.check import info, score
    from maskloop.desk.compare import compare, compare_masks
    from maskloop.desk.convert import convert
    from maskloop.desk.datasets import convert_dataset, open_dataset
    from maskloop.desk.measure import measure
    from maskloop.desk.overlaps import load_objects
    from maskloop.desk.validate import validate
    from maskloop.formats.base import Choices
    from maskloop.loop.correct import correct
    from maskloop.loop.export import export
    from maskloop.loop.load import load, load_mask, load_masks
    from maskloop.loop.predict import predict, predict_all
    from maskloop.loop.train import train
