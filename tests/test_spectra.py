"""Spectra of the dense gradient, and ranks allotted by them."""

import math

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tensloradist import backbones, budget, spectra, tasks
from tensloradist.adapter import Adapter
from tensloradist.allocation import by_spectrum, energy_kept
from tensloradist.errors import UserError
from tensloradist.factorizations import FACTORIZATIONS
from tensloradist.identity import resolve
from tensloradist.modes import GROUPINGS, Arrangement, AttentionShape
from tensloradist.spec import AdapterSpec, RunSpec
from tensloradist.spectra import Spectrum, spectra_of, stacked_gradient, unfolding_energies
from tensloradist.tasks.examples import language_backbone, language_folder
from tensloradist.training.order import epoch_batches

tensorly.set_backend("pytorch")
RUN = {
    "backbone": {"source": "digits_vit", "name": "digits_vit"},
    "task": {"name": "digits"},
    "adapter": {"grouping": "att_qkv_depth"},
    "optimizer": {"epochs": 1, "batch_size": 32},
}
DEIT_TINY = AttentionShape(192, 192, 3, 12)


def _shape(grouping, head_layout, kv_heads, projections):
    return AttentionShape(12, 12, 4, 2, projections, kv_heads)


@pytest.mark.parametrize("projections", [("query", "key", "value"), ("query", "value", "attention_output")])
@pytest.mark.parametrize("kv_heads", [None, 1])
@pytest.mark.parametrize("head_layout", ["aligned", "official"])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_stacking_gradients_is_the_adjoint_of_taking_updates_apart(grouping, head_layout, kv_heads, projections):
    """⟨stacked gradient, tensor⟩ = Σ ⟨gradient of a projection, its update⟩, whatever the grouping does to them."""
    shape = _shape(grouping, head_layout, kv_heads, projections)
    spec = AdapterSpec(grouping=grouping, head_layout=head_layout, projections=projections, ranks=2)
    adapter = Adapter(spec, shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    gradients = {}
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(generator=generator)
        for projection in projections:
            for layer in range(shape.layers):
                size = shape.widths(projection)
                gradients[projection, layer] = torch.randn(size, generator=generator, dtype=torch.float64)
        apart = sum((gradients[key] * adapter.delta(*key)).sum() for key in gradients)
        stacked = 0.0
        for layout, tensor in zip(adapter.arrangement.tensors, adapter.tensors, strict=True):
            full = tensorly.tucker_to_tensor((tensor.core, [tensor.factors[mode] for mode in layout.modes]))
            gradient = stacked_gradient(gradients, layout, adapter.arrangement)
            assert gradient.shape == full.shape == torch.Size(layout.sizes)
            stacked += (gradient * full).sum()
    torch.testing.assert_close(stacked, apart, rtol=1e-10, atol=1e-10)


ALL = ("query", "key", "value", "attention_output", "fc1", "fc2")
FUSED = {
    "fact_tt": AdapterSpec(method="fact_tt", targets="original", ranks=2),
    "fact_tk": AdapterSpec(method="fact_tk", targets="original", ranks=2),
    "lotr": AdapterSpec(method="lotr", ranks=2),
    "att": AdapterSpec(grouping="att_qkv_depth", fused=True, projections=ALL, ranks=2),
    "att official": AdapterSpec(grouping="att_qkv_depth", fused=True, head_layout="official", ranks=2),
}


def full_tensor(adapter, layout, tensor):
    if adapter.spec.factorization == "tt":
        return tensorly.tt_to_tensor([tensor.cores[mode] for mode in layout.modes])
    return tensorly.tucker_to_tensor((tensor.core, [tensor.factors[mode] for mode in layout.modes]))


@pytest.mark.parametrize("name", FUSED)
def test_so_it_is_where_projection_and_depth_are_one_mode(name):
    spec = FUSED[name]
    shape = AttentionShape(12, 12, 4, 2, spec.projections)
    adapter = Adapter(spec, shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(generator=generator)
        gradients = {
            (projection, layer): torch.randn(shape.widths(projection), generator=generator, dtype=torch.float64)
            for projection in spec.projections
            for layer in range(shape.layers)
        }
        apart = sum((gradients[key] * adapter.delta(*key)).sum() for key in gradients) / adapter.scale
        stacked = 0.0
        for layout, tensor in zip(adapter.arrangement.tensors, adapter.tensors, strict=True):
            gradient = stacked_gradient(gradients, layout, adapter.arrangement)
            assert gradient.shape == torch.Size(layout.sizes)
            stacked += (gradient * full_tensor(adapter, layout, tensor)).sum()
    torch.testing.assert_close(stacked, apart, rtol=1e-10, atol=1e-10)


def test_ranks_of_a_fused_member_follow_its_spectra(cache):
    adapter = {"method": "fact_tk", "targets": "original"}
    spec = resolve(RunSpec.model_validate({**RUN, "adapter": adapter}))
    found = spectra_of(spec)
    assert {s.rank_name: len(s.energies) for s in found} == {"input": 48, "output": 48, "block": 16}
    shape = backbones.shape_of(spec.backbone, spec.adapter.projections)
    solved = by_spectrum(spec.adapter, 1500, shape, found, 0.05, {})
    assert abs(budget.count(solved, shape) / 1500 - 1) < 0.05 and len(set(solved.ranks.values())) > 1


def test_the_gradient_of_a_language_model_is_that_of_its_answers(tmp_path):
    """Against the gradient of the loss as training has it, in the same batches."""
    backbone, about = language_backbone(tmp_path), language_folder(tmp_path)
    spec = resolve(
        RunSpec.model_validate(
            {**RUN, "backbone": backbone.model_dump(), "task": about.model_dump(), "optimizer": {"batch_size": 4}}
        )
    )
    task = tasks.load(spec.task, spec.backbone, spec.protocol)
    model = backbones.load(spec.backbone, task.num_labels)
    family = backbones.family_of(model)
    found = spectra.dense_gradients(model, family, task, 4, ("query",))
    weight = model.get_submodule(family.sites(model)[0].path).weight
    expected = torch.zeros_like(weight)
    batches = epoch_batches(len(task.train), 4, 0, 0, task.train.lengths)[: spectra.BATCHES]
    for batch in batches:
        scores = family.logits(model, task.train.batch(batch, None))
        expected += torch.autograd.grad(scores[:, 0].sum() / scores[:, 1].sum(), weight)[0] / len(batches)
    assert expected.norm() > 0
    torch.testing.assert_close(found["query", 0], expected.mT, rtol=1e-5, atol=1e-7)


def test_quantised_weights_have_no_gradient():
    spec = resolve(RunSpec.model_validate({**RUN, "backbone": {**RUN["backbone"], "quantization": "nf4"}}))
    with pytest.raises(UserError, match="quantised by backbone.quantization nf4 have no gradient"):
        spectra._compute(spec)


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_energies_are_the_squared_singular_values_of_the_unfolding(sizes, seed):
    tensor = torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    modes = tuple("abcd"[: len(sizes)])
    for index, (mode, energies) in enumerate(unfolding_energies(tensor, modes, FACTORIZATIONS["tucker"]).items()):
        values = np.linalg.svd(tensorly.unfold(tensor, index).numpy(), compute_uv=False) ** 2
        assert mode == modes[index]
        np.testing.assert_allclose(energies[: len(values)], values / values.sum(), atol=1e-12)
        assert sum(energies) == pytest.approx(1)
    bonds = unfolding_energies(tensor, modes, FACTORIZATIONS["tt"])
    assert list(bonds) == list(modes[:-1])
    for index, energies in enumerate(bonds.values()):
        matrix = tensor.reshape(math.prod(sizes[: index + 1]), -1).numpy()
        values = np.linalg.svd(matrix, compute_uv=False) ** 2
        np.testing.assert_allclose(energies[: len(values)], values / values.sum(), atol=1e-12)


def test_top_energy_and_entropy_at_their_ends():
    one, all_alike = Spectrum("a", (1.0, 0.0, 0.0)), Spectrum("b", (0.25,) * 4)
    assert (one.top_energy, one.entropy) == (1.0, 0.0)
    assert all_alike.top_energy == 0.25 and all_alike.entropy == pytest.approx(1)
    assert Spectrum("c", (1.0,)).entropy == 0 and all_alike.kept(3) == 0.75


@pytest.fixture
def cache(tmp_path, monkeypatch):
    spectra._gradients.cache_clear()
    known = backbones.digits_vit.cache_folder()
    backbones.load(resolve(RunSpec.model_validate(RUN)).backbone, 5)  # pretrained once, wherever that is kept
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path))
    (tmp_path / "backbones").symlink_to(known)
    return tmp_path


