"""An adapted projection computes with the pairs of the present parameters and gradient mode, whatever is called.

The reference is the same model with the dense update in its weights, a plain tensor with its own graph, in float64.
"""

import copy
import functools
import gc
import threading

import pytest
import torch

import tensloradist._torchvision  # noqa: F401 (before timm and transformers' image classes)
from tensloradist.adapter import attach, detach
from tensloradist.backbones import FAMILIES
from tensloradist.errors import UserError
from tensloradist.spec import AdapterSpec
from tensloradist.training.blocks import blocks, recompute

SPECS = {
    "lora": AdapterSpec(method="lora", ranks=2, scale=0.7),
    "qkv_depth": AdapterSpec(grouping="qkv_depth", ranks=2),
    "att": AdapterSpec(grouping="att", ranks=2),
    "fused": AdapterSpec(grouping="qkv_depth", fused=True, ranks=2),
    "all_four": AdapterSpec(
        grouping="depth", ranks=2, projections=("query", "key", "value", "attention_output"), scale=2.0
    ),
}
CASES = [(family, "qkv_depth") for family in sorted(FAMILIES)] + [
    (family, name) for family in ("vit", "timm_vit") for name in SPECS if name != "qkv_depth"
]


def randomize(adapter, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.3)


def adapted(family, name="qkv_depth"):
    torch.manual_seed(0)
    model, inputs = FAMILIES[family].example()
    adapter = attach(model.double().eval(), SPECS[name])
    randomize(adapter)
    return model, {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}, adapter


def with_dense_update(model, adapter):
    """A copy of the model without the adapter, whose weights are tensors with the update added."""
    twin = copy.deepcopy(model)
    detach(twin)
    for path, wrapped in adapter.attachment.wrapped.items():
        linear = twin.get_submodule(path)
        updates = [
            torch.zeros(width, wrapped.in_features, dtype=torch.float64)
            if projection is None
            else adapter.delta(projection, wrapped.layer).mT
            for projection, width in zip(wrapped.projections, wrapped.widths, strict=True)
        ]
        weight = linear._parameters.pop("weight").detach() + torch.cat(updates)
        linear.weight = weight
    return twin


def tensor_of(output):
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output


def result_and_gradients(call, adapter):
    result = tensor_of(call())
    gradients = torch.autograd.grad(result.square().sum(), list(adapter.parameters()), allow_unused=True)
    return [result.detach(), *(torch.zeros(()) if g is None else g for g in gradients)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, check_dtype=False)


@pytest.fixture
def computed(monkeypatch):
    """How often an adapter has computed its pairs."""
    from tensloradist.adapter import Adapter

    calls = []
    forward = Adapter.forward
    monkeypatch.setattr(Adapter, "forward", lambda self: calls.append(1) or forward(self))
    return calls


def entered(model, inputs, family, adapter):
    """Path -> the arguments that a whole pass gives to each module that contains an adapted projection."""
    arguments, handles = {}, []
    for path, module in model.named_modules():
        if any(w == path or w.startswith(f"{path}." if path else "") for w in adapter.attachment.wrapped):
            remember = lambda _, args, kwargs, path=path: arguments.setdefault(path, (args, kwargs))  # noqa: E731
            handles.append(module.register_forward_pre_hook(remember, with_kwargs=True))
    with torch.no_grad():
        FAMILIES[family].logits(model, inputs)
    for handle in handles:
        handle.remove()
    return arguments


@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_module_that_contains_a_projection_can_be_called_alone(family, name, computed):
    model, inputs, adapter = adapted(family, name)
    arguments = entered(model, inputs, family, adapter)
    assert set(adapter.attachment.wrapped) < set(arguments)
    randomize(adapter, seed=1)  # pairs of the pass before would be wrong
    twin = with_dense_update(model, adapter)
    for path, (args, kwargs) in arguments.items():
        expected = tensor_of(twin.get_submodule(path)(*args, **kwargs))
        wanted = torch.autograd.grad(
            expected.square().sum(), list(adapter.parameters()), retain_graph=True, allow_unused=True
        )
        wanted = [torch.zeros(()) if gradient is None else gradient for gradient in wanted]
        computed.clear()
        module = model.get_submodule(path)
        found = result_and_gradients(lambda module=module, a=args, k=kwargs: module(*a, **k), adapter)
        assert len(computed) == 1, f"{path or 'the model'}: once a pass, not once a projection"
        for one, other in zip(found, [expected.detach(), *wanted], strict=True):
            torch.testing.assert_close(one.expand_as(other), other, rtol=1e-9, atol=1e-10, check_dtype=False)
    adapter.merge()
    with torch.no_grad():
        for path, (args, kwargs) in arguments.items():
            merged = tensor_of(model.get_submodule(path)(*args, **kwargs))
            assert_same([merged], [tensor_of(twin.get_submodule(path)(*args, **kwargs))])


