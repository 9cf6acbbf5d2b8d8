"""The two 3D U-Nets of the liver family, and the lesion net computed the quick way on a CPU.

Paper: the family of networks is O. Ronneberger, P. Fischer, T. Brox, "U-Net", MICCAI 2015, in 3D
after Ö. Çiçek et al., "3D U-Net", MICCAI 2016. These two were made and trained at KU Leuven by the
authors of the Python package pyliverlesionseg 0.3 (its module ``architectures.unet_generalized``
was read for layers and order; no code was taken). Licence of this code: BSD-3-Clause; of the
weights: Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0.

Tensors are ``(n, channel, z, y, x)`` with z, y, x running to S, A, R. The authors' arrays are
(x, y, z): kernels are turned once, when they are converted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskloop.core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from maskloop.core.geometry import Box

_EPSILON = 1e-7  # Keras adds it to the standard deviation, not to the variance
_SLOPE = 0.01
_ROWS = 1 << 14  # voxels summed at a time: they stay in the processor's cache
_FLAT = (1, 3, 3)
_CUBE = (3, 3, 3)


def rectify(x: Tensor) -> Tensor:
    """Return instance norm (population deviation) then leaky ReLU, as a new float32 tensor."""
    x = x.float()
    if torch.is_grad_enabled():
        mean, scale = _statistics(x)
        return F.leaky_relu((x - mean) * scale, _SLOPE)
    return _applied(x, _statistics(x))


def _applied(x: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
    mean, scale = statistics
    return F.leaky_relu_(torch.addcmul(-mean * scale, x, scale), _SLOPE)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / (deviation + epsilon) of each channel, shape ``(n, c, 1, 1, 1)``."""
    if x.requires_grad or not _lies_channels_last(x):
        variance, mean = torch.var_mean(x, dim=(2, 3, 4), keepdim=True, correction=0)
        return mean, 1 / (variance.sqrt() + _EPSILON)
    # Six times sooner than var_mean on this layout; the pivot keeps small deviations exact.
    flat = x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])
    pivot = flat[:1]
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(flat), _ROWS):
        away = flat[start : start + _ROWS] - pivot
        total += away.sum(0)
        squares += away.square_().sum(0)
    shift = total / len(flat)
    deviation = (squares / len(flat) - shift.square()).clamp_(min=0).sqrt()
    column = (1, -1, 1, 1, 1)
    mean = (pivot[0] + shift).float().reshape(column)
    return mean, (1 / (deviation + _EPSILON)).float().reshape(column)


def _lies_channels_last(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and len(x) == 1
        and x.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last_3d)
    )


