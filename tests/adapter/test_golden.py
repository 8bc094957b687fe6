"""The official code's numbers: outputs of its Tucker and CP adapters, and its parameter counts."""

import csv
import json

import pytest
import torch
from safetensors import safe_open

from tensloradist.adapter import Adapter
from tensloradist.budget import count
from tensloradist.modes import GROUPINGS, AttentionShape
from tensloradist.spec import AdapterSpec


@pytest.mark.parametrize("factorization", ["tucker", "cp"])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_outputs_equal_the_official_ones(data_root, grouping, factorization):
    with safe_open(data_root / f"golden/{factorization}_a.safetensors", "pt") as file:
        metadata = file.metadata()
        golden = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    meta = json.loads(metadata["meta"])[grouping]
    d, heads, layers = (int(metadata[key]) for key in ("d", "heads", "layers"))
    ranks = meta["ranks"] if isinstance(meta["ranks"], int) else dict(zip(meta["modes"], meta["ranks"], strict=True))
    spec = AdapterSpec(grouping=grouping, factorization=factorization, ranks=ranks, head_layout="official")
    adapter = Adapter(spec, AttentionShape(d, d, heads, layers), dtype=torch.float64)
    assert len(adapter.tensors) == meta["tensors"]
    with torch.no_grad():
        for index, tensor in enumerate(adapter.tensors):
            for name, parameter in tensor.parameters_by_name().items():
                parameter.copy_(golden[f"{grouping}.{index}.{name}"])
        x = golden.get("x", golden.get(f"{grouping}.x"))
        for p, projection in enumerate(adapter.shape.projections):
            for layer in range(layers):
                left, right = adapter.pair(projection, layer)
                expected = golden[f"{grouping}.y.{p}.{layer}"]
                assert expected.abs().max() > 1e-6
                torch.testing.assert_close(x @ left @ right, expected, rtol=0, atol=1e-10)
                torch.testing.assert_close(x @ adapter.delta(projection, layer), expected, rtol=0, atol=1e-10)


def test_parameter_counts_equal_the_official_ones(data_root):
    checked = 0
    with (data_root / "golden/parameter_counts.csv").open() as file:
        for row in csv.DictReader(file):
            d, heads, layers, rank = (int(row[key]) for key in ("d", "heads", "layers", "r"))
            shape = AttentionShape(d, d, heads, layers)
            assert count(AdapterSpec(method="lora", ranks=rank), shape) == int(row["lora"])
            for grouping in GROUPINGS:
                for factorization in ("tucker", "cp"):
                    spec = AdapterSpec(grouping=grouping, factorization=factorization, ranks=rank)
                    assert count(spec, shape) == int(row[f"{factorization}_{grouping}"])
                    checked += 1
    assert checked == 5 * 6 * 7 * 2
