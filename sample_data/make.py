"""Make the small files of this folder anew: `python sample_data/make.py`.

Everything here is drawn by `maskloop.ops.phantom`; no patient and no photograph is behind it.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image as Picture

import maskloop
from maskloop.ops import phantom

HERE = Path(__file__).parent


def main() -> None:
    """Write the CT with its truth, and the picture of nuclei with its truth."""
    ct, truth = phantom.phantom_ct(
        7, shape=(40, 80, 96), spacing=(5.0, 4.0, 4.0), lesions=(3, 5), diameters_mm=(15.0, 45.0)
    )
    # nibabel stores (x, y, z); maskloop's affine has its columns in (z, y, x).
    affine = ct.geometry.affine[:, [2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(ct.data.T.astype(np.int16), affine), HERE / "phantom_ct.nii.gz")
    maskloop.export(truth, HERE / "phantom_ct_labels.nii.gz", image=HERE / "phantom_ct.nii.gz")
    picture, nuclei = phantom.nuclei_picture(3, shape=(256, 256))
    Picture.fromarray(picture.data).save(HERE / "nuclei.png")
    maskloop.export(nuclei, HERE / "nuclei_labels.png", image=HERE / "nuclei.png")


if __name__ == "__main__":
    main()