def test_spectra_are_computed_once_and_the_same_in_another_cache(cache, monkeypatch):
    spec = resolve(RunSpec.model_validate(RUN))
    first = spectra_of(spec)
    assert [s.rank_name for s in first] == ["input", "head_dim", "heads", "projection", "depth"]
    assert [len(s.energies) for s in first] == [48, 12, 4, 3, 4]
    for spectrum in first:
        assert sum(spectrum.energies) == pytest.approx(1, abs=1e-4)
        assert list(spectrum.energies) == sorted(spectrum.energies, reverse=True)
    files = list((cache / "spectra").iterdir())
    spectra._gradients.cache_clear()
    other = spec.model_copy(update={"adapter": spec.adapter.model_copy(update={"ranks": 7, "scale": 3.0})})
    with monkeypatch.context() as patch:
        patch.setattr(spectra, "_compute", lambda spec: pytest.fail("computed twice"))
        assert spectra_of(spec) == spectra_of(other) == first
    files[0].unlink()
    assert spectra_of(spec) == first
    files[0].write_text("[1")
    with pytest.raises(UserError, match="delete it"):
        spectra_of(spec)


def test_spectra_with_a_plugin_are_of_its_code(monkeypatch):
    plain = resolve(RunSpec.model_validate(RUN))
    spec = plain.model_copy(update={"plugins": ("a_plugin",)})
    keys = {spectra._key(plain)}
    for code in ("before", "after"):
        monkeypatch.setattr(spectra, "loaded_code", lambda names, code=code: dict.fromkeys(names, code))
        keys |= {spectra._key(spec), spectra._key(spec)}
    assert len(keys) == 3


