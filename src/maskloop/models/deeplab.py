"""DeepLab v3+: atrous separable convolutions on a modified aligned Xception, with a decoder.

Paper: L.-C. Chen, Y. Zhu, G. Papandreou, F. Schroff, H. Adam, "Encoder-Decoder with Atrous
Separable Convolution for Semantic Image Segmentation", ECCV 2018, section 3, Fig. 2 and 4, Tables 1
and 2; the pyramid: L.-C. Chen et al., "Rethinking Atrous Convolution for Semantic Image
Segmentation", arXiv 1706.05587, section 3.3. The backbones are timm's (Apache-2.0); pyramid and
decoder are written from the paper. A training may begin with published backbones (torchvision's
ResNets, BSD-3-Clause; timm's Xceptions, Apache-2.0; ImageNet). Licence of the code: BSD-3-Clause.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import InputError, WeightsError
from maskloop.models.base import Batch, key_difference
from maskloop.models.blocks import cropped, for_grey, narrowed
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.ops.device import load_dynamo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from maskloop.core.labels import LabelTable

_TITLES = {
    "xception65": "Xception-65",
    "xception41": "Xception-41",
    "xception71": "Xception-71",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
}
_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # of the pyramid, by output stride
_FEATURES, _LOW = 256, 48
# Section 4 and 4.1; the decay of the weights as in the training that the authors released.
_PAPER = {
    "optimiser": "sgd",
    "momentum": 0.9,
    "rate": 0.007,
    "schedule": "poly",
    "batch": 16,
    "steps": 30_000,
    "parameters": {"loss": "cross-entropy", "patch": [513, 513]},
}


class Atrous(nn.Sequential):
    """A 3x3 separable convolution, each half with batch norm and ReLU (section 3.2)."""

    def __init__(self, taken: int, given: int, *, rate: int = 1) -> None:
        super().__init__(
            nn.Conv2d(taken, taken, 3, padding=rate, dilation=rate, groups=taken, bias=False),
            nn.BatchNorm2d(taken),
            nn.ReLU(inplace=True),
            nn.Conv2d(taken, given, 1, bias=False),
            nn.BatchNorm2d(given),
            nn.ReLU(inplace=True),
        )


def _pointwise(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(taken, given, 1, bias=False), nn.BatchNorm2d(given), nn.ReLU(inplace=True)
    )


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: one 1x1, three atrous rates, and the mean of the picture."""

    def __init__(self, taken: int, given: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.point = _pointwise(taken, given)
        self.atrous = nn.ModuleList(Atrous(taken, given, rate=rate) for rate in rates)
        self.pooled = _pointwise(taken, given)
        self.join = _pointwise(given * (len(rates) + 2), given)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, given, y, x)`` of ``(n, taken, y, x)``."""
        mean = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        parts = [self.point(x), *(part(x) for part in self.atrous), mean]
        found: Tensor = self.dropout(self.join(torch.cat(parts, dim=1)))
        return found


def raised(x: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """Return features ``(n, c, y, x)`` interpolated linearly by `factor`, cut to `size`.

    Feature i of a network of odd, evenly padded kernels lies at pixel ``factor * i``: for the sides
    of 16 n + 1 that the paper trains with (513) this is interpolation with aligned corners, and it
    holds for any other side too. Spreading the features evenly over the picture instead shifts what
    they say by up to half a stride.
    """
    rows, columns = (factor * n + 1 for n in x.shape[2:])
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, (rows, columns), mode="bilinear", align_corners=True)
    return cropped(x, size, offset=0)


class DeepLab(nn.Module):
    """A backbone at stride 16 or 8, the pyramid, and the decoder at stride 4.

    Parameters
    ----------
    channels, classes : int
    variant : str
        One of the family's backbones.
    stride : {16, 8}
        Of the features that the pyramid sees.
    width : float
        Times the features of an Xception and of the head (1.0 in the paper).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        variant: str = "xception65",
        *,
        stride: int = 16,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if variant.startswith("xception"):
            self.backbone, low, deep = _xception(variant, channels, stride, width)
        else:
            self.backbone, low, deep = _resnet(variant, channels, stride, width)
        features = narrowed(_FEATURES, width, multiple=8)
        self.pyramid = Pyramid(deep, features, _RATES[stride])
        self.low = _pointwise(low, narrowed(_LOW, width, multiple=8))
        joined = features + narrowed(_LOW, width, multiple=8)
        self.decoder = nn.Sequential(Atrous(joined, features), Atrous(features, features))
        self.score = nn.Conv2d(features, classes, 1)
        nn.init.trunc_normal_(self.score.weight, std=0.01)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``(n, classes, y, x)`` of ``(n, channels, y, x)``, any size."""
        low, deep = self.features(x)
        deep = raised(self.pyramid(deep), self.stride // 4, low.shape[2:])
        scores = self.score(self.decoder(torch.cat([deep, self.low(low)], dim=1)))
        return raised(scores, 4, x.shape[2:])

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the backbone's features at stride 4 and at the pyramid's stride."""
        low, deep = self.backbone(x)
        return low, deep


