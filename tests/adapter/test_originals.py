"""The neighbours' own numbers: outputs, counts and initial distributions of the code that their authors published."""

import json
import math

import numpy as np
import pytest
import torch
from dense import dense
from safetensors.torch import load_file

from tensloradist.adapter import Adapter, load
from tensloradist.errors import UserError
from tensloradist.modes import AttentionShape
from tensloradist.presets import PRESETS, from_original
from tensloradist.spec import AdapterSpec

ATTENTION = ("query", "key", "value", "attention_output")
ADAPTED = {
    "fact_tt": (*ATTENTION, "fc1", "fc2"),
    "fact_tk": ATTENTION,
    "lotr": ("query", "value"),
    "lorta_litgpt": ATTENTION,
    "lorta_peft": ATTENTION,
    "cara": (*ATTENTION, "fc1", "fc2"),
    "metatt_4d": ("query", "key", "value"),
}


def original(data_root, method):
    folder = data_root / "golden/neighbours"
    about = json.loads((folder / f"{method}.json").read_text())
    tensors = load_file(folder / f"{method}.safetensors")
    own = {name.removeprefix("param."): value for name, value in tensors.items() if name.startswith("param.")}
    sizes = about["shapes"]
    shape = AttentionShape(sizes["d"], sizes["d"], sizes.get("heads", 8), sizes["layers"], ADAPTED[method])
    settings = {"scale_argument": about["scale_argument"], "rank": about.get("rank", about.get("ranks"))}
    return about, tensors, own, shape, settings


@pytest.mark.parametrize("method", ADAPTED)
@pytest.mark.parametrize("subset", ["all", "qkv"])
def test_outputs_equal_the_original_codes(data_root, method, subset):
    about, tensors, own, shape, settings = original(data_root, method)
    if subset == "qkv":
        shape = AttentionShape(shape.d_in, shape.d_out, shape.heads, shape.layers)
    adapter = from_original(method, own, shape, **settings)
    assert adapter.scale == about["effective_multiplier"]
    checked = 0
    with torch.no_grad():
        for projection in adapter.shape.projections:
            x = tensors["x_wide" if projection == "fc2" else "x"]
            bias = adapter.biases[projection] * adapter.scale if projection in adapter.biases else 0.0
            for layer in range(shape.layers):
                theirs = "output" if projection == "attention_output" else projection
                expected = tensors[f"y.{theirs}.{layer}"]
                assert expected.abs().max() > 1e-3
                delta = adapter.delta(projection, layer)
                torch.testing.assert_close(x @ delta + bias, expected, rtol=0, atol=1e-10)
                reference = adapter.scale * dense(adapter, projection, layer)
                torch.testing.assert_close(delta, reference, rtol=0, atol=1e-10)
                checked += 1
    adapted = [p for p in ADAPTED[method] if subset == "all" or p in ("query", "key", "value")]
    assert checked == len(adapted) * shape.layers
    if subset == "all" and method != "fact_tk":
        assert adapter.num_parameters == about["count"]


D, H, L, R = 40, 8, 6, 7
E = D // H
COUNTS = {
    ("fact_tt", "qkv"): 2 * D * R + 3 * L * R**2,
    ("fact_tt", "original"): 2 * D * R + 12 * L * R**2,
    ("fact_tk", "qkv"): 2 * D * R + 3 * L * R + R**3,
    ("fact_tk", "original"): 2 * D * R + 4 * L * R + R**3,
    ("lotr", "qkv"): 2 * D * R + 3 * L * R**2,
    ("lotr", "original"): 2 * D * R + 2 * L * R**2,
    ("lorta", "qkv"): R * (D + E + H + L + 3),
    ("lorta", "original"): R * (D + E + H + L + 4),
    ("lorta_peft", "qkv"): R * (D + E + H + L + 3),
    ("lorta_peft", "original"): R * (D + E + H + L + 4),
    ("cara", "qkv"): R * (3 * L + D + H + E + 1),
    ("cara", "original"): R * (3 * L + D + H + E + 1) + R * (9 * L + 2 * D + 1) + 6 * D,
    ("metatt_4d", "qkv"): 2 * D * R + (L + 3) * R**2,
    ("metatt_5d", "qkv"): R * (D + E) + (L + 3 + H) * R**2,
}


def build(method, targets="original", rank=R, d=D, heads=H, layers=L, seed=0):
    targets = ("query", "key", "value") if targets == "qkv" else targets
    spec = AdapterSpec(method=method, ranks=rank, targets=targets)
    return Adapter(spec, AttentionShape(d, d, heads, layers, spec.projections), seed, torch.float64)


@pytest.mark.parametrize(("method", "targets"), COUNTS)
def test_counts_equal_the_papers_formulae(method, targets):
    assert build(method, targets).num_parameters == COUNTS[method, targets]


def test_real_counts():
    """As measured by running the original code on ViT-B/16 and RoBERTa-base."""
    vit = {"d": 768, "heads": 12, "layers": 12}
    assert build("fact_tt", rank=16, **vit).num_parameters == 61440
    assert build("cara", rank=32, **vit).num_parameters == 85440
    assert build("lotr", rank=2, **vit).num_parameters == 3168
    assert build("lorta_peft", rank=8, **vit).num_parameters == 6880