def intermediates(model, inputs):
    return model.forward_intermediates(inputs["pixel_values"])[0]


def intermediate_layers(model, inputs):
    return torch.cat(model.get_intermediate_layers(inputs["pixel_values"], n=2))


def through_another_module(model, inputs):
    return torch.nn.Sequential(model)(inputs["pixel_values"])


def in_a_thread(model, inputs):
    results = []
    thread = threading.Thread(target=lambda: results.append(model(inputs["pixel_values"])))
    thread.start()
    thread.join()
    return results[0]


def the_forward_alone(model, inputs):
    return model.forward(inputs["pixel_values"])


def the_projections_forward_alone(model, inputs):
    return model.blocks[1].attn.qkv.forward(torch.ones(1, 2, 24, dtype=torch.float64))


def without_then_with_gradients(model, inputs):
    """A hook within a pass without gradients that switches them on."""

    def on(*_):
        torch.set_grad_enabled(True)

    handle = model.blocks[0].attn.register_forward_pre_hook(on, prepend=True)
    try:
        with torch.no_grad():
            return model(inputs["pixel_values"])
    finally:
        handle.remove()


def after_an_exception(model, inputs):
    def stop(*_):
        raise ValueError("enough")

    handle = model.blocks[1].attn.register_forward_pre_hook(stop)
    with torch.no_grad(), pytest.raises(ValueError, match="enough"):
        model(inputs["pixel_values"])
    handle.remove()
    return model.blocks[1](torch.ones(1, 5, 24, dtype=torch.float64))


def after_an_interruption(model, inputs):
    """torch calls no hooks for a KeyboardInterrupt."""

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.blocks[1].attn.register_forward_pre_hook(interrupt)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        model(inputs["pixel_values"])
    handle.remove()
    return model.blocks[1](torch.ones(1, 5, 24, dtype=torch.float64))


def after_a_pass_without_gradients(model, inputs):
    logits = model(inputs["pixel_values"])
    with torch.no_grad():
        model(inputs["pixel_values"])
    return logits


def two_passes_before_backward(model, inputs):
    return model(inputs["pixel_values"]) + model.forward_features(2 * inputs["pixel_values"])[:, 0, :4]


