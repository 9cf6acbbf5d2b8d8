"""How the authors of YOLACT name and order the tensors of their weights, and how we do.

The names and orders are facts of files written by dbolya/yolact (MIT).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from maskloop.core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_PROTOTYPES = {"0": 0, "2": 2, "4": 4, "8": 7, "10": 9}  # the authors' number -> ours
_HEAD = {
    "upfeature.0": "shared",
    "bbox_layer": "boxes",
    "conf_layer": "classes",
    "mask_layer": "coefficients",
}
_LEVELS = 3  # of the pyramid that come from the trunk; the authors count from the coarsest


def converted(state: Mapping[str, Tensor], *, priors: int, levels: int = 5) -> dict[str, Tensor]:
    """Return the authors' tensors under our names; a name that is not known is kept.

    Parameters
    ----------
    state : mapping of str to Tensor
        As the authors saved it. Left out, as they do: the trunk's second names, of older files,
        and levels of the pyramid that nothing is looked for on.
    priors : int
        Boxes a cell begins with. The authors' layer of classes lists all classes of the first of
        them, then all of the second; ours all priors of a class.

    levels : int
        Of the pyramid.

    Raises
    ------
    WeightsError
        If the layer of classes cannot be of so many priors.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if _is_spare(key, levels):
            continue
        is_theirs = key.startswith("prediction_layers.0.conf_layer.")
        found[renamed(key)] = _by_class(value, priors) if is_theirs else value
    # Files of PyTorch before 0.4.1 do not count batches; nothing is made of the count.
    for key in list(found):
        if key.startswith("trunk.") and key.endswith("running_mean"):
            found.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return found


def _is_spare(key: str, levels: int) -> bool:
    if found := re.match(r"fpn\.downsample_layers\.(\d+)\.", key):
        return int(found[1]) >= levels - _LEVELS
    return key.startswith("backbone.layer") and not key.startswith("backbone.layers.")


def _by_class(value: Tensor, priors: int) -> Tensor:
    if len(value) % priors:
        msg = (
            f"expected a layer of classes for {priors} boxes a cell, got {len(value)} rows; "
            "choose the variant that the weights are of"
        )
        raise WeightsError(msg)
    rest = tuple(value.shape[1:])
    by_prior = value.reshape(priors, -1, *rest)
    return by_prior.transpose(0, 1).reshape(-1, *rest)


def renamed(key: str) -> str:
    """Return our name of a tensor; the name itself where it is not one of the authors'.

    Examples
    --------
    >>> renamed("fpn.lat_layers.0.weight"), renamed("backbone.layers.3.0.conv2.weight")
    ('pyramid.lateral.2.weight', 'trunk.layer4.0.conv2.weight')
    """
    if found := re.fullmatch(r"backbone\.layers\.(\d)\.(.+)", key):
        rest = found[2].replace("conv_offset_mask", "offsets")
        return f"trunk.layer{int(found[1]) + 1}.{rest}"
    if found := re.fullmatch(r"backbone\.((?:conv1|bn1)\..+)", key):
        return f"trunk.{found[1]}"
    if found := re.fullmatch(r"fpn\.(lat|pred)_layers\.(\d)\.(\w+)", key):
        part = {"lat": "lateral", "pred": "smooth"}[found[1]]
        return f"pyramid.{part}.{_LEVELS - 1 - int(found[2])}.{found[3]}"
    if found := re.fullmatch(r"fpn\.downsample_layers\.(\d)\.(\w+)", key):
        return f"pyramid.coarser.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"proto_net\.(\d+)\.(\w+)", key):
        return f"prototypes.{_PROTOTYPES[found[1]]}.{found[2]}" if found[1] in _PROTOTYPES else key
    if found := re.fullmatch(r"prediction_layers\.0\.(upfeature\.0|\w+_layer)\.(\w+)", key):
        return f"head.{_HEAD[found[1]]}.{found[2]}" if found[1] in _HEAD else key
    if found := re.fullmatch(r"semantic_seg_conv\.(\w+)", key):
        return f"semantic.{found[1]}"
    if found := re.fullmatch(r"maskiou_net\.maskiou_net\.(\d+)\.(\w+)", key):
        return f"rescoring.layers.{found[1]}.{found[2]}"
    return key
