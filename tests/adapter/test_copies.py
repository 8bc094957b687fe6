"""A model with an adapter is copied, pickled, cast and changed as any other, and its adapter comes off again."""

import copy
import io
import pickle

import pytest
import torch

import tensloradist._torchvision  # noqa: F401 (before timm and transformers' image classes)
from tensloradist.adapter import Adapter, attach, attached_adapter, detach
from tensloradist.backbones import FAMILIES
from tensloradist.errors import UserError
from tensloradist.spec import AdapterSpec

PROJECTIONS = ("query", "key", "value", "attention_output")
SPEC = AdapterSpec(grouping="qkv_depth", ranks=2)


def randomize(adapter, scale=0.3):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def adapted(family="vit", spec=SPEC):
    torch.manual_seed(0)
    model, inputs = FAMILIES[family].example()
    adapter = attach(model.eval(), spec)
    randomize(adapter)
    return model, inputs, adapter


def logits(model, inputs, family="vit"):
    return FAMILIES[family].logits(model, inputs)


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("how", [copy.deepcopy, pickled, saved_and_loaded])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_copy_is_a_model_with_an_adapter_of_its_own(family, how):
    model, inputs, adapter = adapted(family)
    result = logits(model, inputs, family)  # its backward pass is pending
    twin = how(model)
    other = attached_adapter(twin)
    assert other.attachment.model is twin and other.attachment.family is FAMILIES[family]
    assert all(wrapped.adapter is other for wrapped in other.attachment.wrapped.values())
    assert other.attachment.wrapped.keys() == adapter.attachment.wrapped.keys()
    assert all(twin.get_submodule(path) is wrapped for path, wrapped in other.attachment.wrapped.items())
    assert torch.equal(logits(twin, inputs, family), result)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(logits(model, inputs, family), result), "the copy's adapter is the copy's"
    assert not torch.equal(logits(twin, inputs, family), result)
    twin_result = logits(twin, inputs, family)
    twin_result.sum().backward()
    assert all(p.grad is not None for p in other.parameters()) and all(p.grad is None for p in adapter.parameters())
    result.sum().backward()
    assert all(p.grad is not None for p in adapter.parameters())
    other.merge()
    other.unmerge()
    other.detach()
    assert attached_adapter(twin) is None and attached_adapter(model) is adapter


def _result_of(pickled_model, inputs, queue):
    queue.put(logits(pickle.loads(pickled_model), inputs).detach().numpy())


@pytest.mark.evidence  # a process of its own
def test_a_model_goes_to_a_process_that_is_spawned():
    model, inputs, _ = adapted()
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_result_of, args=(pickle.dumps(model), inputs, queue))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    torch.testing.assert_close(torch.from_numpy(found), logits(model, inputs).detach())


def test_a_merged_models_copy_is_unmerged_alone():
    model, inputs, adapter = adapted()
    trained = logits(model, inputs)
    adapter.merge()
    twin = copy.deepcopy(model)
    attached_adapter(twin).unmerge()
    assert torch.equal(logits(twin, inputs), trained)
    assert adapter.attachment.is_merged and not attached_adapter(twin).attachment.is_merged
    adapter.unmerge()
    assert torch.equal(logits(model, inputs), trained)


def test_a_copy_of_a_detached_model_takes_an_adapter():
    model, inputs, adapter = adapted()
    trained = logits(model, inputs)
    plain = copy.deepcopy(model)
    detach(plain)
    again = copy.deepcopy(plain)
    randomize(attach(again, SPEC))
    assert torch.equal(logits(again, inputs), trained)
    assert attached_adapter(plain) is None and attached_adapter(model) is adapter


def test_a_copied_layer_computes_with_a_copied_adapter():
    model, _, adapter = adapted("timm_vit")
    x = torch.randn(1, 5, 24)
    before = model.blocks[0](x)
    block = copy.deepcopy(model.blocks[0])
    randomize(adapter, scale=1.0)
    assert torch.equal(block(x), before) and not torch.equal(model.blocks[0](x), before)


