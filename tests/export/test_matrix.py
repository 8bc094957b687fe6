"""The export matrix: every method × every backbone family, through PEFT and through a plain merged checkpoint.

The printed numbers (pytest -s) are the largest difference between the logits of the exported and the trained model,
relative to the largest logit, over groupings and head layouts.
"""

import pytest
import torch
from helpers_export import FAMILIES, logits_of, model_of, through_merged, through_peft, trained

from tensloradist.errors import UserError
from tensloradist.modes import GROUPINGS
from tensloradist.presets import PRESETS
from tensloradist.spec import AdapterSpec

ROUNDING = 1e-5  # relative, float32
ALL = ("query", "key", "value", "attention_output")
METHODS = ("lora", "tucker", "cp", "tt", *PRESETS)
MATRIX = {}


def specs_of(method):
    if method == "lora":
        return [AdapterSpec(method="lora", ranks=2, scale=0.5)]
    if method in PRESETS:
        return [AdapterSpec(method=method, ranks=2)]
    return [
        AdapterSpec(grouping=grouping, factorization=method, ranks=2, scale=0.5, head_layout=layout)
        for grouping in GROUPINGS
        for layout in (["aligned", "official"] if GROUPINGS[grouping].att else ["aligned"])
    ]


def differences(plain, spec, inputs, folder):
    """(through PEFT, through merged): the largest difference of logits, relative to the largest logit."""
    model, adapter = trained(plain, spec)
    expected, unchanged = logits_of(model, inputs), logits_of(plain, inputs)
    size = expected.abs().max()
    assert (expected - unchanged).abs().max() > 0.05 * size, "the update and the head must matter"
    adapter.export_peft(folder / "peft")
    adapter.export_merged(folder / "merged")
    torch.testing.assert_close(logits_of(model, inputs), expected, rtol=0, atol=0)  # exporting changes nothing
    return tuple(
        float((found - expected).abs().max() / size)
        for found in (
            through_peft(plain, folder / "peft", inputs),
            through_merged(plain, folder / "merged", inputs),
        )
    )


def worst_of(method, family, folder, specs):
    """(through PEFT, through merged): the largest over these specifications."""
    plain, inputs = model_of(family)
    found = [differences(plain, spec, inputs, folder / str(index)) for index, spec in enumerate(specs)]
    return tuple(max(parts) for parts in zip(*found, strict=True))


def table(matrix):
    """The matrix as lines of text."""
    yield "largest difference of logits, relative, float32 (PEFT / merged)"
    yield " ".join([f"{'method':12}", *(f"{family:>19}" for family in FAMILIES)])
    for method in dict.fromkeys(method for method, _ in matrix):
        cells = [matrix.get((method, family)) for family in FAMILIES]
        shown = [f"{cell[0]:.1e} / {cell[1]:.1e}" if cell else "not run" for cell in cells]
        yield " ".join([f"{method:12}", *(f"{text:>19}" for text in shown)])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_exports_have_the_trained_models_logits(method, family, tmp_path):
    """All groupings and layouts where layers are separate (vit) and fused (timm); a third of them on each other."""
    specs = specs_of(method)
    if family not in ("vit", "timm_vit") and len(specs) > 1:
        specs = specs[FAMILIES.index(family) % 3 :: 3]
    worst = MATRIX[method, family] = worst_of(method, family, tmp_path, specs)
    assert max(worst) < ROUNDING


@pytest.mark.evidence
def test_the_whole_matrix(tmp_path):
    """Every method, grouping and head layout on every family."""
    matrix = {(m, f): worst_of(m, f, tmp_path / m / f, specs_of(m)) for m in METHODS for f in FAMILIES}
    print("\n" + "\n".join(table(matrix)))
    assert max(max(worst) for worst in matrix.values()) < ROUNDING


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("projections", [("query", "value"), ALL])
@pytest.mark.parametrize("grouping", [None, "att_qkv_depth"])
def test_other_projections_are_exported_exactly(family, grouping, projections, tmp_path):
    method = {"method": "lora"} if grouping is None else {"grouping": grouping}
    plain, inputs = model_of(family)
    spec = AdapterSpec(ranks=2, projections=projections, scale=2.0, **method)
    assert max(differences(plain, spec, inputs, tmp_path)) < ROUNDING


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", PRESETS)
def test_a_neighbour_on_all_that_its_authors_adapt(method, family, tmp_path):
    """Feed-forward layers included; CaRA's trained biases, which a LoRA does not have, are merged or refused."""
    plain, inputs = model_of(family, wide=True)
    spec = AdapterSpec(method=method, ranks=2, targets="original")
    if not PRESETS[method].biases:
        assert max(differences(plain, spec, inputs, tmp_path)) < ROUNDING
        return
    model, adapter = trained(plain, spec)
    with pytest.raises(UserError, match="trains biases for attention_output, fc1, fc2"):
        adapter.export_peft(tmp_path / "peft")
    adapter.export_merged(tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    expected = logits_of(model, inputs)
    difference = (through_merged(plain, tmp_path / "merged", inputs) - expected).abs().max()
    assert difference < ROUNDING * expected.abs().max()


@pytest.mark.parametrize("family", ["roberta", "timm_vit"])
@pytest.mark.parametrize("method", ["full", "head"])
def test_the_references_are_exported_merged_alone(method, family, tmp_path):
    plain, inputs = model_of(family)
    model, adapter = trained(plain, AdapterSpec(method=method))
    with pytest.raises(UserError, match="no LoRA"):
        adapter.export_peft(tmp_path / "peft")
    adapter.export_merged(tmp_path / "merged")
    expected = logits_of(model, inputs)
    torch.testing.assert_close(through_merged(plain, tmp_path / "merged", inputs), expected, rtol=1e-5, atol=1e-5)


def test_the_matrix():
    """Last in its file: prints what the tests above measured."""
    if not MATRIX:
        pytest.skip("the tests of the cells have not run in this process")
    print("\n" + "\n".join(table(MATRIX)))
    assert all(max(worst) < ROUNDING for worst in MATRIX.values())
