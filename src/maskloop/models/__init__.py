"""Trained networks: families (code) by name; cards (data) are read by `maskloop.models.cards`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maskloop.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping

FAMILIES = Registry(
    "model family",
    "maskloop.models",
    {
        "adaptis": "maskloop.models.adaptis:FAMILY",
        "deeplab": "maskloop.models.deeplab:FAMILY",
        "fcn": "maskloop.models.fcn:FAMILY",
        "flows": "maskloop.models.flows:FAMILY",
        "instancefcn": "maskloop.models.instancefcn:FAMILY",
        "liver": "maskloop.models.liver:FAMILY",
        "maskrcnn": "maskloop.models.maskrcnn:FAMILY",
        "meshnet": "maskloop.models.meshnet:FAMILY",
        "panoptic": "maskloop.models.panoptic:FAMILY",
        "patchnet": "maskloop.models.patchnet:FAMILY",
        "polarmask": "maskloop.models.polarmask:FAMILY",
        "segnet": "maskloop.models.segnet:FAMILY",
        "smp": "maskloop.models.smp:FAMILY",
        "solo": "maskloop.models.solo:FAMILY",
        "torchsemantic": "maskloop.models.torchsemantic:FAMILY",
        "unet": "maskloop.models.unet:FAMILY",
        "yolact": "maskloop.models.yolact:FAMILY",
    },
)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a menu says of a family before its code, and with it torch, is imported.

    Parameters
    ----------
    title, ndims, variants, tasks, is_trainable
        As in `maskloop.models.base.Family`.
    recipes : mapping of str to tuple of str
        Variant -> names of its recipes besides ours.
    needs : tuple of str
        Module that must be installed, and the extra that brings it; empty for none.
    draws_at_points : bool
        Whether it answers `maskloop.models.base.Clicks`.
    limits : tuple of str
        What objects or pictures it can never do, of those on its cards: to be read before training.
    """

    title: str
    ndims: tuple[int, ...]
    variants: tuple[str, ...]
    tasks: tuple[str, ...] = ("semantic",)
    is_trainable: bool = True
    recipes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    draws_at_points: bool = False


LISTED = {
    "adaptis": Listed(
        "AdaptIS (Sofiiuk 2019)",
        (2,),
        ("toy", "resnet50"),
        ("instance",),
        recipes={"toy": ("paper",), "resnet50": ("paper",)},
        draws_at_points=True,
    ),
    "deeplab": Listed(
        "DeepLab v3+ (Chen 2018)",
        (2,),
        ("xception65", "xception41", "xception71", "resnet50", "resnet101"),
        recipes=dict.fromkeys(
            ("xception65", "xception41", "xception71", "resnet50", "resnet101"), ("paper",)
        ),
    ),
    "fcn": Listed(
        "FCN on VGG-16 (Long 2015)",
        (2,),
        ("32s", "16s", "8s"),
        recipes=dict.fromkeys(("32s", "16s", "8s"), ("paper",)),
    ),
    "flows": Listed("Flows to object centres", (2,), ("small",), ("instance",)),
    "instancefcn": Listed(
        "FCIS and InstanceFCN (Li 2017, Dai 2016)",
        (2,),
        ("coco", "voc", "proposals"),
        ("instance",),
        recipes={**dict.fromkeys(("coco", "voc"), ("paper", "cpu")), "proposals": ("paper",)},
    ),
    "liver": Listed("Liver and liver tumour nets (KU Leuven)", (3,), ("lesions", "liver")),
    "maskrcnn": Listed(
        "Mask R-CNN (torchvision)",
        (2,),
        ("resnet50", "resnet50-v2", "c4"),
        ("instance",),
        recipes=dict.fromkeys(("resnet50", "resnet50-v2", "c4"), ("paper", "cpu")),
    ),
    "meshnet": Listed(
        "MeshNet",
        (3,),
        ("width20", "width5", "width11", "width21", "width30", "staircase21", "mindgrab15"),
    ),
    "panoptic": Listed(
        "Panoptic FPN (Kirillov 2019)",
        (2,),
        ("resnet50",),
        ("panoptic",),
        recipes={"resnet50": ("paper", "cpu")},
    ),
    "patchnet": Listed(
        "Patch classification (Cireşan 2012)",
        (2,),
        ("n4", "w33"),
        recipes={"n4": ("paper",), "w33": ("paper",)},
    ),
    "polarmask": Listed(
        "PolarMask (Xie 2020), star-convex objects",
        (2,),
        ("resnet50",),
        ("instance",),
        recipes={"resnet50": ("paper", "cpu")},
        limits=(
            "star-convex objects only: what 36 straight rays from an object's middle do not reach "
            "is lost, as are holes; crescents, rings and branches come out wrong",
        ),
    ),
    "segnet": Listed(
        "SegNet (Badrinarayanan 2017)", (2,), ("vgg16",), recipes={"vgg16": ("paper",)}
    ),
    "smp": Listed(
        "Encoder and decoder of one's choice (segmentation-models-pytorch)",
        (2,),
        (
            "unet",
            "unetplusplus",
            "manet",
            "linknet",
            "fpn",
            "pspnet",
            "pan",
            "deeplabv3",
            "deeplabv3plus",
            "upernet",
            "segformer",
        ),
        needs=("segmentation_models_pytorch", "smp"),
    ),
    "solo": Listed(
        "SOLO (Wang 2020)",
        (2,),
        ("resnet50", "decoupled"),
        ("instance",),
        recipes=dict.fromkeys(("resnet50", "decoupled"), ("paper", "cpu")),
        limits=("two objects whose centres of mass share a cell of the grid are seen as one",),
    ),
    "torchsemantic": Listed(
        "Dilated ResNet FCN, DeepLabV3, LR-ASPP (torchvision)",
        (2,),
        (
            "fcn_resnet50",
            "fcn_resnet101",
            "deeplabv3_resnet50",
            "deeplabv3_resnet101",
            "deeplabv3_mobilenet_v3_large",
            "lraspp_mobilenet_v3_large",
        ),
    ),
    "unet": Listed("U-Net", (2, 3), ("2015", "residual3d"), recipes={"2015": ("paper",)}),
    "yolact": Listed(
        "YOLACT and YOLACT++ (Bolya 2019)",
        (2,),
        ("resnet50", "resnet101", "resnet50-plus", "resnet101-plus"),
        ("instance",),
        recipes=dict.fromkeys(
            ("resnet50", "resnet101", "resnet50-plus", "resnet101-plus"), ("paper", "cpu")
        ),
    ),
}
"""What the menus show, family by family; `tests/desk/test_families.py` holds it to the code."""