@pytest.mark.parametrize(
    "way",
    [
        intermediates,
        intermediate_layers,
        through_another_module,
        in_a_thread,
        the_forward_alone,
        the_projections_forward_alone,
        without_then_with_gradients,
        after_an_exception,
        after_an_interruption,
        after_a_pass_without_gradients,
        two_passes_before_backward,
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_every_way_in_gives_the_dense_updates_result_and_gradients(way, checkpointing):
    model, inputs, adapter = adapted("timm_vit")
    with torch.no_grad():
        model(inputs["pixel_values"])
    randomize(adapter, seed=1)
    with torch.enable_grad():
        expected = result_and_gradients(lambda: way(with_dense_update(model, adapter), inputs), adapter)
        model.set_grad_checkpointing(checkpointing)
        for _ in range(2):  # a graph that is used up would be missed the second time
            assert_same(result_and_gradients(lambda: way(model, inputs), adapter), expected)


def test_parameters_of_functional_call_are_used_and_the_models_own_afterwards():
    model, inputs, adapter = adapted("vit")
    own = FAMILIES["vit"].logits(model, inputs)
    other = {
        name: (2 * p.detach()).requires_grad_() for name, p in model.named_parameters() if "tensor_adapter" in name
    }
    logits = torch.func.functional_call(model, other, (), inputs).logits
    gradients = torch.autograd.grad(logits.sum(), list(other.values()))
    assert torch.equal(FAMILIES["vit"].logits(model, inputs), own)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.mul_(2)
    expected = torch.autograd.grad(FAMILIES["vit"].logits(model, inputs).sum(), list(adapter.parameters()))
    assert_same(gradients, expected)


def test_a_parametrized_factor_is_used():
    model, inputs, adapter = adapted("vit")
    tensor = adapter.tensors[0]
    torch.nn.utils.parametrize.register_parametrization(tensor.factors, "depth", torch.nn.Tanh())
    found = FAMILIES["vit"].logits(model, inputs)
    twin = with_dense_update(model, adapter)
    assert_same([found.detach()], [FAMILIES["vit"].logits(twin, inputs).detach()])
    assert torch.autograd.grad(found.sum(), tensor.factors.parametrizations["depth"].original)[0].abs().sum() > 0


def test_a_pass_in_another_thread_does_not_disturb_this_ones():
    """The other one, without gradients, begins and ends while this one is in its second block."""
    model, inputs, adapter = adapted("timm_vit")
    expected = result_and_gradients(lambda: model(inputs["pixel_values"]), adapter)
    seen = []

    def evaluate():
        with torch.no_grad():
            seen.append(model(inputs["pixel_values"]))

    def meanwhile(*_):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=evaluate)
            thread.start()
            thread.join()

    model.blocks[1].norm1.register_forward_hook(meanwhile)
    assert_same(result_and_gradients(lambda: model(inputs["pixel_values"]), adapter), expected)
    assert not seen[0].requires_grad
    assert_same([seen[0]], expected[:1])


def checkpointed(family, kind):
    """(model, its logits of a batch, its adapter); `kind` of activation checkpointing: the library's, a run's, none."""
    model, inputs, adapter = adapted(family, "all_four")
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if kind == "a run's":
        recompute(blocks(model, FAMILIES[family]), adapter)
    elif kind and family == "timm_vit":
        model.set_grad_checkpointing()
    elif kind:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model, lambda: FAMILIES[family].logits(model, inputs), adapter


@pytest.mark.parametrize("kind", ["the library's", "a run's"])
@pytest.mark.parametrize("family", ["bert", "vit", "timm_vit", "llama"])
def test_recomputation_is_disturbed_by_no_pass_between_forward_and_backward(family, kind, computed):
    _, plain, adapter = checkpointed(family, None)
    expected = torch.autograd.grad(plain().square().sum(), list(adapter.parameters()))
    _, logits, adapter = checkpointed(family, kind)
    computed.clear()
    loss = logits().square().sum() / 2
    assert len(computed) == 1
    with torch.no_grad():
        logits()
    loss = loss + logits().square().sum() / 2  # a second pass before the backward one
    computed.clear()
    found = torch.autograd.grad(loss, list(adapter.parameters()))
    assert len(computed) == (0 if kind == "a run's" else 1), "recomputations share their pairs"
    assert_same(found, expected)


def test_a_recomputation_is_told_where_torch_has_no_word_for_its_hooks(computed, monkeypatch):
    """Before torch 2.8."""
    monkeypatch.delattr(torch._C._autograd, "_top_saved_tensors_default_hooks")
    test_recomputation_is_disturbed_by_no_pass_between_forward_and_backward("timm_vit", "the library's", computed)
    test_every_way_in_gives_the_dense_updates_result_and_gradients(intermediates, True)


def test_a_runs_recomputation_uses_the_values_of_its_forward_pass():
    _, logits, adapter = checkpointed("vit", "a run's")
    expected = torch.autograd.grad(logits().square().sum(), list(adapter.parameters()))
    loss = logits().square().sum()
    randomize(adapter, seed=1)
    assert_same(torch.autograd.grad(loss, list(adapter.parameters())), expected)


@pytest.mark.parametrize("family", ["bert", "vit", "timm_vit"])
def test_reentrant_checkpointing_is_refused(family):
    model, inputs, _ = adapted(family)
    model.train()
    if family == "timm_vit":
        call = lambda: torch.utils.checkpoint.checkpoint(  # noqa: E731
            model.blocks[0], torch.ones(1, 5, 24, dtype=torch.float64), use_reentrant=True
        )
    else:
        model.activation_checkpointing_enable({"use_reentrant": True})
        call = lambda: FAMILIES[family].logits(model, inputs)  # noqa: E731
    with pytest.raises(UserError, match="use_reentrant=False"):
        call()


def test_replicas_of_dataparallel_are_refused():
    model, _, _ = adapted("timm_vit")
    replica = model.blocks[0]._replicate_for_data_parallel()
    with pytest.raises(UserError, match="DistributedDataParallel"):
        replica(torch.ones(1, 5, 24, dtype=torch.float64))


@pytest.mark.parametrize(
    ("family", "whole"),
    [
        ("vit", False),
        pytest.param("vit", True, marks=pytest.mark.evidence),
        pytest.param("bert", True, marks=pytest.mark.evidence),
    ],
)
def test_a_users_compilation_takes_the_present_pairs(family, whole, computed):
    model, inputs, adapter = adapted(family)
    expected = result_and_gradients(lambda: FAMILIES[family].logits(model, inputs), adapter)
    torch.compiler.reset()
    called = torch.compile(model, backend="eager", fullgraph=True) if whole else model
    for block in [] if whole else blocks(model, FAMILIES[family]):
        block.compile(backend="eager", fullgraph=True)
    for seed in (1, 0):  # compiled with other parameters than it is called with
        randomize(adapter, seed)
        computed.clear()
        found = result_and_gradients(lambda: FAMILIES[family].logits(called, inputs), adapter)
        assert len(computed) <= 1
    assert_same(found, expected)
    torch.compiler.reset()


def test_nothing_of_a_pass_is_held_after_it():
    """Neither after it ends by itself, nor after an exception in it."""
    model, inputs, adapter = adapted("timm_vit")
    adapter.attachment.passes.projections[-1].register_forward_hook(lambda *_: kept.append(held(adapter)))
    kept = []
    model(inputs["pixel_values"])
    assert kept == [True] and not held(adapter)
    with pytest.raises(AssertionError):
        model(torch.ones(1, 3, 7, 7, dtype=torch.float64))
    assert not held(adapter)
    with pytest.raises(TypeError):
        model.blocks[1](None)
    assert not held(adapter), "a part that was called alone"
    model.set_grad_checkpointing()
    model(inputs["pixel_values"]).sum().backward()
    assert not held(adapter), "a recomputation, which stops by an exception"


def held(adapter):
    passes = adapter.attachment.passes
    return (
        passes._handed_out
        or bool(passes._open.passes)
        or any(p._handed.pair or p._compiled_with for p in passes.projections)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_rounds_as_the_merged_model_does(dtype):
    model, inputs, adapter = adapted("timm_vit")
    model.float()
    pixels = inputs["pixel_values"].float()
    with torch.no_grad(), torch.autocast("cpu", dtype):
        found = intermediates(model, {"pixel_values": pixels})
        adapter.merge()
        expected = intermediates(model, {"pixel_values": pixels})
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.05, atol=0.05)


def test_a_projections_forward_alone_after_an_interruption_takes_the_present_pairs():
    """torch calls no hooks for a KeyboardInterrupt, and none begins a pass here."""
    model, _, adapter = adapted("timm_vit")
    x, projection = torch.ones(1, 5, 24, dtype=torch.float64), model.blocks[1].attn.qkv

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.blocks[1].attn.proj.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.blocks[1](x)
    handle.remove()
    randomize(adapter, seed=1)
    assert torch.equal(projection.forward(x), projection(x))


def test_a_compiled_part_alone_takes_the_present_pairs_after_a_recomputation():
    model, inputs, adapter = adapted("timm_vit")
    model.set_grad_checkpointing()
    model(inputs["pixel_values"]).sum().backward()
    model.set_grad_checkpointing(False)
    randomize(adapter, seed=1)
    torch.compiler.reset()
    with torch.no_grad():
        found = torch.compile(model.forward_features, backend="eager")(inputs["pixel_values"])
        assert_same([found], [model.forward_features(inputs["pixel_values"])])
    torch.compiler.reset()


def test_a_runs_recomputation_leaves_no_cycle_that_holds_the_blocks_inputs():
    model, inputs, adapter = adapted("timm_vit")
    recompute(blocks(model, FAMILIES["timm_vit"]), adapter)
    batch = inputs["pixel_values"][:1].expand(61, -1, -1, -1)  # no other tensor is of this length
    gc.collect()
    gc.disable()
    try:
        model(batch).sum().backward()
        left = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.dim() == 3 and len(o) == 61]
    finally:
        gc.enable()
    assert not left


