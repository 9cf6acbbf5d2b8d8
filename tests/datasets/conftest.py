"""Real nuclei with an id each, for formats that hold objects."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image as Picture

from tests.datasets.drawings import dataset_of, mask_of, thing

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.dataset import Dataset


@pytest.fixture
def nuclei(shared_data: Path, tmp_path: Path) -> Dataset:
    """Return two of the smaller pictures of DSB 2018."""
    with zipfile.ZipFile(shared_data / "images2d" / "dsb2018_nuclei" / "shared.zip") as held:
        names = [n for n in sorted(held.namelist()) if n.startswith("labels/")]
        masks = []
        for name in names:
            ids = np.array(Picture.open(io.BytesIO(held.read(name))))
            if ids.shape == (256, 256) and ids.max() > 20 and len(masks) < 2:
                present = np.unique(ids[ids > 0]).tolist()
                masks.append(mask_of(ids.astype(np.uint16), *(thing(i) for i in present)))
    return dataset_of(tmp_path / "nuclei", *masks)
