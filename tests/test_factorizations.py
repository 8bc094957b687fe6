"""A factorisation knows itself: nothing else asks for one by name, so a plugin's is treated as the built-in ones."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from tensloradist.adapter import Adapter
from tensloradist.budget import STRATEGIES, count, isoparameter, lora_budget, resolve_ranks, surplus_ranks
from tensloradist.commands import params
from tensloradist.config import load_run_spec
from tensloradist.errors import UserError
from tensloradist.factorizations import FACTORIZATIONS, Factorization, of_groupings
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.spec import AdapterSpec
from tensloradist.spectra import unfolding_energies

ROOT = Path(__file__).parents[1]
SHAPE = AttentionShape(12, 12, 3, 2)
RENAMED = {name: f"renamed_{name}" for name in ("tucker", "cp", "tt")}
OPTIONS = [
    {},
    {"head_layout": "official", "initialization": "orthogonal"},
    {"fused": True, "initialization": "kaiming_uniform"},
    {"dropout": 0.1, "dropout_on": "hidden"},
    {"mode_order": ("depth", "input", "output", "projection")},
    {"ranks": {"input": 3, "output": 2, "projection": 2, "depth": 1}},
    {"ranks": {"input": 3, "projection": 2, "depth": 1}},
]


def _asked_by_name(tree):
    """Lines that compare with, match, or look up a factorisation's name."""
    names = {"tt", "cp", "tucker"}
    for node in ast.walk(tree):
        parts = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Subscript):
            parts = [node.slice]
        found = {c.value for part in parts for c in ast.walk(part) if isinstance(c, ast.Constant)}
        known = found & names or ("lora" in found and "factorization" in ast.unparse(node).lower())
        if known:
            yield node.lineno


def test_no_module_asks_for_a_factorisation_by_its_name():
    found = []
    for package in ("tensloradist", "launch", "analysis"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "factorizations" not in path.parts:
                tree = ast.parse(path.read_text(encoding="utf-8"))
                found += [f"{path.relative_to(ROOT)}:{line}" for line in _asked_by_name(tree)]
    assert found == []


@pytest.mark.parametrize(
    "code",
    ['f == "tt"', 'f in ("cp", "x")', '{"tucker": 1}', 'x["tt"]', 'spec.factorization != "lora"'],
)
def test_that_search_finds_what_it_is_for(code):
    assert list(_asked_by_name(ast.parse(code)))


@pytest.fixture
def registry():
    before = dict(FACTORIZATIONS)
    yield FACTORIZATIONS
    FACTORIZATIONS.clear()
    FACTORIZATIONS.update(before)


@pytest.fixture
def renamed(registry):
    """Subclasses of the project's own factorisations under other names, as a plugin would register them."""
    for name, other in RENAMED.items():
        registry[other] = type("Renamed", (type(registry[name]),), {"name": other})()


def _all_about(fields, name):
    """Whatever anything finds out about an adapter: its refusal, or its fields, ranks, initial values and pairs."""
    try:
        spec = AdapterSpec.model_validate({**fields, "factorization": name})
        solved = [isoparameter(spec, lora_budget(SHAPE, r), SHAPE, s).ranks for r in (1, 2) for s in STRATEGIES]
        pinned = isoparameter(spec, 200, SHAPE, pinned={"input": 2}).ranks
        notes = [surplus_ranks(spec.model_copy(update={"ranks": rank}), SHAPE) for rank in (3, 30)]
        adapter = Adapter(spec, SHAPE, seed=1)
        values = {key: value.clone() for key, value in adapter.state_dict().items()}
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(0))
            pairs = {f"{key}{side}": half for key, pair in adapter().items() for side, half in enumerate(pair)}
        layout = adapter.arrangement.tensors[0]
        gradient = torch.arange(1.0, 1 + torch.Size(layout.sizes).numel()).sin().reshape(layout.sizes)
        energies = unfolding_energies(gradient, layout.modes, adapter.factorization)
    except UserError as error:
        return str(error).replace("renamed_", ""), {}
    known = spec.model_dump(exclude={"factorization"}), solved, pinned, notes, count(spec, SHAPE), energies
    return (*known, resolve_ranks(spec, SHAPE), list(adapter.parameter_groups())), values | pairs


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", RENAMED)
def test_a_factorisation_under_another_name_is_treated_alike(renamed, name, options):
    refused = 0
    groupings = ("att", "qkv_depth", "att_qkv_depth") if options else GROUPINGS
    for grouping in groupings:
        (known, tensors), (other, others) = (
            _all_about({"grouping": grouping, **options}, each) for each in (name, RENAMED[name])
        )
        assert known == other and tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())
        refused += not tensors
    assert refused < len(groupings) or (name != "tt" and "mode_order" in options) or "ranks" in options


