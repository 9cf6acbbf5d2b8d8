"""Sets of volumes whose JSON was spoilt at random: read, or refused in our words."""

from __future__ import annotations

import copy
import json
import random
import shutil
from contextlib import suppress

import numpy as np
import pytest

from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job
from maskloop.datasets import get
from maskloop.datasets.base import Options
from maskloop.desk.cases import open_case
from maskloop.desk.datasets import convert_dataset, open_dataset
from tests.datasets import volumes

ODD = (
    None,
    -1,
    0,
    1,
    2**40,
    2**70,
    1e300,
    1.5,
    "x",
    "../x",
    [],
    {},
    [None],
    {"a": 1},
    True,
    "9" * 30,
)


def spoilt(node, rng):
    """Put something odd somewhere into JSON, in place."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
        return
    key = rng.choice(keys)
    if isinstance(node[key], (dict, list)) and rng.random() < 0.75:
        spoilt(node[key], rng)
    elif isinstance(node, dict) and rng.random() < 0.2:
        del node[key]
    else:
        node[key] = copy.deepcopy(rng.choice(ODD))


def made(folder, name):
    """Write a small set and return its folder and its JSON files."""
    samples = [volumes.sample(folder, f"v{n}", split=s) for n, s in enumerate(("train", "val"))]
    if name == "cases":
        for sample in samples:
            mask = sample.masks[0]
            with open_case(sample.item.image, mask=mask, author="anna") as case:
                case.paint((2, 3, 3), radius_mm=1, label="tumour")
        return folder, sorted(folder.glob("*.maskloop/*.json"))
    convert_dataset(volumes.dataset_of(folder, *samples), folder / "out", name)
    (folder / "out" / "receipt.json").unlink()
    return folder / "out", sorted((folder / "out").rglob("*.json"))


@pytest.mark.parametrize("name", ["coco-volume", "nnunet", "monai", "pairs", "cases"])
def test_only_our_errors_come_out(tmp_path, name):
    folder, files = made(tmp_path, name)
    whole = {file: file.read_bytes() for file in files}
    assert whole
    rng = random.Random(11)
    outcomes = {"read": 0, "refused": 0, "unclear": 0}
    for turn in range(60):
        file = files[turn % len(files)]
        if turn % 10 == 9:
            raw = whole[file][: rng.randrange(len(whole[file]))]
        else:
            text = json.loads(whole[file])
            for _ in range(rng.randint(1, 3)):
                spoilt(text, rng)
            raw = json.dumps(text, separators=(",", ":")).encode()
        file.write_bytes(raw)
        try:
            found = open_dataset(folder, format=name)
            for item in found.items:
                if item.has_mask:
                    found.read(item)
            outcomes["read"] += 1
        except MaskloopError as error:
            outcomes["refused"] += "expected" in str(error)
            outcomes["unclear"] += "expected" not in str(error)
        with suppress(MaskloopError):
            list(get(name).check(folder, options=Options(), job=Job()) if get(name).check else ())
        file.write_bytes(whole[file])
    assert outcomes["refused"]
    assert not outcomes["unclear"]
    again = open_dataset(folder, format=name)
    assert all(np.any(again.read(item).masks[0].data) for item in again.items)
    shutil.rmtree(folder)
