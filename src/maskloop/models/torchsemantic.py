"""torchvision's FCN, DeepLabV3 and LR-ASPP: the class of each pixel of a photograph.

Papers: J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015; L.-C. Chen et al., "Rethinking Atrous Convolution for Semantic Image
Segmentation" (DeepLabV3), arXiv 1706.05587, 2017, sections 3.2-3.3; A. Howard et al., "Searching
for MobileNetV3", ICCV 2019, section 6.4 (LR-ASPP). torchvision's FCN is a dilated ResNet with one
head, without the paper's skips and transposed convolutions.

The networks are imported from torchvision (BSD-3-Clause). Its weights were trained by the
torchvision authors on the COCO 2017 pictures that hold one of the 20 Pascal VOC classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maskloop.models.base import Batch  # noqa: TC001  (kept importable for run-time hints)
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.models.objects import scale_to
from maskloop.ops import candidates, resample

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor, nn

    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.ops.device import Device, Rung

_TITLES = {
    "fcn_resnet50": "Dilated ResNet-50 FCN (torchvision)",
    "fcn_resnet101": "Dilated ResNet-101 FCN (torchvision)",
    "deeplabv3_resnet50": "DeepLabV3, ResNet-50 (torchvision)",
    "deeplabv3_resnet101": "DeepLabV3, ResNet-101 (torchvision)",
    "deeplabv3_mobilenet_v3_large": "DeepLabV3, MobileNetV3 (torchvision)",
    "lraspp_mobilenet_v3_large": "LR-ASPP, MobileNetV3 (torchvision)",
}


class TorchSemantic(DenseFamily):
    """torchvision's segmentation networks, one a variant.

    `card.parameters`: ``shortest`` (520: the short side of the picture in the network),
    ``longest`` (2080), ``auxiliary`` (whether the weights hold a second head), ``norm``
    (``"frozen"`` keeps the statistics that published weights come with).
    """

    name = "torchsemantic"
    title = "Dilated ResNet FCN, DeepLabV3, LR-ASPP (torchvision)"
    tasks = ("semantic",)
    ndims = (2,)
    variants = tuple(_TITLES)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`."""
        variant = self.known(variant or "lraspp_mobilenet_v3_large")
        return ModelCard(
            name=f"{self.name}-{variant}",
            title=f"{_TITLES[variant]}, untrained",
            family=self.name,
            variant=variant,
            task="semantic",
            ndim=2,
            labels=labels,
            modality="RGB photograph",
            channels=3,
            licence="BSD-3-Clause",
            parameters={
                "normalise": "imagenet",
                "shortest": 520,
                "longest": 2080,
                "auxiliary": False,
                "norm": "batch",
                "patch": [480, 480],
                "heads": ["classifier", "aux_classifier"],
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        import torchvision

        variant = self.known(card.variant)
        told: dict[str, Any] = {"weights": None, "weights_backbone": None}
        if not variant.startswith("lraspp"):
            told["aux_loss"] = bool(card.parameters.get("auxiliary", False))
        make = getattr(torchvision.models.segmentation, variant)
        network: nn.Module = make(num_classes=len(card.labels) + 1, **told)
        return network.eval()

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the main head's scores at the size of `images`."""
        found: Tensor = network(images)["out"]
        return found

    def infer(
        self,
        network: nn.Module,
        data: npt.NDArray[np.float32],
        *,
        card: ModelCard,
        device: Device,
        job: Job,
        things: tuple[int, ...] = (),
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]:
        """Return class indices at the size of `data`: the picture is resized, seen whole."""
        if self.settles(card):
            return super().infer(network, data, card=card, device=device, job=job, things=things)
        scores = self._resized_scores(network, data, card, device, job)
        shape = data.shape[1:]
        return resample.scores(scores, shape), _chances(scores, shape, things) if things else None

    def scores(
        self,
        network: nn.Module,
        data: npt.NDArray[np.float32],
        *,
        card: ModelCard,
        device: Device,
        job: Job,
    ) -> npt.NDArray[np.float32]:
        """Return class scores at the size of `data`: the picture is resized, and they are back."""
        found = self._resized_scores(network, data, card, device, job)
        return np.stack([resample.linear(one, data.shape[1:]) for one in found])

    def _resized_scores(
        self,
        network: nn.Module,
        data: npt.NDArray[np.float32],
        card: ModelCard,
        device: Device,
        job: Job,
    ) -> npt.NDArray[np.float32]:
        from maskloop.ops.device import autocast, ladder, run_ladder

        image = _resized(torch.from_numpy(data), card)

        def attempt(rung: Rung) -> npt.NDArray[Any]:
            network.to(rung.device.torch).eval()
            with torch.inference_mode(), autocast(rung.device):
                found = self.logits(network, image[None].to(rung.device.torch))
            scores: npt.NDArray[np.float32] = found[0].float().cpu().numpy()
            return scores

        job.report("network", 0, 1)
        scores = run_ladder(ladder(device, 1), attempt, job)
        job.report("network", 1, 1)
        return scores

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return Dice plus cross-entropy; published batch norms keep their statistics."""
        if card.parameters.get("norm", "frozen") == "frozen":
            for part in network.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.eval()
        return super().train_step(network, batch, card=card)


def _chances(
    scores: npt.NDArray[np.float32], shape: tuple[int, ...], things: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """Return the codes of the scores interpolated linearly, as the winner is decided."""
    codes = np.empty(shape, np.uint8)
    for rows, part in resample.linear_parts(scores, shape):
        chances = torch.softmax(torch.from_numpy(part), 0)[list(things)]
        codes[rows] = candidates.encode(chances.numpy())
    return codes


def _resized(image: Tensor, card: ModelCard) -> Tensor:
    shortest = int(card.parameters.get("shortest", 520))
    longest = int(card.parameters.get("longest", 4 * shortest))
    height, width = image.shape[-2:]
    factor = scale_to((height, width), shortest, longest)
    size = (max(1, int(height * factor)), max(1, int(width * factor)))
    resized: Tensor = torch.nn.functional.interpolate(
        image[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0]
    return resized


FAMILY = TorchSemantic()
