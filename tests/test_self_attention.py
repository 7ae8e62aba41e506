import copy

import pytest
import torch

from clipreid_lib.base import import_fixes  # noqa: F401  before open_clip
from clipreid_lib.clip.self_attention import SelfAttention, fuse_attention

import open_clip  # isort: skip


@pytest.mark.parametrize("training", [True, False])
def test_the_fused_tower_is_open_clips_own(training):
    torch.manual_seed(0)
    theirs = open_clip.transformer.VisionTransformer(32, 8, 64, 3, 4, 4.0, output_dim=24).train(training)
    ours = copy.deepcopy(theirs)
    fuse_attention(ours)
    assert any(isinstance(part, SelfAttention) for part in ours.modules())
    images = torch.randn(5, 3, 32, 32)
    out, expected = ours(images), theirs(images)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    out.square().sum().backward()
    expected.square().sum().backward()
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5 * scale, msg=name)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_weights_are_given_where_they_are_asked_for():
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    x, mask = torch.randn(2, 5, 8), torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    plain = [layer(x, x, x), layer(x, x, x, need_weights=False, attn_mask=mask)]
    layer.__class__ = SelfAttention
    fused = [layer(x, x, x), layer(x, x, x, need_weights=False, attn_mask=mask)]
    assert torch.equal(plain[0][1], fused[0][1])
    for one, other in zip(plain, fused, strict=True):
        assert torch.equal(one[0], other[0])
