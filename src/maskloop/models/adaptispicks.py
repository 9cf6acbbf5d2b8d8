"""How AdaptIS draws: the object at a point, and a picture's objects one after another.

K. Sofiiuk, O. Barinova, A. Konushin, "AdaptIS: Adaptive Instance Selection Network", ICCV 2019,
section 3.4 and the pseudocode there; written from the paper. Licence of the code: BSD-3-Clause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from maskloop.models.pasting import View, sampled

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from maskloop.core.geometry import Box
    from maskloop.models.adaptisnet import AdaptIS, Seen

_CELLS = 1 << 20  # of windows that are looked at together
_BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


@dataclass(frozen=True, slots=True)
class Picking:
    """By what rules objects are chosen.

    Parameters
    ----------
    side : int
        Of the window round a point, in pixels of the network; 0 for the whole picture.
    reach : float
        Pixels that count as 1 in relative coordinates.
    threshold : float
        Probability above which a pixel belongs to an object.
    things : float
        Probability of any class above which a pixel may be a point.
    proposal : float
        Worth from which a local maximum is a point.
    least_area : int
        Pixels of the network below which an object is dropped.
    most_shared : float
        Share of an object that better ones may already hold.
    spread : int
        Cells by which a found object is widened: no point is taken there.
    """

    side: int = 0
    reach: float = 42.0
    threshold: float = 0.5
    things: float = 0.6
    proposal: float = 0.35
    least_area: int = 10
    most_shared: float = 0.4
    spread: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """The object at a point.

    Parameters
    ----------
    chances : Tensor ``(h, w)``
        Probability of each cell of a window to be of the object.
    start : tuple of int
        Cell of the picture, y and x, from which the window goes.
    worth : float
        Of the proposal; 1 for a point that a person chose.
    """

    chances: Tensor
    start: tuple[int, int]
    worth: float = 1.0

    @property
    def place(self) -> tuple[slice, slice]:
        """Where the window lies among the picture's cells."""
        (y, x), (h, w) = self.start, self.chances.shape
        return slice(y, y + h), slice(x, x + w)


