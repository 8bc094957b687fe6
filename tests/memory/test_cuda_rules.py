"""CUDA's rules for a planned step: those of the installed torch, and only while a step is planned."""

import re
from pathlib import Path

import pytest
import torch

from tensloradist.memory.cuda_rules import FLOAT32, FLOAT32_RESULT, cuda_rules

HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"


@pytest.mark.parametrize(("macro", "known"), [("FP32", FLOAT32), ("FP32_SET_OPT_DTYPE", FLOAT32_RESULT)])
def test_they_name_what_the_autocast_of_this_torch_names(macro, known):
    (text,) = re.findall(rf"#define AT_FORALL_{macro}\(_\)((?:.*\\\n)*.*)", HEADER.read_text())
    named = [".".join(filter(None, match)) for match in re.findall(r"_\((\w+)(?:, (\w+))?\)", text)]
    assert sorted(named) == sorted(known)


def test_they_end_with_their_context():
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        with cuda_rules():
            assert x.exp().dtype == torch.float32 and x.sum().dtype == torch.float32
        assert x.exp().dtype == torch.bfloat16 and x.sum().dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_precision_that_is_asked_for_is_kept(name):
    """As attention that a model computes itself asks for it."""
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    with cuda_rules(), torch.autocast("cpu", torch.bfloat16):
        function = getattr(torch.nn.functional, name)
        assert function(x, dim=-1, dtype=torch.float32).dtype == torch.float32
        assert function(x, dim=-1, dtype=torch.bfloat16).dtype == torch.bfloat16
        assert function(x, dim=-1).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_over_three_dimensions_is_attention(dtype):
    query, key, value = torch.randn(3, 4, 7, 16, dtype=dtype)
    with cuda_rules():
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert found.shape == (4, 7, 16)
    torch.testing.assert_close(found, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)
