"""Encoder and decoder of one's choice, from segmentation-models-pytorch.

Library: P. Iakubovskii, "Segmentation Models Pytorch", 2019 (MIT), an extra of this package. Its
networks carry the names of papers whose networks they are not; each card says what differs. Weights
are random: the library's own way to them downloads while it builds. Its encoders ``mit_*`` come
under the NVIDIA Source Code License, for research only, and are refused unless a card accepts that.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError, MissingExtraError, UnknownNameError
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.ops.device import load_dynamo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from maskloop.core.labels import LabelTable

_CLASSES = {
    "unet": "Unet",
    "unetplusplus": "UnetPlusPlus",
    "manet": "MAnet",
    "linknet": "Linknet",
    "fpn": "FPN",
    "pspnet": "PSPNet",
    "pan": "PAN",
    "deeplabv3": "DeepLabV3",
    "deeplabv3plus": "DeepLabV3Plus",
    "upernet": "UPerNet",
    "segformer": "Segformer",
}
_ENCODER = "resnet34"
_DIFFERS = {
    "unet": "padded, with batch norms and other widths: not the U-Net of 2015, see `unet:2015`",
    "deeplabv3plus": (
        "rates 12, 24, 36 at stride 16, one decoder convolution and no norm after depthwise ones: "
        "not the network of the paper, see `deeplab`"
    ),
    "segformer": "the decoder of SegFormer on another encoder than the paper's",
}
_RESEARCH = "NVIDIA Source Code License (research only)"


class SMPFamily(DenseFamily):
    """The library's decoders; a variant is one of them, or ``DECODER-ENCODER``.

    ``unet`` has a ResNet-34, ``unet-efficientnet-b0`` and ``fpn-tu-convnext_tiny`` what they say
    (``tu-`` for timm's). `card.parameters`: ``encoder``, ``noncommercial`` (True accepts an encoder
    whose licence allows research only).
    """

    name = "smp"
    title = "Encoder and decoder of one's choice (segmentation-models-pytorch)"
    ndims = (2,)
    variants = tuple(_CLASSES)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network for photographs."""
        variant = variant or "unet"
        decoder, _, encoder = variant.partition("-")
        if decoder not in _CLASSES:
            raise UnknownNameError.of(f"variant of {self.name}", variant, list(_CLASSES))
        encoder = encoder or _ENCODER
        parameters: dict[str, Any] = {  # Any: JSON
            "encoder": encoder,
            "normalise": "imagenet",
            "patch": [256, 256],
            "tile": [512, 512],
            "whole": 1024 * 1024,
            "multiple": 32,
            "heads": ["segmentation_head"],
        }
        _require_free(encoder, parameters)
        return ModelCard(
            name=f"{self.name}-{variant}",
            title=f"{_CLASSES[decoder]} of segmentation-models-pytorch, {encoder}, untrained",
            family=self.name,
            variant=variant,
            ndim=2,
            labels=labels,
            modality="RGB photograph",
            channels=3,
            licence="MIT",
            sources=("https://github.com/qubvel-org/segmentation_models.pytorch",),
            limits=(_DIFFERS[decoder],) if decoder in _DIFFERS else (),
            parameters=parameters,
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        decoder = card.variant.partition("-")[0] or "unet"
        if decoder not in _CLASSES:
            raise UnknownNameError.of(f"variant of {self.name}", card.variant, list(_CLASSES))
        encoder = str(card.parameters.get("encoder", _ENCODER))
        _require_free(encoder, card.parameters)
        library = _library()
        known = [n for n in library.encoders.get_encoder_names() if not n.startswith("timm-")]
        if encoder not in known and not _is_timms(encoder):
            raise UnknownNameError.of("known encoder", encoder, [*known, "tu-NAME"])
        network: nn.Module = getattr(library, _CLASSES[decoder])(
            encoder_name=encoder,
            encoder_weights=None,
            in_channels=card.channels,
            classes=len(card.labels) + 1,
        )
        return network.eval()

    def tile(self, card: ModelCard, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the window for an image of `shape`; PAN halves it seven times."""
        least = 128 if card.variant.startswith("pan") else 32
        return tuple(max(n, least) for n in super().tile(card, shape))


def _require_free(encoder: str, parameters: Mapping[str, Any]) -> None:  # Any: JSON
    if encoder.startswith("mit_") and not parameters.get("noncommercial", False):
        msg = (
            f"expected an encoder that is free for any use, got {encoder!r} under the {_RESEARCH}; "
            f"choose another, or write noncommercial: true into the card's parameters"
        )
        raise InputError(msg)


def _is_timms(encoder: str) -> bool:
    load_dynamo()  # timm imports it
    import timm

    return encoder.startswith("tu-") and bool(timm.is_model(encoder.removeprefix("tu-")))


def _library() -> Any:  # Any: it has no stubs
    load_dynamo()  # timm, which it imports, imports it
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        msg = (
            f"expected segmentation-models-pytorch for the family 'smp', got: {error}; "
            f"run: {sys.executable} -m pip install 'napari-maskloop[smp]'"
        )
        raise MissingExtraError(msg) from error
    return segmentation_models_pytorch


FAMILY = SMPFamily()
