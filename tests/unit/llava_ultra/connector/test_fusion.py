import pytest
import torch

from llava_ultra.config import (
    AppendFusion,
    BlendFusion,
    ClipOnlyFusion,
    ConcatFusion,
    LayerMergeFusion,
    ModelConfig,
    SamOnlyFusion,
)
from llava_ultra.connector.fusion import (
    FusionSizes,
    StreamSizes,
    build_fusion,
    check_features,
    fuse_towers,
    with_mean_token,
)
from llava_ultra.testing import tiny_mix

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
        LayerMergeFusion(),
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


LAYERS = FusionSizes(
    clip_channels=6, sam_channels=10, num_tokens=4, hidden=8, width=12, clip_layers=3, sam_layers=2
)


def test_layer_merge_is_the_equation():
    fusion = build_fusion(LayerMergeFusion(), LAYERS)
    with torch.no_grad():
        fusion.merge_clip.weight_logits.copy_(torch.tensor([0.0, 1.0, -2.0]))
        fusion.merge_sam.weight_logits.copy_(torch.tensor([0.3, -0.3]))
    clip, sam = features()

    def merged(stream, part):
        share = part.weight_logits.exp() / part.weight_logits.exp().sum()
        size = stream.shape[-1] // len(share)
        total = 0
        for number, (norm, linear) in enumerate(part.project):
            layer = stream[..., number * size : (number + 1) * size]
            centred = layer - layer.mean(-1, keepdim=True)
            layer = centred / (layer.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
            total = total + share[number] * linear(layer)
        return total

    v1, v2 = merged(clip, fusion.merge_clip), merged(sam, fusion.merge_sam)
    expected = fusion.join(torch.cat([v1, fusion.bend_sam(v2)], dim=-1))
    assert torch.allclose(fusion(clip, sam), expected, atol=1e-6)


def test_layer_weights_start_equal_learn_and_sum_to_one():
    torch.manual_seed(0)
    fusion = build_fusion(LayerMergeFusion(), LAYERS)
    part = fusion.merge_clip
    assert part.weights.tolist() == pytest.approx([1 / 3] * 3)
    clip, _ = features()
    target = part.project[1](clip[..., 2:4]).detach()  # the second layer alone
    optimizer = torch.optim.SGD([part.weight_logits], lr=20.0)
    for _ in range(300):
        loss = ((part(clip) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert part.weights.argmax() == 1
    assert part.weights[1] > 0.9
    assert float(part.weights.detach().sum()) == pytest.approx(1)


def test_layers_that_do_not_divide_the_channels_are_refused():
    sizes = FusionSizes(
        clip_channels=6, sam_channels=10, num_tokens=4, hidden=8, width=12, clip_layers=4
    )
    with pytest.raises(ValueError, match="6 channels are no 4 layers side by side"):
        build_fusion(LayerMergeFusion(), sizes)


def test_merging_needs_named_layers_and_one_will_do():
    with pytest.raises(ValueError, match=r"name them in clip\.feature_layers"):
        ModelConfig(fusion=LayerMergeFusion())
    values = {"fusion": {"type": "layer_merge"}, "clip": {"feature_layers": [-2]}}
    assert ModelConfig.model_validate(values).clip.read_layers == (1,)


def linear_blend(alpha, config=None):
    """A blend whose projectors are linear, and random features to fit on."""
    blend = build_fusion(config or BlendFusion(alpha_init=alpha), SIZES)
    blend.project_clip, blend.project_sam = torch.nn.Linear(6, 12), torch.nn.Linear(10, 12)
    torch.manual_seed(1)
    return blend.double(), torch.randn(50, 4, 6).double(), torch.randn(50, 4, 10).double()


def test_a_scalar_blend_of_linear_projections_is_concat_and_one_linear_layer():
    blend, clip, sam = linear_blend(0.3)
    alpha, p1, p2 = 0.3, blend.project_clip, blend.project_sam
    one = torch.nn.Linear(16, 12).double()
    with torch.no_grad():
        one.weight.copy_(torch.cat([alpha * p1.weight, (1 - alpha) * p2.weight], dim=1))
        one.bias.copy_(alpha * p1.bias + (1 - alpha) * p2.bias)
        assert torch.allclose(blend(clip, sam), one(torch.cat([clip, sam], dim=-1)), atol=1e-7)


@pytest.mark.parametrize(
    ("alpha", "linear", "is_linear"),
    [
        ("scalar", True, True),
        ("channel", True, True),
        ("token", True, False),
        ("scalar", False, False),
    ],
)
def test_a_blend_says_more_than_one_linear_layer_only_by_token_or_by_bent_projectors(
    alpha, linear, is_linear
):
    """The best linear layer on the concatenation, by least squares, against the blend."""
    blend, clip, sam = linear_blend(0.3, BlendFusion(alpha=alpha))
    if not linear:
        blend = build_fusion(BlendFusion(alpha=alpha), SIZES).double()
    with torch.no_grad():
        blend.alpha_logit.copy_(torch.randn(blend.alpha_logit.shape))
        target = blend(clip, sam).flatten(0, 1)
    given = torch.cat([clip, sam, torch.ones(50, 4, 1).double()], dim=-1).flatten(0, 1)
    best = given @ torch.linalg.lstsq(given, target).solution
    left = ((best - target) ** 2).mean() / target.var()
    assert (left < 1e-12) if is_linear else (left > 1e-4)


def test_the_mean_of_sams_tokens_stands_beside_the_class_token():
    clip, sam = features()
    assert with_mean_token(clip, sam) is sam
    longer = with_mean_token(torch.zeros(2, 3, 5, 6), sam)
    assert torch.equal(longer[..., 1:, :], sam)
    assert torch.allclose(longer[..., 0, :], sam.mean(dim=-2))


@pytest.mark.parametrize(
    ("clip", "sam"),
    [
        ((2, 4, 7), (2, 4, 10)),
        ((2, 4, 6), (2, 4, 9)),
        ((2, 5, 6), (2, 4, 10)),
        ((2, 4, 6), (2, 1, 10)),
    ],
)
def test_features_of_other_shapes_are_refused_with_both(clip, sam):
    check_features(*features(), SIZES)
    with pytest.raises(ValueError, match=r"this model reads \(4, 6\) and \(4, 10\)") as caught:
        check_features(torch.zeros(clip), torch.zeros(sam), SIZES)
    assert str(clip[1:]) in str(caught.value)
    assert str(sam[1:]) in str(caught.value)


MIX = FusionSizes(
    clip_channels=6,
    sam_channels=10,
    num_tokens=4,
    hidden=8,
    width=12,
    clip_layers=2,
    more={
        "fine": StreamSizes(num_tokens=4, num_channels=3),
        "dino": StreamSizes(num_tokens=9, num_channels=4, num_layers=2),
        "b": StreamSizes(num_tokens=4, num_channels=5, is_aligned=True),
    },
)


def more_features(seed=1):
    torch.manual_seed(seed)
    sizes = MIX.more.items()
    return {name: torch.randn(2, 3, each.num_tokens, each.num_channels) for name, each in sizes}


@pytest.mark.parametrize("kind", [ConcatFusion, LayerMergeFusion, AppendFusion])
@pytest.mark.parametrize("towers", [("clip", "sam"), ("fine", "clip", "b"), ("sam",), ("b",)])
def test_a_fusion_reads_the_towers_that_it_names_and_no_others(kind, towers):
    fusion = build_fusion(kind(towers=towers), MIX)
    given = dict(zip(("clip", "sam"), features(), strict=True)) | more_features()
    for each in given.values():
        each.requires_grad_()
    more = {name: given[name] for name in MIX.more}
    fused = fuse_towers(fusion, MIX, given["clip"], given["sam"], more)
    number = len(towers) if kind is AppendFusion else 1
    assert fused.shape == (2, 3, 4 * number, 12)
    fused.square().sum().backward()
    reached = {name for name, each in given.items() if each.grad is not None and each.grad.any()}
    assert reached == set(towers)


def test_append_puts_towers_behind_one_another_each_on_its_own_grid():
    fusion = build_fusion(AppendFusion(), MIX)
    (clip, sam), more = features(), more_features()
    fused = fuse_towers(fusion, MIX, clip, sam, more)
    assert fused.shape == (2, 3, 4 + 4 + 4 + 9 + 4, 12)
    assert torch.equal(fused[..., 12:21, :], fusion.project_dino(more["dino"]))
    # beside a class token stands the mean of each other tower
    longer = FusionSizes(
        clip_channels=6, sam_channels=10, num_tokens=5, hidden=8, width=12, more=MIX.more
    )
    fused = fuse_towers(
        build_fusion(AppendFusion(), longer), longer, torch.zeros(2, 3, 5, 6), sam, more
    )
    assert fused.shape == (2, 3, 5 + 5 + 5 + 10 + 5, 12)


def test_layer_merge_bends_what_was_not_trained_beside_texts():
    sizes = FusionSizes(
        clip_channels=6, sam_channels=10, num_tokens=4, hidden=8, width=12, clip_layers=3,
        more={name: MIX.more[name] for name in ("fine", "b")},
    )  # fmt: skip
    names = {
        name.split(".")[0] for name, _ in build_fusion(LayerMergeFusion(), sizes).named_modules()
    }
    merged = {"merge_clip", "merge_sam", "merge_fine", "merge_b"}
    assert names - {""} == {*merged, "bend_sam", "bend_fine", "join"}


def test_without_further_towers_every_weight_has_its_name_and_its_first_value():
    """Checkpoints are found by names, and a seed gives the model that it always gave."""
    torch.manual_seed(0)
    state = build_fusion(LayerMergeFusion(), LAYERS).state_dict()
    torch.manual_seed(0)
    first = torch.nn.Linear(2, 8)
    assert torch.equal(state["merge_clip.project.0.1.weight"], first.weight)
    assert next(iter(build_fusion(ConcatFusion(), SIZES).state_dict())) == "project.0.weight"
    assert {name.split(".")[0] for name in state} == {
        "merge_clip", "merge_sam", "bend_sam", "join",
    }  # fmt: skip


def test_missing_and_foreign_features_of_a_further_tower_are_refused():
    (clip, sam), more = features(), more_features()
    check_features(clip, sam, MIX, more)
    for wrong in ({}, {**more, "dino": more["fine"]}):
        with pytest.raises(ValueError, match=r"features of tower '(fine|dino)' are .* embed again"):
            check_features(clip, sam, MIX, wrong)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fusion": {"type": "concat", "towers": ["clip", "dino"]}}, "names 'dino', which is no"),
        ({"fusion": {"type": "append", "towers": ["sam", "sam"]}}, "names a tower twice"),
        ({"towers": ["fine", "fine"]}, "'fine' twice"),
        (
            {"grid": 3},
            r"'vit' is stored on a grid of 3, .* reads that of CLIP, 2",
        ),
    ],
)
def test_a_mix_that_does_not_fit_is_refused_in_one_line(change, told):
    values = tiny_mix().model_dump(mode="json")
    fine, vit = values["towers"]
    if "towers" in change:
        values["towers"] = [fine, fine]
    values["fusion"] = change.get("fusion", values["fusion"])
    vit["target_grid"] = change.get("grid", 0)
    with pytest.raises(ValueError, match=told):
        ModelConfig.model_validate(values)