def centre(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the middle of the spatial axes, of the given shape."""
    for axis, wanted in enumerate(shape, start=2):
        x = x.narrow(axis, (x.shape[axis] - wanted) // 2, wanted)
    return x


class Block(nn.Module):
    """Two convolutions, each after norm and ReLU (but for the image itself), perhaps a shortcut."""

    def __init__(
        self,
        widths: tuple[int, int, int],
        kernels: tuple[tuple[int, int, int], tuple[int, int, int]],
        *,
        is_residual: bool,
        takes_image: bool = False,
    ) -> None:
        super().__init__()
        into, inside, out = widths
        padding = "valid" if is_residual else "same"
        self.first = nn.Conv3d(into, inside, kernels[0], padding=padding)
        self.second = nn.Conv3d(inside, out, kernels[1], padding=padding)
        self.shortcut = nn.Conv3d(into, out, 1) if is_residual and into != out else None
        self.is_residual = is_residual
        self.takes_image = takes_image

    def forward(self, x: Tensor) -> Tensor:
        """Return features, smaller by the kernels' reach where the network is residual."""
        y = self.second(rectify(self.first(x if self.takes_image else rectify(x))))
        return y + self.past(x, y.shape[2:]) if self.is_residual else cast("Tensor", y)

    def past(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Return what the shortcut adds to an output of `shape`."""
        middle = centre(x, shape)
        return middle if self.shortcut is None else cast("Tensor", self.shortcut(middle))


class LiverUNet(nn.Module):
    """Four levels; ``liver`` pools by 3 and keeps sizes, ``lesions`` pools by 2 and is residual.

    Parameters
    ----------
    is_residual : bool
        True for the lesion net: unpadded convolutions, residual blocks, nearest up-sampling. False
        for the liver net: padded convolutions, linear up-sampling that loses ``factor - 1`` voxels
        an axis.
    """

    def __init__(self, *, is_residual: bool) -> None:
        super().__init__()
        self.is_residual = is_residual
        self.factor = 2 if is_residual else 3
        down, deepest, up = (_FLAT, _CUBE), (_FLAT if is_residual else _CUBE, _CUBE), (_CUBE, _FLAT)
        self.encoder = nn.ModuleList(
            [
                Block((1, 20, 40), down, is_residual=is_residual, takes_image=True),
                Block((40, 40, 80), down, is_residual=is_residual),
                Block((80, 80, 160), down, is_residual=is_residual),
                Block((160, 160, 160), deepest, is_residual=is_residual),
            ]
        )
        self.decoder = nn.ModuleList(
            Block((4 * n, 2 * n, n), up, is_residual=is_residual) for n in (80, 40, 20)
        )
        self.head = nn.Conv3d(20, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n, 1, *smaller)`` of input ``(n, 1, *spatial)``."""
        kept = []
        for level, block in enumerate(self.encoder):
            x = self._run(block, F.max_pool3d(x, self.factor) if level else x)
            kept.append(x)
        kept.pop()
        for block in self.decoder:
            x = self._enlarged(x)
            x = self._run(block, torch.cat([centre(kept.pop(), x.shape[2:]), x], dim=1))
        return cast("Tensor", self.head(rectify(x)))

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        # One block's inner tensors at a time: a training step on the whole tile then fits in 8 GB.
        if torch.is_grad_enabled() and self.training:
            return cast("Tensor", checkpoint(block, x, use_reentrant=False))
        return cast("Tensor", block(x))

    def _enlarged(self, x: Tensor) -> Tensor:
        if self.is_residual:
            return F.interpolate(x, scale_factor=self.factor, mode="nearest")
        # Repeating three times and averaging over three is linear interpolation at thirds.
        shape = [self.factor * (n - 1) + 1 for n in x.shape[2:]]
        return F.interpolate(x, size=shape, mode="trilinear", align_corners=True)

    def convolutions(self) -> Iterator[tuple[str, nn.Conv3d]]:
        """Yield names and convolutions in the order in which Keras numbered them, from 1."""
        for part, blocks in (("encoder", self.encoder), ("decoder", self.decoder)):
            for level, block in enumerate(blocks):
                for name in ("first", "second", "shortcut"):
                    layer = getattr(block, name)
                    if layer is not None:
                        yield f"{part}.{level}.{name}", layer
        yield "head", self.head


class LiverTumour(nn.Module):
    """Both networks under one name, so that one card and one file can hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.liver = LiverUNet(is_residual=False)
        self.lesions = LiverUNet(is_residual=True)


def convert(source: Path, target: Path) -> None:
    """Write the Keras weights in `source` (hdf5, arrays only) as safetensors to `target`.

    The same input gives the same bytes. 15 convolutions are the liver net, 21 the lesion net;
    kernels ``(x, y, z, in, out)`` become ``(out, in, z, y, x)``.

    Raises
    ------
    WeightsError
        If the file is damaged or holds other arrays.
    """
    import h5py
    from safetensors.numpy import save_file

    arrays: dict[str, npt.NDArray[np.float32]] = {}
    try:
        with h5py.File(source, "r") as file:
            count = sum(str(name).startswith("conv3d_") for name in file)
            part = {15: "liver", 21: "lesions"}.get(count)
            if part is None:
                msg = (
                    f"expected 15 or 21 convolutions in {source}, got {count}; "
                    f"use the files of pyliverlesionseg 0.3"
                )
                raise WeightsError(msg)
            with torch.device("meta"):
                network = LiverUNet(is_residual=part == "lesions")
            for number, (name, layer) in enumerate(network.convolutions(), start=1):
                group = file[f"conv3d_{number}/conv3d_{number}"]
                kernel = turned(np.asarray(group["kernel:0"], dtype=np.float32))
                bias = np.asarray(group["bias:0"], dtype=np.float32)
                if kernel.shape != layer.weight.shape or bias.shape != kernel.shape[:1]:
                    msg = (
                        f"expected a kernel of shape {tuple(layer.weight.shape)} for "
                        f"{part}.{name} in {source}, got {kernel.shape}; "
                        f"use the files of pyliverlesionseg 0.3"
                    )
                    raise WeightsError(msg)
                arrays[f"{part}.{name}.weight"], arrays[f"{part}.{name}.bias"] = kernel, bias
    except (OSError, KeyError, TypeError, ValueError) as error:
        msg = f"expected Keras weights in {source}, got {error}; fetch the file again"
        raise WeightsError(msg) from error
    save_file({key: arrays[key] for key in sorted(arrays)}, target)


def turned(kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a Keras kernel ``(x, y, z, in, out)`` as torch's ``(out, in, z, y, x)``."""
    return np.ascontiguousarray(kernel.transpose(4, 3, 2, 1, 0))


# The lesion net on a CPU. Three things make it quick, and none changes a result by more than
# rounding: (1) around the liver a tile holds one of two constant values, where unpadded
# convolutions give one constant vector, computed once; (2) a 3-cube kernel on a nearest-enlarged
# tensor is eight 2-cube kernels on the small one; (3) full-size tensors of the first level are
# made, normalised and pooled block by block in the processor's cache, channels last.

_BUSY = 255
_STILL_VALUES = (0.0, -0.5)  # beyond the liver's box; inside the box but beyond the liver
_SIZES = ((12, 28, 22), (8, 16, 14))  # even, so that a block pools to whole voxels


@dataclass(frozen=True, slots=True)
class _Map:
    """A tensor and where it stands still.

    Parameters
    ----------
    data : Tensor ``(1, c, z, y, x)``
    code : uint8 array ``(z, y, x)``
        `_BUSY`, or which of `still` the voxel's channels equal.
    still : Tensor ``(k, c, 1, 1, 1)``
    """

    data: Tensor
    code: npt.NDArray[np.uint8]
    still: Tensor


def quick_lesions(
    network: LiverUNet, tile: Tensor, *, check: Callable[[], None] | None = None
) -> Tensor:
    """Return what ``network(tile)`` returns for one tile, without gradients, several times sooner.

    Parameters
    ----------
    network : LiverUNet
        The residual one, on the CPU.
    tile : float32 Tensor ``(1, 1, z, y, x)``
    check : callable, optional
        Called every few milliseconds; may raise to stop the work.

    Returns
    -------
    Tensor
        Logits, equal to rounding.
    """
    with torch.inference_mode():
        image = tile[0, 0].numpy()
        code = np.full(image.shape, _BUSY, np.uint8)
        for number, value in enumerate(_STILL_VALUES):
            code[image == value] = number
        # With one channel both memory layouts look alike; strides that say "channels last" make
        # oneDNN answer in that layout.
        z, y, x = image.shape
        tile = tile.contiguous().as_strided(tile.shape, (z * y * x, 1, y * x, x, 1))
        here = _Map(tile, code, torch.tensor(_STILL_VALUES).reshape(-1, 1, 1, 1, 1))
        kept = []
        extents = _skip_shapes(tile.shape[2:])
        for level, size in enumerate(_SIZES):
            wide = cast("Block", network.encoder[level])
            skip, here = _down(wide, here, size, extents[level], check or _go_on)
            kept.append(skip)
        low = here.data
        for level in range(len(_SIZES), len(network.encoder)):
            if level > len(_SIZES):
                low = F.max_pool3d(low, network.factor)
            low = network.encoder[level](low)
            kept.append(low)
        kept.pop()
        for block in network.decoder:
            low = _up(cast("Block", block), kept.pop(), low)
        return cast("Tensor", network.head(rectify(low)))


def _go_on() -> None:
    """Do not stop."""


def _skip_shapes(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shape that the decoder uses of each of the first levels' outputs."""
    lost = {"z": (2, 2), "yx": (4, 4)}  # by an encoder block, by a decoder block
    sizes = []
    for axis, n in enumerate(shape):
        down, up = lost["z" if axis == 0 else "yx"]
        for _ in range(3):
            n = (n - down) // 2
        n -= down
        wanted = []
        for _ in range(3):
            n *= 2
            wanted.append(n)
            n -= up
        sizes.append(wanted[::-1])
    return list(zip(*sizes, strict=True))[: len(_SIZES)]


def _down(
    block: Block,
    here: _Map,
    size: Sequence[int],
    extent: Sequence[int],
    check: Callable[[], None],
) -> tuple[Tensor, _Map]:
    """Return the middle `extent` of an encoder block's output, and all of it pooled by 2."""
    inner = _widened(block, here, size, check)
    statistics = _statistics(inner.data)
    code = _agreeing(inner.code, _CUBE)
    shape = code.shape
    reach = [(a - b) // 2 for a, b in zip(here.code.shape, shape, strict=True)]
    skip = _empty(block.second.out_channels, extent)
    pooled = _empty(block.second.out_channels, [n // 2 for n in shape])
    first = [(n - e) // 2 for n, e in zip(shape, extent, strict=True)]

    def output(patch: Tensor, before: Tensor) -> Tensor:
        y = _convolved(block.second, _applied(patch, statistics))
        before = centre(before, y.shape[2:])
        return y.add_(_convolved(cast("nn.Conv3d", block.shortcut), before))

    still = output(inner.still.expand(-1, -1, *_CUBE), here.still)
    for box in boxes(shape, size):
        check()
        number = _still_number(code[box])
        if number is None:
            value = output(
                _cut(inner.data, _grown(box, _CUBE)), _cut(here.data, _moved(box, reach))
            )
            _cut(pooled, _halved(box)).copy_(F.max_pool3d(value, 2))
        else:
            value = still[number : number + 1]
            _cut(pooled, _halved(box)).copy_(value.expand_as(_cut(pooled, _halved(box))))
        _place(skip, value, box, first)
    return skip, _Map(pooled, _pooled_code(code), still)


def _widened(block: Block, here: _Map, size: Sequence[int], check: Callable[[], None]) -> _Map:
    """Return the block's first convolution of what is here."""
    statistics = None if block.takes_image else _statistics(here.data)
    window = block.first.kernel_size

    def output(patch: Tensor) -> Tensor:
        return _convolved(block.first, patch if statistics is None else _applied(patch, statistics))

    code = _agreeing(here.code, window)
    still = output(here.still.expand(-1, -1, *window))
    data = _empty(block.first.out_channels, code.shape)
    for box in boxes(code.shape, size):
        check()
        number = _still_number(code[box])
        target = _cut(data, box)
        if number is None:
            target.copy_(output(_cut(here.data, _grown(box, window))))
        else:
            target.copy_(still[number : number + 1].expand_as(target))
    return _Map(data, code, still)


def _up(block: Block, skip: Tensor, low: Tensor) -> Tensor:
    """Return a decoder block's output for `skip` beside `low` enlarged twice."""
    skip = centre(skip, [2 * n for n in low.shape[2:]])
    across = skip.shape[1]
    weight = block.first.weight
    y = F.conv3d(rectify(skip), weight[:, :across], block.first.bias)
    y += enlarged_convolution(rectify(low), weight[:, across:])
    y = block.second(rectify(y))
    shape = y.shape[2:]
    shortcut = cast("nn.Conv3d", block.shortcut)
    y += F.conv3d(centre(skip, shape), shortcut.weight[:, :across], shortcut.bias)
    past = F.conv3d(low, shortcut.weight[:, across:])
    y += centre(F.interpolate(past, scale_factor=2, mode="nearest"), shape)
    return cast("Tensor", y)


_PHASES = torch.tensor([[[1.0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]])


def enlarged_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``conv3d(interpolate(x, scale_factor=2, mode="nearest"), weight)`` for 3-cube kernels.

    Two of three taps on an axis fall on the same small voxel: with those added up, each of the
    eight output phases is a 2-cube kernel, 8 products a voxel and channel in place of 27.
    """
    out, into = weight.shape[:2]
    phases = _PHASES.to(weight)
    small = torch.einsum("pai,qbj,rck,oeijk->pqroeabc", phases, phases, phases, weight)
    small = small.reshape(8 * out, into, 2, 2, 2).contiguous(memory_format=torch.channels_last_3d)
    y = F.conv3d(x, small).permute(0, 2, 3, 4, 1)
    n, z, y_size, x_size = y.shape[:4]
    y = y.reshape(n, z, y_size, x_size, 2, 2, 2, out).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return y.reshape(n, 2 * z, 2 * y_size, 2 * x_size, out).permute(0, 4, 1, 2, 3)


def _convolved(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """Return ``layer(x)`` for an unpadded layer, always by oneDNN where torch has it.

    For small inputs torch takes a plain loop over columns, five times slower.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own
        return cast("Tensor", layer(x))
    one = [1, 1, 1]
    return torch.mkldnn_convolution(x, layer.weight, layer.bias, [0, 0, 0], one, one, 1)


def _empty(channels: int, shape: Sequence[int]) -> Tensor:
    return torch.empty((1, channels, *shape), memory_format=torch.channels_last_3d)


def _agreeing(code: npt.NDArray[np.uint8], window: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Return the code after an unpadded `window`: still where all of the window is, and alike."""
    for axis, width in enumerate(window):
        for _ in range(width - 1):
            n = code.shape[axis]
            a, b = code.take(range(n - 1), axis), code.take(range(1, n), axis)
            code = np.where(a == b, a, np.uint8(_BUSY))
    return code


def _pooled_code(code: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    for axis, n in enumerate(code.shape):
        a, b = code.take(range(0, n - 1, 2), axis), code.take(range(1, n, 2), axis)
        code = np.where(a == b, a, np.uint8(_BUSY))
    return code


def _still_number(code: npt.NDArray[np.uint8]) -> int | None:
    number = int(code.flat[0])
    return number if number != _BUSY and bool((code == number).all()) else None


def boxes(shape: Sequence[int], size: Sequence[int]) -> Iterator[Box]:
    """Yield boxes of at most `size` that cover `shape` once."""
    axes = [
        [slice(i, min(i + s, n)) for i in range(0, n, s)] for n, s in zip(shape, size, strict=True)
    ]
    yield from itertools.product(*axes)


def _cut(x: Tensor, box: Box) -> Tensor:
    return x[(slice(None), slice(None), *box)]


def _grown(box: Box, window: Sequence[int]) -> Box:
    return tuple(slice(b.start, b.stop + w - 1) for b, w in zip(box, window, strict=True))


def _moved(box: Box, by: Sequence[int]) -> Box:
    return tuple(slice(b.start + m, b.stop + m) for b, m in zip(box, by, strict=True))


def _halved(box: Box) -> Box:
    return tuple(slice(b.start // 2, b.stop // 2) for b in box)


def _place(target: Tensor, value: Tensor, box: Box, first: Sequence[int]) -> None:
    """Write the part of `value` (of `box`) that lies in `target`, which begins at `first`."""
    into, of = [], []
    for b, start, n in zip(box, first, target.shape[2:], strict=True):
        low, high = max(b.start, start), min(b.stop, start + n)
        if high <= low:
            return
        into.append(slice(low - start, high - start))
        of.append(slice(low - b.start, high - b.start))
    part = _cut(target, tuple(into))
    part.copy_(value.expand_as(part) if value.shape[2:] == (1, 1, 1) else _cut(value, tuple(of)))
