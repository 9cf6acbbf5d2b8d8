"""The residual 3D U-Net is what its head says, and the shipped phantom model fits it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from maskloop.core.errors import UnknownNameError
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models import FAMILIES, weights
from maskloop.models.base import Batch
from maskloop.models.cards import find_card
from maskloop.models.unet import FAMILY
from maskloop.models.unet3d import UNet3D
from maskloop.ops.device import choose
from maskloop.ops.phantom import phantom_ct

LABELS = LabelTable.classes({1: "liver", 2: "tumour"})


def test_sizes_come_back_and_features_double_per_level() -> None:
    network = UNet3D(1, 3, width=8)
    assert network(torch.zeros(1, 1, 16, 24, 32)).shape == (1, 3, 16, 24, 32)
    assert [block.second.out_channels for block in network.down] == [8, 16, 32, 64]
    assert sum(isinstance(part, nn.ConvTranspose3d) for part in network.modules()) == 3
    assert not any(isinstance(part, nn.BatchNorm3d) for part in network.modules())


def test_parameters_stay_under_a_million() -> None:
    count = sum(p.numel() for p in FAMILY.build(FAMILY.card("residual3d", LABELS)).parameters())
    assert count == 356_211


def test_each_skip_is_joined() -> None:
    """Cutting one skip connection changes the result: concatenated, not dropped."""
    torch.manual_seed(0)
    network = UNet3D(1, 2, width=4).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    plain = network(x)
    for number in range(3):
        block = network.join[number].first
        kept = block.weight.detach().clone()
        with torch.no_grad():
            block.weight[:, : block.weight.shape[1] // 2] = 0
        assert not torch.allclose(network(x), plain)
        with torch.no_grad():
            block.weight.copy_(kept)


def test_a_block_passes_its_input_round_its_convolutions() -> None:
    block = UNet3D(1, 2, width=4).join[0]
    with torch.no_grad():
        block.second_norm.weight.zero_()
        block.second_norm.bias.zero_()
    x = torch.randn(1, block.first.in_channels, 4, 4, 4)
    expected = nn.functional.leaky_relu(block.shortcut(x), 0.01)
    torch.testing.assert_close(block(x), expected)


def test_unreviewed_voxels_have_no_gradient() -> None:
    """Where ids are IGNORE, the scores may be anything: the loss does not feel them."""
    torch.manual_seed(0)
    card = FAMILY.card("residual3d", LABELS)
    scores = torch.randn(2, 3, 8, 8, 8, requires_grad=True)
    ids = torch.randint(0, 3, (2, 8, 8, 8))
    ids[:, 4:] = -1
    network = _Given(scores)
    FAMILY.train_step(network, Batch(torch.zeros(2, 1, 8, 8, 8), ids), card=card).backward()
    assert scores.grad is not None
    assert (scores.grad[:, :, 4:] == 0).all()
    assert (scores.grad[:, :, :4] != 0).any()


class _Given(nn.Module):
    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(UnknownNameError, match="residual3d"):
        FAMILY.card("huge", LABELS)


def test_the_shipped_model_is_on_the_menu_small_and_honest() -> None:
    card = find_card("phantom-liver")
    assert FAMILIES.get(card.family) is FAMILY
    assert card.labels.names == {1: "liver", 2: "tumour"}
    assert card.size <= 4 << 20
    assert card.proof == "synthetic data only"
    assert any("not for patients" in limit for limit in card.limits)
    assert all(state.state == "present" for state in weights.verify(card))


def test_the_shipped_model_finds_the_liver_of_a_phantom_it_never_saw() -> None:
    card = find_card("phantom-liver")
    network = FAMILY.load(card, weights.paths(card))
    image, mask = phantom_ct(777, shape=(48, 64, 64), spacing=(6.0, 5.6, 5.6))
    found = FAMILY.segment(network, image, card=card, device=choose("cpu"), job=Job())
    assert found.ids.shape == mask.data.shape
    a, b = found.ids > 0, mask.data > 0
    assert 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)) > 0.85
