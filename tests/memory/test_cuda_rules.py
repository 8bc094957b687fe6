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