@pytest.mark.parametrize("alone", [False, True], ids=["the model", "a block alone"])
def test_a_users_selective_checkpointing_gives_the_same_gradients(alone):
    """The pairs of a Tucker tensor are matrix products too, which the second block's recomputation does not repeat."""
    context = functools.partial(
        torch.utils.checkpoint.create_selective_checkpoint_contexts,
        [torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default],
    )
    model, inputs, adapter = adapted("timm_vit")

    def call(model, checkpoint):
        if not alone:
            return model(inputs["pixel_values"])
        x = torch.ones(1, 5, 24, dtype=torch.float64)
        for block in model.blocks:
            x = checkpoint(block, x)
        return x

    expected = result_and_gradients(lambda: call(model, lambda block, x: block(x)), adapter)
    checkpoint = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False, context_fn=context)
    if not alone:
        for block in model.blocks:
            block.forward = functools.partial(checkpoint, block.forward)
    assert_same(result_and_gradients(lambda: call(model, checkpoint), adapter), expected)


def test_a_pass_in_another_thread_is_refused_where_parts_are_compiled():
    """Compiled code would compute this thread's pass with the other one's pairs, which have no gradients."""
    model, inputs, adapter = adapted("timm_vit")
    expected = result_and_gradients(lambda: model(inputs["pixel_values"]), adapter)
    torch.compiler.reset()
    for block in model.blocks:
        block.compile(backend="eager")
    refused = []

    def evaluate():
        with torch.no_grad():
            try:
                model(inputs["pixel_values"])
            except UserError as error:
                refused.append(str(error))

    def meanwhile(*_):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=evaluate)
            thread.start()
            thread.join()

    model(inputs["pixel_values"])
    evaluate()
    assert not refused, "one after the other"
    model.patch_embed.register_forward_hook(meanwhile)
    assert_same(result_and_gradients(lambda: model(inputs["pixel_values"]), adapter), expected)
    assert len(refused) == 1 and "Let one thread at a time" in refused[0]
    torch.compiler.reset()