class _Xception(nn.Module):
    """timm's aligned Xception, of which two features are taken."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = self.body.forward_intermediates(  # type: ignore[operator]  # timm's
            x, indices=[1, 4], intermediates_only=True
        )
        return found


def _xception(variant: str, channels: int, stride: int, width: float) -> tuple[nn.Module, int, int]:
    """Return an Xception, and the features at stride 4 and at the end.

    Blocks as in Fig. 4 of the paper; 41 has half the middle flow, 71 (section 4.3 of the paper)
    two more strided-out entry blocks.
    """
    load_dynamo()  # timm imports it
    from timm.layers.conv_bn_act import ConvNormAct
    from timm.models.xception_aligned import XceptionAligned

    def wide(n: int) -> int:
        return narrowed(n, width, multiple=8)

    entry = {
        "xception65": [(128, 2), (256, 2), (728, 2)],
        "xception41": [(128, 2), (256, 2), (728, 2)],
        "xception71": [(128, 2), (256, 1), (256, 2), (728, 1), (728, 2)],
    }[variant]
    sizes: list[tuple[int | tuple[int, ...], int]] = [(wide(n), step) for n, step in entry]
    sizes += [(wide(728), 1)] * (8 if variant == "xception41" else 16)
    sizes.append(((wide(728), wide(1024), wide(1024)), 2))
    sizes.append(((wide(1536), wide(1536), wide(2048)), 1))
    blocks: list[dict[str, Any]] = []  # Any: timm's own table
    taken = 64
    for given, step in sizes:
        blocks.append({"in_chs": taken, "out_chs": given, "stride": step})
        taken = given[-1] if isinstance(given, tuple) else given
    blocks[-1] |= {"no_skip": True, "start_with_relu": False}
    norm: Any = partial(nn.BatchNorm2d, eps=0.001)  # Any: timm asks for a class and takes any maker
    body = XceptionAligned(
        block_cfg=blocks,
        num_classes=0,
        in_chans=channels,
        output_stride=stride,
        norm_layer=norm,
    )
    for block, (given, step) in zip(body.blocks, sizes, strict=True):
        has_none = getattr(block, "shortcut", None) is None
        if step > 1 and has_none and isinstance(given, int):
            # timm leaves out the convolution beside a block whose stride was taken from it (71 at
            # stride 8); weights trained at one stride are to fit the other.
            block.shortcut = ConvNormAct(given, given, 1, norm_layer=norm, apply_act=False)
    return _Xception(body), wide(256), taken


def _resnet(variant: str, channels: int, stride: int, width: float) -> tuple[nn.Module, int, int]:
    load_dynamo()  # timm imports it
    import timm

    if width != 1:
        msg = (
            f"expected width 1 for the backbone {variant!r}, got {width!r}; choose an Xception for "
            f"a narrow network"
        )
        raise InputError(msg)
    body = timm.create_model(
        variant,
        pretrained=False,
        features_only=True,
        out_indices=(1, 4),
        in_chans=channels,
        output_stride=stride,
    )
    low, deep = body.feature_info.channels()  # type: ignore[union-attr,operator]  # timm adds it
    return body, low, deep


class DeepLabFamily(DenseFamily):
    """DeepLab v3+ on five backbones.

    `card.parameters`: ``stride`` (16, or 8), ``width`` (1.0), ``norm`` (``"batch"``; ``"frozen"``
    keeps the means and variances that a published backbone comes with, as small batches would spoil
    them), ``loss`` (``"cross-entropy"`` as in the paper; Dice plus cross-entropy where not told).
    """

    name = "deeplab"
    title = "DeepLab v3+ (Chen 2018)"
    ndims = (2,)
    variants = tuple(_TITLES)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network for photographs."""
        variant = self.known(variant)
        return ModelCard(
            name=f"{self.name}-{variant}",
            title=f"DeepLab v3+, {_TITLES[variant]}, untrained",
            family=self.name,
            variant=variant,
            ndim=2,
            labels=labels,
            modality="RGB photograph",
            channels=3,
            licence="BSD-3-Clause",
            sources=("doi:10.1007/978-3-030-01234-2_49",),
            parameters={
                "normalise": "imagenet",
                "patch": [320, 320],
                "tile": [512, 512],
                "whole": 1024 * 1024,
                "norm": "batch",
                "heads": ["score"],
                "recipes": {
                    "paper": {
                        **_PAPER,
                        "weight_decay": 4e-5 if variant.startswith("xception") else 1e-4,
                    }
                },
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        variant = self.known(card.variant)
        stride = int(card.parameters.get("stride", 16))
        if stride not in _RATES:
            msg = f"expected an output stride of 16 or 8, got {stride!r}; correct the card"
            raise InputError(msg)
        return DeepLab(
            card.channels,
            len(card.labels) + 1,
            variant,
            stride=stride,
            width=float(card.parameters.get("width", 1.0)),
        )

    def begin(self, card: ModelCard, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the network of `card` on a published backbone, or with another's tensors.

        Takes the tensors of torchvision's ResNets, of timm's Xceptions and ResNets, and of a
        DeepLab of the same variant, whichever its stride and classes' scores.
        """
        network = self.build(card)
        own = network.state_dict()
        if any(key.startswith("backbone.") for key in state):
            left: tuple[str, ...] = ()
        else:
            inside = "backbone.body." if card.variant.startswith("xception") else "backbone."
            # What a classifier says of ImageNet's classes has no part.
            state = {
                inside + key: value
                for key, value in state.items()
                if not key.startswith(("fc.", "head."))
            }
            first = next(key for key in own if key.startswith(inside))
            if card.channels == 1 and first in state:
                state[first] = for_grey(state[first])
            left = ("pyramid", "low", "decoder", "score")
        # Older files do not count the batches that a norm has seen; nothing here asks for it.
        rest = {
            key: value
            for key, value in own.items()
            if key.startswith(left) or key.endswith("num_batches_tracked")
        }
        begun = {**rest, **state}
        words = key_difference(own, begun)
        if words:
            msg = (
                f"expected a backbone of {card.name!r}, whole and of its width, but the tensors "
                f"differ:\n{words}\nstart from other weights"
            )
            raise WeightsError(msg)
        network.load_state_dict(begun, strict=True)
        return network

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return the loss that the card names; norms that a batch would spoil stay put."""
        still = [network.backbone] if card.parameters.get("norm") == "frozen" else []
        if len(batch.images) == 1:
            # One picture has one mean: there is nothing to normalise it by.
            still.append(network.pyramid.pooled)  # type: ignore[union-attr]  # a `Pyramid`
        for part in (part for branch in still for part in branch.modules()):  # type: ignore[union-attr]  # modules
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return super().train_step(network, batch, card=card)


FAMILY = DeepLabFamily()
