"""Members of the family on a GPU's tensors, without a GPU: nothing meets across devices, the host never waits, a step
holds what the planner says, and no more kernels are launched than by PEFT's LoRA."""

import functools
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_cuda import environment
from peaks import peaks
from torch._subclasses.fake_tensor import FakeTensorMode

from tensloradist.memory.cuda_rules import cuda_rules

STEPS = Path(__file__).with_name("steps.py")
OPERATIONS = Path(__file__).parents[1] / "benchmarks" / "operations.py"
# Without casts PEFT's step is shorter, and AdamW launches two kernels for each mode's parameter group here.
ABOVE = {("fp32", "att_depth tucker"): 1.015, ("fp32", "att_qkv_depth tucker"): 1.015}


@functools.cache
def steps(which):
    done = subprocess.run([sys.executable, str(STEPS), which], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("which", "least"), [("few", 9), pytest.param("all", 380, marks=pytest.mark.evidence)], ids=["few", "all"]
)
def test_a_step_on_cuda_keeps_to_its_device_and_never_makes_the_host_wait(which, least):
    found = steps(which)
    assert found["failed"] == {} and found["waits"] == {}
    assert found["tried"] >= least


@contextmanager
def planned():
    with cuda_rules(), FakeTensorMode():
        yield


@pytest.mark.parametrize("which", ["few", pytest.param("all", marks=pytest.mark.evidence)])
def test_a_step_planned_for_a_gpu_by_tensors_on_the_cpu_holds_what_it_holds_on_cuda(which):
    assert peaks(which, "cpu", planned) == pytest.approx(steps(which)["peaks"], rel=0.001)


def test_a_layer_launches_fewer_kernels_than_with_pefts_lora():
    """On fused and on separate layers."""
    counts = steps("few")["kernels"]
    assert len(counts) == 2
    assert all(ours < pefts for ours, pefts in counts.values()), counts


@pytest.mark.evidence
def test_a_step_on_fused_layers_launches_no_more_kernels_than_with_pefts_lora(tmp_path):
    file = tmp_path / "counts.json"
    command = [sys.executable, str(OPERATIONS), "--backbones", "timm", "--json", str(file)]
    subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL)
    counts = json.loads(file.read_text())
    pefts = {count["precision"]: count["kernels"] for count in counts if count["member"] == "peft"}
    for count in counts:
        ratio = count["kernels"] / pefts[count["precision"]]
        assert ratio <= ABOVE.get((count["precision"], count["member"]), 1.0), (count["member"], ratio)
