"""Trunks that several families see with: residual networks of any depth and width, stage by stage.

K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Table 1. Tensors are named
as torchvision names them, so that its published weights load.
"""

from __future__ import annotations

from functools import partial
from math import gcd
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.models.blocks import narrowed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from maskloop.models.cards import ModelCard

_DEPTHS: Mapping[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
STAGES = (64, 128, 256, 512)
"""Features of the four stages inside a block, at full width."""


def group_norm(channels: int) -> nn.Module:
    """Return a group norm of 32 groups, fewer where they would not divide the channels."""
    return nn.GroupNorm(gcd(32, channels), channels)


NORMS: Mapping[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    # The published weights were trained with a variance that nothing is added to.
    "frozen": partial(FrozenBatchNorm2d, eps=0.0),
    "group": group_norm,
}
"""What may stand after a convolution: ``batch``, ``frozen`` (fixed statistics), ``group``."""


class Trunk(nn.Module):
    """A residual network without its classifier, as four maps at steps of 4, 8, 16 and 32 pixels.

    Parameters
    ----------
    name : {"resnet18", "resnet34", "resnet50", "resnet101"}
    width : float
        1 for the paper's features.
    norm : str
        One of `NORMS`.
    channels : int
        Of the picture.
    dilated : tuple of int
        Numbers (2 to 5) of stages that keep the step of the stage before and widen the reach of
        their 3x3 convolutions twofold instead.

    Attributes
    ----------
    features : tuple of int
        Channels of the four maps.
    """

    def __init__(
        self,
        name: str = "resnet50",
        *,
        width: float = 1.0,
        norm: str = "batch",
        channels: int = 3,
        dilated: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if name not in _DEPTHS:
            raise UnknownNameError.of("backbone", name, list(_DEPTHS))
        if norm not in NORMS:
            raise UnknownNameError.of("norm", norm, list(NORMS))
        block, depths = _DEPTHS[name]
        make = NORMS[norm]
        sizes = [narrowed(n, width, multiple=8) for n in STAGES]
        self.conv1 = nn.Conv2d(channels, sizes[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = make(sizes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before, reach = sizes[0], 1
        for number, (planes, depth) in enumerate(zip(sizes, depths, strict=True), start=2):
            is_dilated = number in dilated
            reach *= 2 if is_dilated else 1
            step = 1 if number == 2 or is_dilated else 2
            stage = _stage(block, before, planes, depth, step, make)
            _widen(stage, reach)
            self.add_module(f"layer{number - 1}", stage)
            before = planes * block.expansion
        self.features = tuple(n * block.expansion for n in sizes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return C2 to C5 of ``(n, c, y, x)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            found.append(x)
        return found


def _stage(
    block: type[BasicBlock | Bottleneck],
    before: int,
    planes: int,
    depth: int,
    step: int,
    make: Callable[[int], nn.Module],
) -> nn.Sequential:
    after = planes * block.expansion
    shortcut = None
    if step != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=step, bias=False), make(after))
    first = block(before, planes, step, shortcut, norm_layer=make)
    rest = [block(after, planes, norm_layer=make) for _ in range(depth - 1)]
    return nn.Sequential(first, *rest)


def _widen(stage: nn.Module, reach: int) -> None:
    """Let the 3x3 convolutions of a stage look `reach` times as far."""
    for part in stage.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            part.dilation = part.padding = (reach, reach)


def trunk_of(card: ModelCard, usual: str = "resnet50", *, dilated: tuple[int, ...] = ()) -> Trunk:
    """Return the trunk that a card's ``backbone``, ``width`` and ``norm`` say; `usual` if silent.

    Raises
    ------
    InputError
        If a parameter cannot be what it should.
    """
    told = card.parameters
    width = float(told.get("width", 1.0))
    if not 0 < width <= 4:
        msg = f"expected a width of the network over 0 and up to 4, got {width}; correct the card"
        raise InputError(msg)
    return Trunk(
        str(told.get("backbone", usual)),
        width=width,
        norm=str(told.get("norm", "batch")),
        channels=card.channels,
        dilated=dilated,
    )
