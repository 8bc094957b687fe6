"""Exports of real backbones, with a fused layer where timm has one, and with the tokenizer that a user needs."""

import pytest
import torch
from helpers_export import logits_of, through_merged, through_peft, trained

from tensloradist import backbones
from tensloradist.export.run import preprocessing_files
from tensloradist.spec import AdapterSpec, BackboneSpec


def sources(data_root):
    models = data_root / "models"
    return {
        "deit_tiny": BackboneSpec(name=str(models / "deit_tiny")),
        "deit_tiny of timm": BackboneSpec(
            source="timm", name="deit_tiny_patch16_224", weights=str(models / "deit_tiny_timm.safetensors")
        ),
        "minilm_l6": BackboneSpec(name=str(models / "minilm_l6")),
    }


@pytest.mark.parametrize("name", ["deit_tiny", "deit_tiny of timm", "minilm_l6"])
def test_logits_are_equal_to_float_rounding(data_root, tmp_path, name):
    from transformers import AutoTokenizer

    source = sources(data_root)[name]
    plain = backbones.load(source, 10)
    backbones.initialize_head(plain, backbones.family_of(plain), 0)
    if name == "minilm_l6":
        ids = torch.randint(1000, 20000, (2, 24), generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    else:
        inputs = {"pixel_values": torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))}
    model, adapter = trained(plain, AdapterSpec(grouping="att_qkv_depth", ranks=4), update=0.02)
    expected = logits_of(model, inputs)
    adapter.export_peft(tmp_path / "peft")
    adapter.export_merged(tmp_path / "merged", beside=preprocessing_files(source))
    size = expected.abs().max()
    peft = float((through_peft(plain, tmp_path / "peft", inputs) - expected).abs().max() / size)
    merged = float((through_merged(plain, tmp_path / "merged", inputs) - expected).abs().max() / size)
    print(f"\n{name}: largest difference of logits, relative: PEFT {peft:.1e}, merged {merged:.1e}")
    assert max(peft, merged) < 1e-5
    assert float((logits_of(plain, inputs) - expected).abs().max() / size) > 0.05
    if name == "minilm_l6":
        text = "Exactly as before."
        ours, theirs = (AutoTokenizer.from_pretrained(str(path)) for path in (tmp_path / "merged", source.name))
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
