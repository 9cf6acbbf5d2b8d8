"""Trained networks: families (code) by name; cards (data) are read by `maskloop.models.cards`."""

from __future__ import annotations

from maskloop.core.registry import Registry

FAMILIES = Registry(
    "model family",
    "maskloop.models",
    {
        "deeplab": "maskloop.models.deeplab:FAMILY",
        "fcn": "maskloop.models.fcn:FAMILY",
        "flows": "maskloop.models.flows:FAMILY",
        "liver": "maskloop.models.liver:FAMILY",
        "maskrcnn": "maskloop.models.maskrcnn:FAMILY",
        "patchnet": "maskloop.models.patchnet:FAMILY",
        "segnet": "maskloop.models.segnet:FAMILY",
        "torchsemantic": "maskloop.models.torchsemantic:FAMILY",
        "unet": "maskloop.models.unet:FAMILY",
    },
)