# Parameter -> (zero, or the standard deviation, and the bound of a uniform distribution), as the original code draws.
RR, N = 16, 12 * 12
UNIFORM = math.sqrt(3)
INITIAL = {
    "fact_tt": [{"output": 0, "input": (1 / math.sqrt(3 * 96), UNIFORM)}],
    "fact_tk": [
        {
            "output": 0,
            "input": (1 / math.sqrt(3 * 96), UNIFORM),
            "core": (1 / RR, UNIFORM),
            "block": (math.sqrt(2 / (RR + 4 * 12)), UNIFORM),
        }
    ],
    "lotr": [{"block": 0, "input": (1.0, None), "output": (1.0, None)}],
    "lorta": [
        {
            "head_dim": 0,
            "input": (1 / math.sqrt(3 * RR), UNIFORM),
            "heads": (math.sqrt(2 / RR), UNIFORM),
            "depth": (math.sqrt(2 / RR), UNIFORM),
        }
    ],
    "cara": [
        {"input": 0, "block": (math.sqrt(2 / (36 + RR)), None), "weights": (0, None)},
        {"output": 0, "block": (math.sqrt(2 / (9 * 12 + RR)), None), "weights": (0, None)},
    ],
}
INITIAL["lorta_peft"] = INITIAL["lorta"]


@pytest.mark.parametrize("method", INITIAL)
def test_initial_values_have_the_originals_distributions(method):
    adapters = [build(method, rank=RR, d=96, heads=8, layers=12, seed=seed) for seed in range(20)]
    for index, expected in enumerate(INITIAL[method]):
        for name, wanted in expected.items():
            values = torch.stack([a.tensors[index].parameters_by_name()[name].detach() for a in adapters])
            if wanted == 0:
                assert torch.count_nonzero(values) == 0 and adapters[0].tensors[index].zero == name
                continue
            deviation, bound = wanted
            assert float(values.std()) == pytest.approx(deviation, rel=0.05)
            assert float(values.mean()) == pytest.approx(1.0 if name == "weights" else 0.0, abs=0.1 * (deviation or 1))
            if bound is not None:
                assert values.abs().max() <= bound * deviation * (1 + 1e-12)
                assert values.abs().max() > 0.95 * bound * deviation
    for adapter in adapters[:1]:
        assert all(torch.count_nonzero(left @ right) == 0 for left, right in adapter().values())
        assert all(torch.count_nonzero(bias) == 0 for bias in adapter.biases.values())


def test_fact_draws_the_blocks_of_fc2_from_a_wider_layer():
    core = torch.stack(
        [build("fact_tt", rank=RR, d=96, layers=12, seed=s).tensors[0].cores["block"].detach() for s in range(5)]
    )
    blocks = core.unflatten(2, (12, 12))
    assert float(blocks[..., :8, :].std()) == pytest.approx(1 / math.sqrt(3 * RR), rel=0.02)
    assert float(blocks[..., 8:, :].std()) == pytest.approx(1 / math.sqrt(12 * RR), rel=0.02)