def test_all_that_planning_asks_is_answered_without_torch():
    code = (
        "import sys\n"
        "from tensloradist.budget import *\n"
        "from tensloradist.modes import *\n"
        "from tensloradist.factorizations import of_groupings\n"
        "shape = AttentionShape(48, 48, 4, 3)\n"
        "for name in of_groupings():\n"
        "    for grouping in GROUPINGS:\n"
        "        spec = AdapterSpec(grouping=grouping, factorization=name)\n"
        "        assert count(isoparameter(spec, lora_budget(shape, 4), shape), shape)\n"
        "        surplus_ranks(spec, shape)\n"
        "print('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


PLUGIN = """
from tensloradist.factorizations import FACTORIZATIONS
from tensloradist.factorizations.cp import Cp

FACTORIZATIONS["of_a_file"] = type("OfAFile", (Cp,), {"name": "of_a_file"})()
"""
RUN = {
    "backbone": {"source": "digits_vit", "name": "digits_vit"},
    "task": {"name": "digits"},
    "adapter": {"grouping": "qkv_depth", "factorization": "of_a_file"},
}


@pytest.fixture
def plugin(registry, tmp_path, monkeypatch):
    """A module beside a run file, not yet loaded."""
    (tmp_path / "plugin_of_a_file.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "plugin_of_a_file"
    sys.modules.pop("plugin_of_a_file", None)


def test_params_counts_a_plugins_factorisation(plugin):
    app = typer.Typer()
    app.command()(params)

    def rows(*arguments):
        found = CliRunner().invoke(app, ["--shape", "deit_tiny", "--json", *arguments])
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    assert rows("--plugin", plugin, "--factorization", "of_a_file") == rows("--factorization", "cp")


def test_a_run_has_the_default_initialisation_of_its_plugins_factorisation(plugin):
    assert load_run_spec({**RUN, "plugins": [plugin]}).adapter.initialization == "kaiming_uniform"


def test_a_factorisation_that_nobody_knows_is_refused_and_a_stored_specification_of_one_is_read():
    with pytest.raises(UserError, match="factorization: Unknown factorization 'of_a_file'.*Name the plugin"):
        load_run_spec(RUN)
    with pytest.raises(UserError, match="Did you mean 'tucker'"):
        AdapterSpec(grouping="qkv", factorization="tuker")
    stored = {**RUN["adapter"], "initialization": "orthogonal"}
    assert AdapterSpec.model_validate(stored).factorization == "of_a_file"


@pytest.mark.parametrize("missing", ["shapes", "pairs"])
def test_a_subclass_that_lacks_what_it_must_define_is_told_so(registry, missing):
    defined = {"shapes": lambda *words: {}, "pairs": lambda *words: ()}
    del defined[missing]
    registry["half"] = type("Half", (Factorization,), {"name": "half", **defined})()
    with pytest.raises(UserError, match=f"'half' has no method '{missing}'; derive its class from tensloradist"):
        AdapterSpec(grouping="qkv", factorization="half")


def test_an_object_without_the_base_class_has_its_defaults_or_is_told_what_to_add(registry):
    class Old:
        name, zero, shared_rank = "old", "input", True

        def shapes(self, modes, sizes, ranks):
            return {mode: (size, ranks[mode]) for mode, size in zip(modes, sizes, strict=True)}

        def fan_in(self, parameter, shape):
            return 2 * shape[-1]

    registry["old"] = Old()
    with pytest.raises(UserError, match="'old' has no method 'pairs'; derive its class from tensloradist"):
        AdapterSpec(grouping="qkv", factorization="old")
    Old.pairs = lambda self, parameters, head_layout: (parameters["input"], parameters["output"])
    spec = AdapterSpec(grouping="qkv", factorization="old")
    assert spec.initialization == Factorization.initialization == "orthogonal"
    assert count(spec, SHAPE) == count(AdapterSpec(grouping="qkv", factorization="cp"), SHAPE)
    assert Adapter(spec, SHAPE).factorization.fan_in("input", (12, 4)) == 8
    assert "old" in of_groupings()
    Old.zero = "inputs"
    with pytest.raises(UserError, match="old starts 'inputs' at zero, but its parameters are"):
        Adapter(spec, SHAPE)


def test_unequal_ranks_where_all_share_one_are_refused_before_anything_is_trained():
    ranks = {"input": 2, "output": 3}
    for fields in ({"method": "lora"}, {"grouping": "depth", "factorization": "cp"}):
        spec = AdapterSpec.model_validate({**fields, "ranks": ranks | ({"depth": 2} if "grouping" in fields else {})})
        with pytest.raises(UserError, match="one rank for all modes"):
            count(spec, SHAPE)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tensors_with_three_kinds_of_features_meet_a_budget(strategy):
    """Under att, the fused tensor of heads has a head_dim and the other one an output, besides the input of both."""
    projections = ("query", "key", "value", "attention_output")
    adapter = AdapterSpec(grouping="att_qkv_depth", fused=True, projections=projections)
    shape = AttentionShape(48, 48, 4, 3, projections)
    solved = isoparameter(adapter, lora_budget(shape, 4), shape, strategy)
    assert abs(count(solved, shape) / lora_budget(shape, 4) - 1) <= 0.02
    assert set(resolve_ranks(solved, shape)) == {"input", "head_dim", "heads", "output", "block"}