@pytest.mark.parametrize("family", ["bert", "timm_vit"])
def test_the_adapter_comes_off_after_the_head_was_exchanged(family):
    model, _, adapter = adapted(family)
    name = FAMILIES[family].head(model)[0]
    head = torch.nn.Sequential(torch.nn.Linear(24, 7))
    setattr(model, name, head.requires_grad_(False))
    adapter.detach()
    assert attached_adapter(model) is None
    assert not any(p.requires_grad for p in head.parameters()), "a new head is left as it is"
    others = [p for n, p in model.named_parameters() if not n.startswith(f"{name}.")]
    assert all(p.requires_grad for p in others)


def test_an_adapter_that_comes_off_during_a_pass_leaves_the_rest_of_it_without_one():
    model, inputs, adapter = adapted("timm_vit")
    plain = copy.deepcopy(model)
    detach(plain)
    model.patch_embed.register_forward_hook(lambda *_: adapter.detach() if adapter.attachment else None)
    assert torch.equal(model(inputs["pixel_values"]), plain(inputs["pixel_values"]))
    assert torch.equal(model(inputs["pixel_values"]), plain(inputs["pixel_values"]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_is_cast_with_its_adapter(dtype):
    model, inputs, adapter = adapted("timm_vit")
    trained = model(inputs["pixel_values"])
    model.to(dtype)
    found = model(inputs["pixel_values"].to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), trained, rtol=0.1, atol=0.1 if dtype != torch.float64 else 1e-5)
    assert all(p.dtype == dtype for p in adapter.parameters())
    found.float().sum().backward()
    assert all(p.grad is not None for p in adapter.parameters())


def test_a_state_goes_to_another_model_with_an_adapter():
    model, inputs, _ = adapted()
    other, _, other_adapter = adapted()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other, inputs), logits(model, inputs))
    assert attached_adapter(other) is other_adapter


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("core", [1e5, 1e38, float("nan")])
def test_a_merge_or_export_whose_result_is_not_finite_is_refused_and_changes_nothing(dtype, core, tmp_path):
    model, inputs, adapter = adapted()
    model.to(dtype)
    adapter.float()
    with torch.no_grad():
        for name, parameter in adapter.tensors[0].parameters_by_name().items():
            parameter.fill_(core if name == "core" else 2.0)
        adapter.tensors[0].factors["depth"][0] = 0.0  # the first layers can be merged
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    if core == 1e5 and dtype != torch.float16:
        adapter.merge()
        adapter.unmerge()
    else:
        says = rf"{'layers.1' if core == 1e5 else ''}.*largest {dtype} is .*nothing was merged"
        with pytest.raises(UserError, match=says):
            adapter.merge()
        with pytest.raises(UserError, match=says):
            adapter.export_merged(tmp_path / "merged")
        assert not list(tmp_path.iterdir())
    assert not adapter.attachment.is_merged and not any(w.merged for w in adapter.attachment.wrapped.values())
    for name, weight in model.state_dict().items():
        assert torch.equal(weight.nan_to_num(), before[name].nan_to_num()), name
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.zero_()
    assert logits(model, {key: value.to(dtype) for key, value in inputs.items()}).isfinite().all()


def test_a_merge_into_a_layer_without_the_bias_that_it_needs_changes_nothing():
    model, _, adapter = adapted("vit", AdapterSpec(method="cara", ranks=2, projections=PROJECTIONS))
    assert adapter.biases
    list(adapter.attachment.wrapped.values())[-1].base.bias = None
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(UserError, match="has no bias"):
        adapter.merge()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not adapter.attachment.is_merged


def test_an_adapter_alone_is_copied():
    _, _, adapter = adapted()
    shape = adapter.shape
    alone = copy.deepcopy(Adapter(SPEC, shape, seed=3))
    assert alone.attachment is None and alone.pair("query", 0)[0].shape[0] == shape.d_in
