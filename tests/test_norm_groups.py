from __future__ import annotations

import pytest
import torch
from diffusers.models import UNetSpatioTemporalConditionModel
from torch import nn

from methods.norm_groups import KEY, groups_of, norm_groups


def build(count: int) -> UNetSpatioTemporalConditionModel:
    torch.manual_seed(0)
    with norm_groups(count):
        net = UNetSpatioTemporalConditionModel(
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            num_attention_heads=2,
            layers_per_block=1,
            cross_attention_dim=8,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
        )
    net.register_to_config(**{KEY: count})
    return net.eval()


def test_every_norm_gets_the_number_and_only_inside() -> None:
    net = build(4)
    norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    assert norms
    assert {norm.num_groups for norm in norms} == {4}
    assert nn.GroupNorm(2, 8).num_groups == 2


def test_the_class_is_put_back_after_an_error() -> None:
    plain = nn.GroupNorm.__init__
    with pytest.raises(RuntimeError), norm_groups(4):
        raise RuntimeError
    assert nn.GroupNorm.__init__ is plain


@torch.no_grad()
def test_a_saved_network_is_read_with_its_groups(tmp_path) -> None:
    net = build(4)
    net.save_pretrained(tmp_path)
    with groups_of(tmp_path):
        read = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path).eval()
    assert read.config[KEY] == 4
    given = (
        torch.randn(1, 3, 8, 8, 8),
        0.3,
        torch.randn(1, 1, 8),
        torch.tensor([[6.0, 127, 0.02]]),
    )
    torch.testing.assert_close(read(*given).sample, net(*given).sample, rtol=1e-5, atol=1e-6)


def test_without_a_number_the_class_keeps_its_own(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with groups_of(tmp_path):
        assert nn.GroupNorm(2, 8).num_groups == 2
