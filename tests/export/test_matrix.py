"""The export matrix: every method × every backbone family, through PEFT and through a plain merged checkpoint.

The printed numbers (pytest -s) are the largest difference between the logits of the exported and the trained model,
relative to the largest logit, over groupings and head layouts.
"""

import copy

import pytest
import torch
from helpers_export import (
    DECODER_FAMILIES,
    ENCODERS,
    FAMILIES,
    logits_of,
    model_of,
    through_merged,
    through_peft,
    trained,
)

from tensloradist.adapter import attach
from tensloradist.backbones import family_of
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
        scaled = [{"scale": 0.5}, {"alpha": 4.0}, {"alpha": 4.0, "rslora": True}]
        return [AdapterSpec(method="lora", ranks=2, **fields) for fields in scaled]
    if method in PRESETS:
        return [AdapterSpec(method=method, ranks=2)]
    common = {"factorization": method, "ranks": 2, "scale": 0.5}
    unusual = [{"grouping": "qkv_depth", "fused": True}, {"grouping": "att_qkv_depth", "fused": True}]
    if method == "tt":
        unusual.append({"grouping": "qkv_depth", "mode_order": ("depth", "input", "output", "projection")})
    return [
        *(
            AdapterSpec(grouping=grouping, head_layout=layout, **common)
            for grouping in GROUPINGS
            for layout in (["aligned", "official"] if GROUPINGS[grouping].att else ["aligned"])
        ),
        *(AdapterSpec(**fields, **common) for fields in unusual),
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
    """(through PEFT, through merged): the largest over these specifications; None if none fits the backbone."""
    plain, inputs = model_of(family)
    fitting = [spec for spec in specs if fits(plain, spec)]
    found = [differences(plain, spec, inputs, folder / str(index)) for index, spec in enumerate(fitting)]
    return tuple(max(parts) for parts in zip(*found, strict=True)) if found else None


def fits(plain, spec):
    """Whether the backbone can have the adapter at all: not all can where key and value have fewer heads."""
    try:
        attach(copy.deepcopy(plain), spec)
    except UserError as error:
        reasons = ("lorta_peft does not fit", "head_layout 'official' averages over 4 query heads")
        if family_of(plain).name not in DECODER_FAMILIES or not str(error).startswith(reasons):
            raise
        return False
    return True


def table(matrix):
    """The matrix as lines of text."""
    yield "largest difference of logits, relative, float32 (PEFT / merged)"
    yield " ".join([f"{'method':12}", *(f"{family:>19}" for family in FAMILIES)])
    for method in dict.fromkeys(method for method, _ in matrix):
        cells = [matrix.get((method, family), "not run") for family in FAMILIES]
        shown = [f"{c[0]:.1e} / {c[1]:.1e}" if isinstance(c, tuple) else c or "does not fit" for c in cells]
        yield " ".join([f"{method:12}", *(f"{text:>19}" for text in shown)])


THOROUGH = ("vit", "timm_vit")  # layers that are separate, and fused
SAMPLE = [
    (method, family)
    for number, family in enumerate(FAMILIES)
    for place, method in enumerate(METHODS)
    if family in THOROUGH or method in ("lora", "tucker") or place % 3 == number % 3
]


@pytest.mark.parametrize(("method", "family"), SAMPLE)
def test_exports_have_the_trained_models_logits(method, family, tmp_path):
    """All methods, groupings and layouts on two families, a third of each on the others, LoRA and Tucker on all."""
    specs = specs_of(method)
    if family not in THOROUGH and len(specs) > 1:
        specs = specs[FAMILIES.index(family) % 3 :: 3]
    worst = MATRIX[method, family] = worst_of(method, family, tmp_path, specs)
    assert max(worst) < ROUNDING if worst else method == "lorta_peft"


@pytest.mark.evidence
def test_the_whole_matrix(tmp_path):
    """Every method, grouping and head layout on every family."""
    matrix = {(m, f): worst_of(m, f, tmp_path / m / f, specs_of(m)) for m in METHODS for f in FAMILIES}
    print("\n" + "\n".join(table(matrix)))
    assert max(max(worst) for worst in matrix.values() if worst) < ROUNDING


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("projections", [("query", "value"), ALL])
@pytest.mark.parametrize("grouping", [None, "att_qkv_depth"])
def test_other_projections_are_exported_exactly(family, grouping, projections, tmp_path):
    method = {"method": "lora"} if grouping is None else {"grouping": grouping}
    plain, inputs = model_of(family)
    spec = AdapterSpec(ranks=2, projections=projections, scale=2.0, **method)
    assert max(differences(plain, spec, inputs, tmp_path)) < ROUNDING


@pytest.mark.parametrize("family", ENCODERS)
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
    with pytest.raises(UserError, match="not a LoRA"):
        adapter.export_peft(tmp_path / "peft")
    adapter.export_merged(tmp_path / "merged")
    expected = logits_of(model, inputs)
    torch.testing.assert_close(through_merged(plain, tmp_path / "merged", inputs), expected, rtol=1e-5, atol=1e-5)


def test_the_matrix():
    """Last in its file: prints what the tests above measured."""
    if not MATRIX:
        pytest.skip("the tests of the cells have not run in this process")
    print("\n" + "\n".join(table(MATRIX)))
    assert all(max(worst) < ROUNDING for worst in MATRIX.values() if worst)