def test_gradients_look_at_training_data_alone_and_are_right():
    """Against a finite difference of the loss, in one entry of one layer; validation and test raise when touched."""
    spec = resolve(RunSpec.model_validate(RUN))
    task = tasks.load(spec.task, spec.backbone, spec.protocol)
    object.__setattr__(task, "validation", None)
    object.__setattr__(task, "test", None)
    model = backbones.load(spec.backbone, task.num_labels).double()
    family = backbones.family_of(model)
    backbones.initialize_head(model, family, 0)
    batch = task.train.batch

    def in_double(indices, augment):
        return {name: value.double() for name, value in batch(indices, augment).items()}

    task.train.batch = in_double
    found = spectra.dense_gradients(model, family, task, 32, ("query", "value"))
    assert set(found) == {(p, layer) for p in ("query", "value") for layer in range(4)}
    weight = model.get_submodule("vit.layers.1.attention.v_proj").weight
    indices = np.concatenate(spectra_batches(task))
    labels = torch.as_tensor(task.train.labels[indices])

    def loss(step):
        with torch.no_grad():
            weight[3, 5] += step
            logits = family.logits(model, in_double(indices, None))
            weight[3, 5] -= step
            return torch.nn.functional.cross_entropy(logits.float().double(), labels)

    step = 1e-2
    estimate = (loss(step) - loss(-step)) / (2 * step)
    assert float(found["value", 1][5, 3]) == pytest.approx(float(estimate), rel=0.02, abs=1e-6)


def spectra_batches(task):
    return epoch_batches(len(task.train), 32, 0, 0, task.train.lengths)[: spectra.BATCHES]


def falling(name, size, power):
    values = np.arange(1, size + 1, dtype=float) ** -power
    return Spectrum(name, tuple(values / values.sum()))


def spectra_for(grouping, **powers):
    arrangement = Arrangement(grouping, DEIT_TINY)
    sizes = dict(zip(arrangement.modes, arrangement.tensors[0].sizes, strict=True))
    return tuple(falling(mode, size, powers.get(mode, 1.0)) for mode, size in sizes.items())


def energy(adapter, found):
    return energy_kept(budget.resolve_ranks(adapter, DEIT_TINY), found)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_ranks_meet_the_budget_and_keep_more_energy_than_other_strategies(grouping):
    found = spectra_for(grouping, input=0.5, depth=3.0)
    adapter = AdapterSpec(grouping=grouping)
    parameters = budget.lora_budget(DEIT_TINY, 4)
    solved = by_spectrum(adapter, parameters, DEIT_TINY, found)
    others = [budget.isoparameter(adapter, parameters, DEIT_TINY, strategy) for strategy in ("balanced", "uniform")]
    nearest = min(abs(budget.count(other, DEIT_TINY) / parameters - 1) for other in others)
    assert abs(budget.count(solved, DEIT_TINY) / parameters - 1) <= max(0.02, nearest)
    for other in others:
        if budget.count(other, DEIT_TINY) <= budget.count(solved, DEIT_TINY):
            assert energy(solved, found) >= energy(other, found) - 1e-9
    assert by_spectrum(adapter, parameters, DEIT_TINY, found) == solved
    assert Adapter(solved, DEIT_TINY).num_parameters == budget.count(solved, DEIT_TINY)


def test_a_mode_whose_energy_is_in_one_direction_stays_small():
    adapter, parameters = AdapterSpec(grouping="qkv_depth"), budget.lora_budget(DEIT_TINY, 4)
    flat = by_spectrum(adapter, parameters, DEIT_TINY, spectra_for("qkv_depth", depth=0.0))
    steep = by_spectrum(adapter, parameters, DEIT_TINY, spectra_for("qkv_depth", depth=20.0))
    assert flat.ranks["depth"] > steep.ranks["depth"]
    assert steep.ranks["input"] > flat.ranks["input"]


def test_pinned_modes_stay_and_impossible_ones_are_named():
    adapter, found = AdapterSpec(grouping="qkv_depth"), spectra_for("qkv_depth")
    solved = by_spectrum(adapter, 20_000, DEIT_TINY, found, pinned={"depth": 5})
    assert solved.ranks["depth"] == 5
    with pytest.raises(UserError, match="no rank 'heads'"):
        by_spectrum(adapter, 20_000, DEIT_TINY, found, pinned={"heads": 1})
    with pytest.raises(UserError, match="not within 1..12"):
        by_spectrum(adapter, 20_000, DEIT_TINY, found, pinned={"depth": 13})
