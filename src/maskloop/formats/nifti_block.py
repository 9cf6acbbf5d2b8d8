"""The header block of NIfTI-1 and NIfTI-2: its fields, and what they say of the grid.

`maskloop.formats.nifti_plain` reads the same bytes without this file, so that it can check it.

References
----------
.. [1] "NIfTI-1 Data Format", nifti1.h, 2004: 348 bytes; fields, qform (METHOD 2), sform (METHOD 3).
.. [2] "NIfTI-2 Data Format", nifti2.h, 2011: the same in 540 bytes, with wider numbers.
.. [3] I. Y. Bar-Itzhack, "New Method for Extracting the Quaternion from a Rotation Matrix",
   Journal of Guidance, Control, and Dynamics 23(6), 2000: as the eigenvector of a matrix of 4 x 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from maskloop.core.geometry import Affine

Field = npt.NDArray[Any]  # Any: a header's fields are of many types

_NIFTI1 = np.dtype(
    [
        *(("sizeof_hdr", "<i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "<i4")),
        *(("session_error", "<i2"), ("regular", "S1"), ("dim_info", "u1"), ("dim", "<i2", 8)),
        *(("intent_p1", "<f4"), ("intent_p2", "<f4"), ("intent_p3", "<f4")),
        *(("intent_code", "<i2"), ("datatype", "<i2"), ("bitpix", "<i2"), ("slice_start", "<i2")),
        *(("pixdim", "<f4", 8), ("vox_offset", "<f4"), ("scl_slope", "<f4"), ("scl_inter", "<f4")),
        *(("slice_end", "<i2"), ("slice_code", "u1"), ("xyzt_units", "u1"), ("cal_max", "<f4")),
        *(("cal_min", "<f4"), ("slice_duration", "<f4"), ("toffset", "<f4"), ("glmax", "<i4")),
        *(("glmin", "<i4"), ("descrip", "S80"), ("aux_file", "S24")),
        *(("qform_code", "<i2"), ("sform_code", "<i2")),
        *(("quatern_b", "<f4"), ("quatern_c", "<f4"), ("quatern_d", "<f4")),
        *(("qoffset_x", "<f4"), ("qoffset_y", "<f4"), ("qoffset_z", "<f4")),
        *(("srow_x", "<f4", 4), ("srow_y", "<f4", 4), ("srow_z", "<f4", 4)),
        *(("intent_name", "S16"), ("magic", "S4")),
    ]
)
_NIFTI2 = np.dtype(
    [
        *(("sizeof_hdr", "<i4"), ("magic", "S8"), ("datatype", "<i2"), ("bitpix", "<i2")),
        *(("dim", "<i8", 8), ("intent_p1", "<f8"), ("intent_p2", "<f8"), ("intent_p3", "<f8")),
        *(("pixdim", "<f8", 8), ("vox_offset", "<i8"), ("scl_slope", "<f8"), ("scl_inter", "<f8")),
        *(("cal_max", "<f8"), ("cal_min", "<f8"), ("slice_duration", "<f8"), ("toffset", "<f8")),
        *(("slice_start", "<i8"), ("slice_end", "<i8"), ("descrip", "S80"), ("aux_file", "S24")),
        *(("qform_code", "<i4"), ("sform_code", "<i4")),
        *(("quatern_b", "<f8"), ("quatern_c", "<f8"), ("quatern_d", "<f8")),
        *(("qoffset_x", "<f8"), ("qoffset_y", "<f8"), ("qoffset_z", "<f8")),
        *(("srow_x", "<f8", 4), ("srow_y", "<f8", 4), ("srow_z", "<f8", 4)),
        *(("slice_code", "<i4"), ("xyzt_units", "<i4"), ("intent_code", "<i4")),
        *(("intent_name", "S16"), ("dim_info", "u1"), ("unused_str", "S15")),
    ]
)
_FIELDS = {1: _NIFTI1, 2: _NIFTI2}
_MAGIC = {1: b"n+1", 2: b"n+2\0\r\n\x1a\n"}
_QUATERNION_ERROR = {1: 3 * 2.0**-23, 2: 3 * 2.0**-52}  # 3 steps of float32, float64 at 1

_RGB = np.dtype([(letter, np.uint8) for letter in "RGB"])
_RGBA = np.dtype([(letter, np.uint8) for letter in "RGBA"])
_TYPES: dict[int, np.dtype[Any]] = {  # Any: of any type
    **{2: np.dtype("u1"), 4: np.dtype("i2"), 8: np.dtype("i4"), 16: np.dtype("f4")},
    **{32: np.dtype("c8"), 64: np.dtype("f8"), 128: _RGB, 256: np.dtype("i1")},
    **{512: np.dtype("u2"), 768: np.dtype("u4"), 1024: np.dtype("i8"), 1280: np.dtype("u8")},
    **{1792: np.dtype("c16"), 2304: _RGBA},
}
_CODES = {dtype: code for code, dtype in _TYPES.items()}
# None, bits, 128-bit floats, 256-bit complex numbers, "all": named by the standard, not held here.
_UNHELD = frozenset((0, 1, 255, 1536, 2048))
_VECTOR, _MM_AND_SECONDS = 1007, 2 + 8


@dataclass(frozen=True, slots=True, eq=False)
class NiftiBlock:
    """A header's numbers under their standard's names; `block["dim"]` reads and sets one."""

    version: int  # 1 or 2
    fields: Field  # one record, in the file's byte order

    @classmethod
    def empty(cls, version: int) -> NiftiBlock:
        """Return a little-endian header of a single file that states no shape and no grid."""
        block = cls(version, np.zeros((), _FIELDS[version]))
        block["sizeof_hdr"], block["magic"] = block.size, _MAGIC[version]
        block["dim"][1:] = 1
        block["pixdim"] = 1
        block["scl_slope"] = 1
        block.set_dtype(np.float32)
        return block

    @classmethod
    def parsed(cls, start: bytes, version: int) -> NiftiBlock:
        """Return the header at the start of a file; the number of axes tells the byte order."""
        kind = _FIELDS[version]
        little = np.frombuffer(start, kind, 1).reshape(()).copy()
        big = np.frombuffer(start, kind.newbyteorder(">"), 1).reshape(()).copy()
        ndim = int(little["dim"][0])
        is_big = int(big["sizeof_hdr"]) == kind.itemsize if ndim == 0 else not 1 <= ndim <= 7
        return cls(version, big if is_big else little)

    def __getitem__(self, name: str) -> Field:
        """Return a field; an array of numbers is a view, and writing to it sets them."""
        found: Field = self.fields[name]
        return found

    def __setitem__(self, name: str, value: npt.ArrayLike) -> None:
        """Set a field."""
        self.fields[name] = value

    @property
    def size(self) -> int:
        """Bytes of the block: 348 or 540."""
        return self.fields.dtype.itemsize

    @property
    def byte_order(self) -> Literal["<", ">"]:
        """``"<"`` or ``">"``, as `struct` and numpy have it."""
        return "<" if self.fields.dtype == _FIELDS[self.version] else ">"

    def to_bytes(self) -> bytes:
        """Return the block in little-endian order."""
        return (self.fields if self.byte_order == "<" else self.fields.byteswap()).tobytes()

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along i, j, k, ... as stated, with FreeSurfer's two ways to state long vectors.

        Raises
        ------
        ValueError
            If a long vector states no length.
        """
        ndim = int(self["dim"][0])
        shape = tuple(int(n) for n in self["dim"][1 : ndim + 1]) if ndim else (0,)
        if self.version == 2:
            return shape
        # More than 32767 in a row do not fit: FreeSurfer writes -1 and the count into glmin,
        # and the 163842 vertices of its finest sphere as 27307 x 1 x 6.
        if shape[:3] == (-1, 1, 1):
            length = int(self["glmin"])
            if length == 0:
                msg = "-1 voxels along the first axis and no length in glmin"
                raise ValueError(msg)
            return (length, *shape[1:])
        if shape[:3] == (27307, 1, 6):
            return (163842, 1, 1, *shape[3:])
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:  # Any: of any type
        """The type of a voxel, in the file's byte order; no bytes wide where numpy has none.

        Raises
        ------
        KeyError
            If the standard knows no such code.
        """
        code = int(self["datatype"])
        if code in _UNHELD:
            return np.dtype(np.void)
        return _TYPES[code].newbyteorder(self.byte_order)

    @property
    def sform(self) -> Affine:
        """The affine of (i, j, k) indices in the rows of the sform."""
        return np.array((self["srow_x"], self["srow_y"], self["srow_z"], (0, 0, 0, 1)), np.float64)

    @property
    def qform(self) -> Affine:
        """The affine of (i, j, k) indices that quaternion, offsets and steps say.

        Raises
        ------
        ValueError
            If the quaternion is longer than 1, a step is negative, or its sign is neither 1 nor -1.
        """
        rotation = self._rotation()
        steps, handedness = self["pixdim"][1:4], float(self["pixdim"][0])
        if np.any(steps < 0) or handedness not in (-1, 1):
            msg = f"steps {steps.tolist()} and their sign {handedness} make no qform"
            raise ValueError(msg)
        affine = np.eye(4)
        affine[:3, :3] = rotation * steps * (1, 1, handedness)
        affine[:3, 3] = self["qoffset_x"], self["qoffset_y"], self["qoffset_z"]
        return affine

    def _rotation(self) -> npt.NDArray[np.longdouble]:
        b, c, d = (np.longdouble(self[f"quatern_{letter}"]) for letter in "bcd")
        rest = 1 - (b * b + c * c + d * d)
        if abs(rest) < _QUATERNION_ERROR[self.version]:
            rest = np.longdouble(0)  # half a turn, but for rounding
        if rest < 0:
            msg = f"a quaternion with {b}, {c}, {d} is longer than 1"
            raise ValueError(msg)
        a = np.sqrt(rest)
        length = np.sqrt(a * a + b * b + c * c + d * d)
        a, b, c, d = a / length, b / length, c / length, d / length
        return np.array(
            (
                (1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)),
                (2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)),
                (2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)),
            )
        )

    @property
    def base_affine(self) -> Affine:
        """The Analyze convention for files that state no orientation: x to the left, 0 amid."""
        ndim = int(self["dim"][0])
        shape, steps = np.ones(3), np.ones(3)
        counts = self["dim"][1 : ndim + 1][:3]
        shape[: len(counts)] = counts
        steps[: len(counts)] = self["pixdim"][1 : 1 + len(counts)]
        steps[0] *= -1
        affine = np.diag((*steps, 1.0))
        affine[:3, 3] = -(shape - 1) / 2 * steps
        return affine

    def set_shape(self, shape: tuple[int, ...]) -> None:
        """State the voxels along i, j, k, ...; each must fit the version's type of number."""
        self["dim"] = 1
        self["dim"][: 1 + len(shape)] = (len(shape), *shape)

    def set_dtype(self, dtype: npt.DTypeLike) -> None:
        """State the type of a voxel, one that the standard has; its byte order is left open."""
        held = np.dtype(dtype).newbyteorder("=")
        self["datatype"], self["bitpix"] = _CODES[held], 8 * held.itemsize

    def set_sform(self, affine: Affine, *, code: int) -> None:
        """State an affine of (i, j, k) indices in the rows of the sform."""
        self["sform_code"] = code
        self["srow_x"], self["srow_y"], self["srow_z"] = affine[:3]

    def set_qform(self, affine: Affine, *, code: int) -> None:
        """State the rotation nearest to an affine of (i, j, k) indices, its steps and offsets."""
        steps = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        axes = affine[:3, :3] / steps
        handedness = 1 if np.linalg.det(axes) > 0 else -1
        axes[:, 2] *= handedness
        left, _, right = np.linalg.svd(axes)
        _, *bcd = _quaternion(left @ right)
        self["qform_code"] = code
        self["quatern_b"], self["quatern_c"], self["quatern_d"] = bcd
        self["qoffset_x"], self["qoffset_y"], self["qoffset_z"] = affine[:3, 3]
        self["pixdim"][:4] = (handedness, *steps)

    def set_mm(self) -> None:
        """State millimetres and seconds."""
        self["xyzt_units"] = _MM_AND_SECONDS

    def set_vector(self) -> None:
        """State that the fifth axis holds the values of one voxel."""
        self["intent_code"] = _VECTOR


def _quaternion(rotation: Affine) -> npt.NDArray[np.float64]:
    """Return (a, b, c, d), a >= 0; sound for half turns too, where a is 0 and quotients fail."""
    x, y, z = rotation.diagonal()
    matrix = rotation + rotation.T
    np.fill_diagonal(matrix, (x - y - z, y - x - z, z - x - y))
    turn = rotation - rotation.T
    last = (turn[2, 1], turn[0, 2], turn[1, 0], x + y + z)
    whole = np.vstack((np.column_stack((matrix, last[:3])), last))
    b, c, d, a = np.linalg.eigh(whole / 3)[1][:, -1]
    found = np.array((a, b, c, d), np.longdouble) * (-1 if a < 0 else 1)
    # The eigenvector may be longer than 1 by 4e-16: nibabel then refuses half a turn in NIfTI-2.
    unit: npt.NDArray[np.float64] = (found / np.sqrt(found @ found)).astype(np.float64)
    return unit
