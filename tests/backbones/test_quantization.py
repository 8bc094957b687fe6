"""Quantised frozen backbones: near the original, small, trainable around, and refused where that is not possible."""

import builtins
import copy
import ctypes

import pytest
import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tensloradist import backbones
from tensloradist.adapter import attach, load
from tensloradist.backbones import FAMILIES, LANGUAGE_MODEL
from tensloradist.backbones.quantization import check_kernels, quantize
from tensloradist.errors import UserError
from tensloradist.identity import resolve
from tensloradist.spec import AdapterSpec, RunSpec
from tensloradist.tasks.examples import language_backbone
from tensloradist.training import train
from tensloradist.training.accelerator import in_precision

bitsandbytes = pytest.importorskip("bitsandbytes")
NAMES = ("llama", "bert", "timm_vit")
WIDTH = 64  # every layer's sizes are multiples of it: whole blocks of nf4, which every kernel takes


def wide(name):
    """A small model of the family, and inputs for it."""
    import transformers
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    if name == "timm_vit":
        model = VisionTransformer(img_size=16, patch_size=8, num_classes=4, embed_dim=WIDTH, depth=2, num_heads=4)
        return model.eval(), {"pixel_values": torch.randn(2, 3, 16, 16)}
    config_class, model_class = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForSequenceClassification),
        "bert": (transformers.BertConfig, transformers.BertForSequenceClassification),
    }[name]
    config = config_class(
        num_labels=4,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    ids = torch.randint(5, 50, (2, 9))
    return model_class(config).eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(params=[False, True], ids=["no AVX512-BF16", "AVX512-BF16"])
def processor(request, monkeypatch):
    """What bitsandbytes finds of the processor when it chooses how an evaluation computes."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: request.param)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("quantization", "tolerance"), [("int8", 0.1), ("nf4", 0.6)])
def test_the_head_trains_on_a_backbone_in_fewer_bits(name, quantization, tolerance, tmp_path):
    family = FAMILIES[name]
    model, inputs = wide(name)
    exact = family.logits(model, inputs).detach()
    quantize(model, quantization)
    assert family_is_kept(family, model)
    found = family.logits(model, inputs).detach()
    assert 0 < (found - exact).norm() < tolerance * exact.norm()
    adapter = attach(model, AdapterSpec(grouping="qkv_depth", ranks=2))
    torch.testing.assert_close(family.logits(model, inputs), found)
    model.train()
    family.logits(model, inputs).square().sum().backward()
    trained = {n for n, parameter in model.named_parameters() if parameter.grad is not None}
    heads = tuple(f"{path}." for path in family.head(model))
    assert trained == {n for n, _ in model.named_parameters() if n.startswith(("tensor_adapter.", *heads))}
    assert any(p.grad.norm() > 0 for p in adapter.parameters())
    with pytest.raises(UserError, match="is quantised"):
        adapter.merge()
    with pytest.raises(UserError, match="is quantised.*export it as a LoRA"):
        adapter.export_merged(tmp_path / "merged")
    adapter.export_peft(tmp_path / "lora")
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_an_evaluation_neither_rounds_to_bfloat16_nor_cuts_the_gradients_whatever_the_processor(processor):
    model, inputs = wide("llama")
    quantize(model, "nf4")
    attach(model, AdapterSpec(grouping="qkv_depth", ranks=2))
    for parameter in model.tensor_adapter.parameters():
        torch.nn.init.normal_(parameter)
    family = FAMILIES["llama"]

    def gradients():
        model.train().zero_grad()
        family.logits(model, inputs).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.tensor_adapter.parameters()]

    before = gradients()
    with torch.no_grad():
        evaluated = family.logits(model.eval(), inputs)
    assert all(value.norm() > 0 for value in before)
    torch.testing.assert_close(gradients(), before, rtol=0, atol=0)
    torch.testing.assert_close(evaluated, family.logits(model, inputs).detach(), rtol=1e-5, atol=1e-6)


def test_a_layer_that_the_kernels_do_not_take_is_refused_by_name_and_size(monkeypatch):
    """The processor's kernels are stood in for by one that takes outputs in whole blocks of 32."""
    forward = bitsandbytes.nn.Linear4bit.forward

    def in_blocks(layer, x):
        assert layer.out_features % 32 == 0, "N must be divisible by block_n"
        return forward(layer, x)

    model, _ = FAMILIES["llama"].example()
    quantize(model, "nf4")
    attach(model, AdapterSpec(grouping="qkv_depth", ranks=2))
    check_kernels(model, "nf4", "bf16")
    monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "forward", in_blocks)
    with pytest.raises(
        UserError, match=r"nf4.*model.layers.0.self_attn.k_proj, a layer of 24 inputs and 16 outputs \(N must"
    ):
        check_kernels(model, "nf4", "bf16")
    check_kernels(quantize(wide("llama")[0], "nf4"), "nf4", "fp32")


class MovedToCuda(TorchFunctionMode):
    """Tensors moved within it say to be on that device; their bytes stay in the host's memory, and no kernel runs."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.to:
            device = torch._C._nn._parse_to(*args[1:], **kwargs)[0]
            if device is not None and device != args[0].device:
                with torch._C.DisableTorchFunction():
                    return said_to_be_on(args[0].detach(), device)
        return func(*args, **kwargs)


def said_to_be_on(tensor, device):
    """The tensor under another device's name, by way of the label in its DLPack capsule."""
    capsule = torch._C._to_dlpack(tensor)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    label = ctypes.cast(pointer(capsule, b"dltensor"), ctypes.POINTER(ctypes.c_int32))
    label[2], label[3] = {"cpu": 1, "cuda": 2}[device.type], device.index or 0
    return torch._C._from_dlpack(capsule)