@pytest.mark.parametrize("family", ["vit", "timm_vit"])  # separate and fused layers
def test_a_projection_takes_a_single_example_without_a_batch(family):
    _, _, adapter = adapted(family)
    for projection in adapter.attachment.wrapped.values():
        x = torch.linspace(-1, 1, projection.in_features, dtype=torch.float64)
        assert_same([projection(x)], [projection(x[None])[0]])
        assert_same([projection(x[None, None][:, :0])], [torch.empty(1, 0, sum(projection.widths))])


@pytest.mark.parametrize("kind", [None, "the library's", "a run's"])
def test_a_part_without_autocast_within_a_pass_with_it_computes_in_full_precision(kind, computed):
    model, _, adapter = checkpointed("timm_vit", kind)
    model.float()
    islands = [block.attn.qkv for block in model.blocks]
    found = []
    for layer, island in enumerate(islands):

        def without(x, forward=island._call_impl, layer=layer):
            with torch.autocast("cpu", enabled=False):
                found.append((layer, x.detach().float(), forward(x.float())))
            return found[-1][2]

        island.__dict__["_call_impl"] = without
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.ones(2, 3, 16, 16)).float().square().sum()
    assert len(computed) == 2, "once in each precision, however many parts need it"
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())
    for layer, x, y in found:
        plain = torch.nn.functional.linear(x, islands[layer].base.weight, islands[layer].base.bias)
        update = torch.cat([x @ adapter.delta(p, layer).detach() for p in ("query", "key", "value")], -1)
        torch.testing.assert_close(y.detach(), plain + update, rtol=1e-5, atol=1e-5)
