"""Trained networks: families (code) by name; cards (data) are read by `maskloop.models.cards`."""

from __future__ import annotations

from maskloop.core.registry import Registry

FAMILIES = Registry(
    "model family",
    "maskloop.models",
    {
        "flows": "maskloop.models.flows:FAMILY",
        "liver": "maskloop.models.liver:FAMILY",
        "maskrcnn": "maskloop.models.maskrcnn:FAMILY",
        "torchsemantic": "maskloop.models.torchsemantic:FAMILY",
        "unet3d": "maskloop.models.unet3d:FAMILY",
    },
)