def held(model):
    """Every tensor that the layers of a quantised model compute with, by name."""
    found = {}
    for path, layer in model.named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
            owner = layer.weight if layer.weight.CB is not None else layer.state
            found |= {f"{path}.CB": owner.CB, f"{path}.SCB": owner.SCB}
        elif isinstance(layer, bitsandbytes.nn.Linear4bit):
            state = layer.weight.quant_state
            found |= {f"{path}.absmax": state.absmax, f"{path}.code": state.code, f"{path}.offset": state.offset}
            found |= {f"{path}.state2.absmax": state.state2.absmax, f"{path}.state2.code": state.state2.code}
    return {**found, **dict(model.named_parameters())}


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("passed", [False, True], ids=["before a pass", "after a pass"])
def test_all_that_a_quantised_layer_computes_with_is_moved_with_the_model(quantization, passed, monkeypatch):
    monkeypatch.setattr("torch.cuda._lazy_init", lambda: None)
    model, inputs = wide("llama")
    quantize(model, quantization)
    family = FAMILIES["llama"]
    before = family.logits(model, inputs).detach() if passed else family.logits(copy.deepcopy(model), inputs).detach()
    with MovedToCuda():
        model.to("cuda:1")
        assert {str(tensor.device) for tensor in held(model).values()} == {"cuda:1"}
        model.to("cpu")
        assert {str(tensor.device) for tensor in held(model).values()} == {"cpu"}
    torch.testing.assert_close(family.logits(model, inputs).detach(), before, rtol=0, atol=0)
    if quantization == "int8":  # moved, it is still held once
        layer = model.model.layers[0].mlp.up_proj
        assert layer.state.CB.data_ptr() == layer.weight.data_ptr()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_in_4_bits_are_restored_to_the_type_of_the_run_and_not_through_float32(precision):
    model, _ = wide("llama")
    quantize(model, "nf4")
    in_precision(model, precision)
    layer, dtype = model.model.layers[0].mlp.up_proj, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    restored = Dtypes(torch.ops.bitsandbytes.dequantize_4bit.default)
    x = torch.randn(2, WIDTH, requires_grad=True)  # float32, as normalisation gives it under CUDA's autocast
    with restored:
        out = layer(x)
        out.sum().backward()
    assert restored.found == [dtype]  # in the backward pass; the forward pass is one operation
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(out, (x.to(dtype) @ weight.T).float())


class Dtypes(TorchDispatchMode):
    """The types of what an operation gives, in order."""

    def __init__(self, operation):
        super().__init__()
        self.operation, self.found = operation, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is self.operation:
            self.found.append(result.dtype)
        return result


def family_is_kept(family, model):
    """Whether projections are quantised and the head is not."""
    dtypes = {model.get_submodule(site.path).weight.dtype for site in family.sites(model)}
    heads = {p.dtype for path in family.head(model) for p in model.get_submodule(path).parameters()}
    return dtypes <= {torch.int8, torch.uint8} and heads == {torch.float32} and backbones.family_of(model) is family


def test_a_spec_asks_for_it_and_it_is_another_run(tmp_path):
    spec = language_backbone(tmp_path).model_copy(update={"quantization": "nf4"})
    model = backbones.load(spec, LANGUAGE_MODEL)
    assert isinstance(model.model.layers[0].mlp.up_proj, bitsandbytes.nn.Linear4bit)
    assert model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_run_is_trained_and_its_adapter_fits_the_backbone_loaded_again(tmp_path, quantization, precision):
    data = {
        "backbone": {"source": "digits_vit", "name": "digits_vit", "quantization": quantization},
        "task": {"name": "digits", "train_examples": 64},
        "adapter": {"grouping": "att", "ranks": 2},
        "optimizer": {"epochs": 1, "batch_size": 32},
        "precision": precision,
        "compute": {"device": "cpu", "threads": 1},
    }
    run = resolve(RunSpec.model_validate(data))
    folder = tmp_path / "0001"
    folder.mkdir()
    result = train(run, folder)
    assert result.state == "finished" and result.frozen_backbone is None
    model = backbones.load(run.backbone, 5)
    trained = load_file(folder / "adapter.safetensors")
    for name, value in load(model, folder).state_dict().items():
        assert torch.equal(value, trained[name])


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "bitsandbytes":
            raise ModuleNotFoundError("No module named 'bitsandbytes'", name="bitsandbytes")
        return real(name, *arguments, **keywords)

    model, _ = FAMILIES["llama"].example()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"quantization: nf4 needs bitsandbytes.*install tensloradist\[quantization\]"):
        quantize(model, "nf4")


@pytest.mark.parametrize("training", [False, True])  # on CPUs, the library computes in another way in training
def test_a_frozen_int8_layer_keeps_no_input_for_a_gradient_that_nobody_wants(training):
    """By the library it keeps each, which no checkpoint frees. What is computed is the library's to the bit."""
    model, _ = wide("llama")
    model.train(training)
    quantize(model, "int8")
    layer, x = model.model.layers[0].mlp.up_proj.requires_grad_(False), torch.randn(2, 4, WIDTH)
    found = []
    for forward in (bitsandbytes.nn.Linear8bitLt.forward, type(layer).forward):
        given = x.clone().requires_grad_()
        output = forward(layer, given)
        kept = [getattr(output.grad_fn, "A", None), *getattr(output.grad_fn, "tensors", ())]
        output.sum().backward()
        found.append((any(value is not None for value in kept), output.detach(), given.grad))
    (by_library, *theirs), (by_ours, *ours) = found
    assert (by_library, by_ours) == (True, False)
    assert all(torch.equal(*pair) for pair in zip(theirs, ours, strict=True))
