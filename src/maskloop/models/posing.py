"""Pose an image for a network: turned, resampled, normalised, sliced; and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.ops import resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from maskloop.models.cards import ModelCard

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_OF_UNIT = ("unit", "imagenet", "signed")  # rules for pixels of 0 to 1, as photographs are
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)  # ITU-R BT.709


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """An image as a network wants it, and the way back.

    Parameters
    ----------
    data : float32 array ``(c, *spatial)``
        Turned, resampled, normalised.
    turned : Geometry
        The image's own grid after turning; labels are resampled onto it.
    axes, flips
        The turn, as for `Geometry.transposed`.
    notes : tuple of str
        What was converted, for the person.
    """

    data: npt.NDArray[np.float32]
    turned: Geometry
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    notes: tuple[str, ...] = ()

    def turn(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array of the image's grid on the turned grid; a view."""
        return _flipped(values.transpose(self.axes), self.flips)

    def unturn(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array of the turned grid on the image's own grid; a view."""
        return _flipped(values, self.flips).transpose(np.argsort(self.axes))


def _flipped(values: npt.NDArray[Any], flips: Sequence[bool]) -> npt.NDArray[Any]:
    return values[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]


def require_usable(image: Image, card: ModelCard) -> None:
    """Raise `InputError` unless the network of `card` can be shown `image`; see `why_not`."""
    words = card.why_not(
        ndim=image.geometry.ndim,
        channels=image.channels,
        # A time axis of one frame still is an axis the network does not know.
        frames=image.frames if image.has_time else 0,
        name=image.name,
    )
    if words:
        raise InputError(words)


def fit_channels(image: Image, channels: int) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return the image's pixels as ``(channels, *spatial)`` and a note of any conversion.

    Grey is repeated for an RGB network; RGB becomes luminance for a grey one; a fourth channel
    (alpha) is dropped.
    """
    if not image.has_channels:
        stacked = np.broadcast_to(image.data, (channels, *image.data.shape))
        return stacked, (f"grey image repeated into {channels} channels",) if channels > 1 else ()
    first = np.moveaxis(image.data, -1, 0)
    if first.shape[0] == channels:
        return first, ()
    if first.shape[0] == 1:
        note = f"grey image repeated into {channels} channels"
        return np.broadcast_to(first, (channels, *first.shape[1:])), (note,)
    notes = ("alpha channel dropped",) if first.shape[0] == 4 else ()
    if channels == 3:
        return first[:3], notes
    grey = np.tensordot(_LUMINANCE, first[:3].astype(np.float32, copy=False), axes=1)
    return grey[None], (*notes, "RGB converted to luminance")


def to_unit(data: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return pixels as float32 in 0 to 1, as photographs are; anything but 8 bits is stretched."""
    if data.dtype == np.uint8:
        return data.astype(np.float32) / np.float32(255), ()
    if data.dtype == np.bool_:
        return data.astype(np.float32), ()
    found = data.astype(np.float32)
    if data.dtype.kind == "f" and found.size and found.min() >= 0 and found.max() <= 1:
        return found, ()
    low, high = (float(n) for n in np.percentile(found[..., ::2, ::2], (0.1, 99.9)))
    note = f"pixel values {low:.4g} to {high:.4g} stretched to 0 to 1"
    return np.clip((found - low) / max(high - low, 1e-6), 0, 1), (note,)


def normalise(
    data: npt.NDArray[Any], rule: str | Mapping[str, Any] | None
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return ``(c, *spatial)`` pixels mapped as a card's ``normalise`` says, and notes.

    Parameters
    ----------
    data : array ``(c, *spatial)``
    rule : str, mapping or None
        ``{"clip": [low, high], "mean": m, "std": s}`` (numbers, or one a channel; each part may be
        left out), ``{"percentile": [low, high]}`` (to 0 and 1, per channel, not clipped),
        ``"zscore"`` (per channel), ``"unit"`` (0 to 1 as photographs), ``"imagenet"`` (unit, then
        ImageNet's mean and deviation), ``"signed"`` (unit, then -1 to 1); None changes nothing.

    Raises
    ------
    InputError
        If the rule is not one of these.
    """
    axes = tuple(range(1, data.ndim))
    if rule is None:
        return data.astype(np.float32), ()
    if rule in _OF_UNIT:
        unit, notes = to_unit(data)
        if rule == "signed":
            return 2 * unit - 1, notes
        if rule == "imagenet":
            return _scaled(
                unit, IMAGENET_MEAN[: data.shape[0]], IMAGENET_STD[: data.shape[0]]
            ), notes
        return unit, notes
    found = data.astype(np.float32)
    if rule == "zscore":
        mean = found.mean(axis=axes, keepdims=True)
        return (found - mean) / np.maximum(found.std(axis=axes, keepdims=True), 1e-6), ()
    if not isinstance(rule, str) and set(rule) == {"percentile"}:
        low, high = np.percentile(found, rule["percentile"], axis=axes, keepdims=True)
        return ((found - low) / np.maximum(high - low, 1e-6)).astype(np.float32), ()
    if not isinstance(rule, str) and set(rule) <= {"clip", "mean", "std"}:
        if "clip" in rule:
            np.clip(found, *rule["clip"], out=found)
        return _scaled(found, rule.get("mean", 0.0), rule.get("std", 1.0)), ()
    msg = (
        f"expected a rule of normalisation (clip/mean/std, percentile, 'zscore', 'unit', "
        f"'imagenet', 'signed'), got {rule!r}; correct the card's parameters"
    )
    raise InputError(msg)


def _scaled(
    data: npt.NDArray[np.float32], mean: float | Sequence[float], std: float | Sequence[float]
) -> npt.NDArray[np.float32]:
    shape = (-1, *[1] * (data.ndim - 1))
    data -= np.asarray(mean, dtype=np.float32).reshape(shape)
    data /= np.asarray(std, dtype=np.float32).reshape(shape)
    return data


def pose(image: Image, card: ModelCard) -> Pose:
    """Return `image` turned, resampled and normalised for the network of `card`.

    `card.parameters` may hold ``orientation`` (three letters, such as ``"SAR"``), ``normalise``
    (see `normalise`) and ``order`` (of the spline, 1 where not told).

    Raises
    ------
    InputError
        If the image has a time axis, too few axes, or channels the network cannot take.
    """
    require_usable(image, card)
    wanted = str(card.parameters.get("orientation", ""))
    if wanted and image.geometry.orientation:
        axes, flips = image.geometry.towards(wanted)
    else:
        ndim = image.geometry.ndim
        axes, flips = tuple(range(ndim)), (False,) * ndim
    turned = image.geometry.transposed(axes, flips)
    stacked, notes = fit_channels(image, card.channels)
    planes = [_flipped(plane.transpose(axes), flips) for plane in stacked]
    if card.spacing is not None and turned.unit == "mm":
        order = int(card.parameters.get("order", 1))
        # Filters work in float; integer pixels would be rounded once more on the way.
        planes = [
            resample.image(Image(plane.astype(np.float32), turned), card.spacing, order=order).data
            if not _is_near(turned.spacing, card.spacing)
            else plane
            for plane in planes
        ]
    data, more = normalise(np.stack(planes), card.parameters.get("normalise"))
    return Pose(data, turned, axes, flips, (*notes, *more))


def _is_near(spacing: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(abs(a - b) <= 0.001 * b for a, b in zip(spacing, wanted, strict=True))


def flat_axis(geometry: Geometry) -> int:
    """Return the axis to slice a volume along: that of the largest spacing, the first on a tie."""
    return int(np.argmax(np.round(geometry.spacing, 4)))


def slices_of(image: Image) -> tuple[int, list[Image]]:
    """Return the axis a 2D network walks along, and the slices as pictures of that volume.

    A slice keeps its two spacings, with an affine of its own plane: it is a way to work, not a
    place in the patient.
    """
    axis = flat_axis(image.geometry)
    rows, columns = (s for i, s in enumerate(image.geometry.spacing) if i != axis)
    shape = [n for i, n in enumerate(image.geometry.shape) if i != axis]
    affine = np.array([[0, columns, 0], [rows, 0, 0], [0, 0, 1]], dtype=np.float64)
    grid = Geometry((shape[0], shape[1]), affine, image.geometry.unit)
    moved = np.moveaxis(image.data, axis, 0)
    planes = [Image(plane, grid, image.source, has_channels=image.has_channels) for plane in moved]
    return axis, planes


def levelled(image: Image, card: ModelCard) -> tuple[Image, ModelCard, tuple[str, ...]]:
    """Return a volume, and the card for its slices, so that grey means the same in all of them.

    A 2D network sees slice by slice; each slice stretched by itself would flicker. What a rule
    takes from the picture (its range, its mean) is therefore taken from the whole volume.
    """
    rule = card.parameters.get("normalise")
    notes: tuple[str, ...] = ()
    if rule in _OF_UNIT and image.data.dtype != np.uint8:
        data, notes = to_unit(image.data)
    elif rule == "zscore" or (isinstance(rule, Mapping) and "percentile" in rule):
        last = image.data if image.has_channels else image.data[..., None]
        data = np.moveaxis(normalise(np.moveaxis(last, -1, 0), rule)[0], 0, -1)
        data = data if image.has_channels else data[..., 0]
        card = replace(card, parameters={**card.parameters, "normalise": None})
    else:
        return image, card, ()
    even = Image(data, image.geometry, image.source, has_channels=image.has_channels)
    return even, card, notes