def test_cara_starts_with_orthonormal_heads():
    first, second = build("cara", rank=4, d=96, heads=8).tensors
    for factor in (first.factors["heads"], first.factors["head_dim"], second.factors["input"]):
        torch.testing.assert_close(factor.T @ factor, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("method", [m for m in PRESETS if m != "metatt_5d"])
def test_original_tensors_that_do_not_fit_are_refused(data_root, method):
    golden = "lorta_litgpt" if method == "lorta" else method
    _, _, own, shape, settings = original(data_root, golden)
    first = sorted(own)[0]
    with pytest.raises(UserError, match=r"needs|has no"):
        from_original(method, {k: v for k, v in own.items() if k != first}, shape, **settings)
    with pytest.raises(UserError, match="does not use 'another'"):
        from_original(method, {**own, "another": own[first]}, shape, **settings)
    wrong = AttentionShape(80, 80, 8, 6, shape.projections)
    with pytest.raises(UserError, match=r"has shape \[.*needs \["):
        from_original(method, own, wrong, **settings)
    with pytest.raises(UserError, match="rank: 3"):
        from_original(method, own, shape, **{**settings, "rank": 3})
    with pytest.raises(UserError, match="Did you mean 'scale_argument'"):
        from_original(method, own, shape, scale_argumen=2)
    with pytest.raises(UserError, match="Unknown preset"):
        from_original("unheard_of", own, shape)


@pytest.mark.parametrize(("method", "scale"), [("lorta", 16 / 7), ("lorta_peft", 8 / 7), ("fact_tt", 1.0)])
def test_without_the_authors_scale_it_is_the_presets(data_root, method, scale):
    golden = "lorta_litgpt" if method == "lorta" else method
    _, _, own, shape, settings = original(data_root, golden)
    assert from_original(method, own, shape, rank=settings["rank"]).scale == pytest.approx(scale)


def test_layers_that_the_backbone_does_not_have_are_not_dropped(data_root):
    _, _, own, shape, settings = original(data_root, "fact_tt")
    shorter = AttentionShape(shape.d_in, shape.d_out, shape.heads, shape.layers - 1, shape.projections)
    with pytest.raises(UserError, match=f"does not use 'blocks.{shape.layers - 1}"):
        from_original("fact_tt", own, shorter, **settings)


def test_what_the_shape_leaves_out_is_said(data_root, caplog):
    _, _, own, shape, settings = original(data_root, "cara")
    from_original("cara", own, AttentionShape(shape.d_in, shape.d_out, shape.heads, shape.layers), **settings)
    assert "cara also has values for attention_output, fc1, fc2, which are ignored" in caplog.text


def test_lotrs_shared_factors_may_be_stored_once_a_layer(data_root):
    _, _, own, shape, settings = original(data_root, "lotr")
    expected = from_original("lotr", own, shape, **settings)
    aliases = {name: value for name, value in own.items() if name not in ("lotr.lhs", "lotr.rhs")}
    for side in ("lhs", "rhs"):
        aliases |= {f"layer.{n}.attention.query.lotr.{side}": own[f"lotr.{side}"] for n in range(shape.layers)}
    found = from_original("lotr", aliases, shape, **settings)
    for key, (left, right) in expected().items():
        assert torch.equal(left @ right, found()[key][0] @ found()[key][1])
    aliases["layer.1.attention.query.lotr.lhs"] = aliases["layer.1.attention.query.lotr.lhs"] + 1
    with pytest.raises(UserError, match="differs from 'layer.0"):
        from_original("lotr", aliases, shape, **settings)


@pytest.mark.parametrize(
    ("tensor", "settings", "says"),
    [
        (np.zeros((4, 4)), {}, "is of type ndarray; it must be a torch tensor of real numbers"),
        (torch.zeros(4, 4, dtype=torch.int64), {}, "is of type torch.int64"),
        (None, {"scale_argument": "x"}, "scale_argument: 'x' must be a finite number"),
        (None, {"rank": "2"}, "rank: '2', but the tensors"),
    ],
)
def test_what_is_no_tensor_or_number_is_refused(data_root, tensor, settings, says):
    _, _, own, shape, known = original(data_root, "lorta_peft")
    own = own if tensor is None else {**own, "lora_A": tensor}
    with pytest.raises(UserError, match=says):
        from_original("lorta_peft", own, shape, **{**known, **settings})


def test_metatt_5d_is_the_train_of_its_equation():
    generator = torch.Generator().manual_seed(0)
    layers, ranks, sizes = 3, [2, 3, 4, 2], [12, 3, 3, 4, 3]
    bonds = [1, *ranks, 1]
    cores = [
        torch.randn(bonds[n], size, bonds[n + 1], generator=generator, dtype=torch.float64)
        for n, size in enumerate(sizes)
    ]
    tensors = {f"core{n}": core for n, core in enumerate(cores)}
    adapter = from_original("metatt_5d", tensors, AttentionShape(12, 12, 4, layers), rank=ranks, scale_argument=0.5)
    dense = torch.einsum("zai,ilj,jpk,khm,mey->lpahe", *cores).flatten(-2)
    for p, projection in enumerate(("query", "key", "value")):
        for layer in range(layers):
            torch.testing.assert_close(adapter.delta(projection, layer), 0.5 * dense[layer, p], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [m for m in ADAPTED if m != "lorta_litgpt"])
def test_an_originals_adapter_is_attached_and_leaves_as_a_lora(data_root, tmp_path, method):
    """As docs/groupings.md says: save, load onto the backbone, export; each step with the original's update."""
    from peft import PeftModel
    from transformers import BertConfig, BertForSequenceClassification

    _, _, own, shape, settings = original(data_root, method)
    shape = AttentionShape(shape.d_in, shape.d_out, shape.heads, shape.layers)
    if method == "lotr":
        shape = AttentionShape(shape.d_in, shape.d_out, shape.heads, shape.layers, ("query", "value"))
    adapter = from_original(method, own, shape, **settings)
    with pytest.raises(UserError, match="save it, and load it onto a model"):
        adapter.export_peft(tmp_path / "lora")
    sizes = {"hidden_size": shape.d_in, "num_attention_heads": shape.heads, "num_hidden_layers": shape.layers}
    config = BertConfig(**sizes, intermediate_size=24, vocab_size=50, num_labels=3)
    model = BertForSequenceClassification(config).double().eval()
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        plain = model(ids).logits
        adapter.save(tmp_path / "adapter")
        loaded = load(model, tmp_path / "adapter")
        expected = model(ids).logits
        assert (expected - plain).abs().max() > 1e-6
        torch.testing.assert_close(loaded.delta("value", 1), adapter.delta("value", 1), rtol=0, atol=0)
        loaded.export_peft(tmp_path / "lora")
        loaded.detach()
        lora = PeftModel.from_pretrained(model, str(tmp_path / "lora"))
        torch.testing.assert_close(lora(ids).logits, expected, rtol=1e-9, atol=1e-9)
