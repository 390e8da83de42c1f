import pytest
import torch

from llava_ultra.config import BlendFusion, ClipOnlyFusion, ConcatFusion, SamOnlyFusion
from llava_ultra.fusion import FusionSizes, build_fusion

SIZES = FusionSizes(clip_channels=6, sam_channels=10, num_tokens=4, hidden=8, width=12)


def features(seed=0):
    torch.manual_seed(seed)
    return torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 10)


@pytest.mark.parametrize(
    "config",
    [
        BlendFusion(),
        BlendFusion(alpha="channel"),
        BlendFusion(alpha="token"),
        ConcatFusion(),
        ClipOnlyFusion(),
        SamOnlyFusion(),
    ],
)
def test_every_fusion_has_the_same_shapes(config):
    assert build_fusion(config, SIZES)(*features()).shape == (2, 3, 4, 12)


def test_blend_is_the_equation():
    fusion = build_fusion(BlendFusion(alpha_init=0.3), SIZES)
    clip, sam = features()
    expected = 0.3 * fusion.project_clip(clip) + 0.7 * fusion.project_sam(sam)
    assert torch.allclose(fusion(clip, sam), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("alpha", "shape"), [("scalar", (1,)), ("channel", (12,)), ("token", (4, 1))]
)
def test_alpha_learns_and_stays_inside_its_bounds(alpha, shape):
    torch.manual_seed(0)
    fusion = build_fusion(BlendFusion(alpha=alpha), SIZES)
    assert fusion.alpha.shape == shape
    clip, sam = features()
    optimizer = torch.optim.SGD([fusion.alpha_logit], lr=50.0)
    target = fusion.project_clip(clip).detach()
    for _ in range(400):
        loss = ((fusion(clip, sam) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (fusion.alpha > 0.9).all()
    assert (fusion.alpha <= 1).all()


def test_a_single_stream_ignores_the_other():
    clip, sam = features()
    _, other_sam = features(1)
    only_clip = build_fusion(ClipOnlyFusion(), SIZES)
    assert torch.equal(only_clip(clip, sam), only_clip(clip, other_sam))
    only_sam = build_fusion(SamOnlyFusion(), SIZES)
    assert not torch.equal(only_sam(clip, sam), only_sam(clip, other_sam))