def drawn(
    network: AdaptIS, seen: Seen, points: Tensor, rules: Picking
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield the probabilities and the start of the window of each point ``(p, 2)``, y and x.

    Where an object reaches the edge of its window inside the picture, a window twice as wide is
    looked at.
    """
    height, width = (int(n) for n in seen.features.shape[2:])
    cells = -(-rules.side // network.stride) if rules.side else max(height, width)
    together = max(1, _CELLS // (min(cells, height) * min(cells, width)))
    for some in torch.split(points, together):
        which = torch.zeros(len(some), dtype=torch.int64, device=some.device)
        logits, starts = network.objects_at(seen, which, some, side=rules.side, reach=rules.reach)
        for number, start in enumerate(starts.tolist()):
            chances, place = logits[number].sigmoid(), (int(start[0]), int(start[1]))
            if _is_cut(chances > rules.threshold, place, (height, width)):
                wide, begun = network.objects_at(
                    seen,
                    which[:1],
                    some[number : number + 1],
                    side=2 * rules.side,
                    reach=rules.reach,
                )
                chances, place = wide[0].sigmoid(), (int(begun[0, 0]), int(begun[0, 1]))
            yield chances, place


def _is_cut(is_in: Tensor, start: tuple[int, int], size: tuple[int, int]) -> bool:
    ends = [s + n for s, n in zip(start, is_in.shape, strict=True)]
    edges = (
        (start[0] > 0, is_in[0]),
        (start[1] > 0, is_in[:, 0]),
        (ends[0] < size[0], is_in[-1]),
        (ends[1] < size[1], is_in[:, -1]),
    )
    return any(inside and bool(edge.any()) for inside, edge in edges)


def candidates(seen: Seen, rules: Picking) -> tuple[Tensor, Tensor]:
    """Return cells ``(k, 2)`` that may be points, the best first, and their worth ``(k,)``."""
    things = 1 - seen.classes.float().softmax(1)[:, :1]
    worth = torch.where(things > rules.things, seen.proposals.float().sigmoid(), 0.0)
    kernel = worth.new_tensor(_BLUR)
    padded = functional.pad(worth, (2, 2, 2, 2), mode="replicate")
    smooth = functional.conv2d(padded, (kernel[:, None] * kernel)[None, None])
    is_top = (smooth == functional.max_pool2d(smooth, 3, 1, 1)) & (smooth >= rules.proposal)
    cells = (is_top & (things > rules.things))[0, 0].nonzero()
    found = smooth[0, 0][cells[:, 0], cells[:, 1]]
    order = found.argsort(descending=True, stable=True)
    return cells[order], found[order]


def picked(network: AdaptIS, seen: Seen, rules: Picking, *, size: tuple[int, int]) -> list[Drawn]:
    """Return the objects of one picture, chosen greedily.

    The best point where no object is yet tells the next object; one that is tiny, or that better
    ones hold a good part of, is dropped.

    Parameters
    ----------
    network : AdaptIS
    seen : Seen
        Of one picture.
    rules : Picking
    size : tuple of int
        Rows and columns of the network's pixels that are picture and not padding.
    """
    stride = network.stride
    cells, worths = candidates(seen, rules)
    inside = (cells * stride < torch.tensor(size, device=cells.device)).all(1)
    cells, worths = cells[inside], worths[inside]
    shape = tuple(int(n) for n in seen.features.shape[2:])
    held = torch.zeros(shape, dtype=torch.bool, device=cells.device)
    taken = torch.zeros_like(held)
    rows = torch.arange(shape[0], device=cells.device)[:, None] * stride < size[0]
    columns = torch.arange(shape[1], device=cells.device)[None] * stride < size[1]
    is_picture = rows & columns
    found: list[Drawn] = []
    waiting = list(range(len(cells)))
    while waiting:
        free = [k for k in waiting if not taken[tuple(cells[k].tolist())]]
        some, waiting = free[:16], free[16:]
        if not some:
            break
        points = (cells[some].float() + 0.5) * stride - 0.5
        for k, (chances, start) in zip(some, drawn(network, seen, points, rules), strict=True):
            one = Drawn(chances, start, float(worths[k]))
            is_in = (chances > rules.threshold) & is_picture[one.place]
            area = int(is_in.sum())
            if taken[tuple(cells[k].tolist())] or area * stride**2 < rules.least_area:
                continue
            if int((is_in & held[one.place]).sum()) > rules.most_shared * area:
                continue
            found.append(one)
            held[one.place] |= is_in
            taken |= _widened(is_in, one, shape, rules.spread)
    return found


def _widened(is_in: Tensor, one: Drawn, size: tuple[int, ...], by: int) -> Tensor:
    whole = torch.zeros(size, device=is_in.device)
    whole[one.place] = is_in.to(whole.dtype)
    return functional.max_pool2d(whole[None], 2 * by + 1, 1, by)[0] > 0


def on_image(
    one: Drawn, view: View, stride: int, threshold: float
) -> tuple[Box, npt.NDArray[np.float32]] | None:
    """Return where an object lies in the image and its probabilities there, interpolated.

    None where no pixel of the image is above `threshold`.
    """
    chances = one.chances.detach().float().cpu()
    ranges, places = [], []
    for axis in (0, 1):
        hit = torch.nonzero((chances > threshold).any(1 - axis))
        if not len(hit):
            return None
        step = view.seen[axis] / view.size[axis] / stride  # cells a pixel of the image
        first, last = one.start[axis] + int(hit[0]), one.start[axis] + int(hit[-1])
        low = max(0, math.floor((first - 1) / step))
        high = min(view.size[axis], math.ceil((last + 2) / step))
        if low >= high:
            return None
        ranges.append(slice(low, high))
        places.append((torch.arange(low, high) + 0.5) * step - 0.5 - one.start[axis])
    values = sampled(chances, *places).numpy()
    return (tuple(ranges), values) if (values > threshold).any() else None
