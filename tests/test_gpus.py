"""Which GPUs a process may use: by variables of several makers, MIG instances and UUIDs; and no silent CPU."""

import os
import stat

import pytest
import torch

from tensloradist.compute import ComputeSpec
from tensloradist.errors import UserError
from tensloradist.gpus import described_in, only, visible_gpus
from tensloradist.training.devices import choose_gpu, uses_cpu

LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 3g.20gb     Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-d33d5d5b-a0d6-2b2c-524d-9e3d8d2b8a78)
"""
INSTANCES = ("MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d")


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0, 1"}, ("0", "1")),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "2,-1,3"}, ("2",)),
        ({"CUDA_VISIBLE_DEVICES": f"GPU-5d5ba0d6,{INSTANCES[0]}"}, ("GPU-5d5ba0d6", INSTANCES[0])),
        ({"ROCR_VISIBLE_DEVICES": "4,5"}, ("4", "5")),
        ({"ROCR_VISIBLE_DEVICES": "4,5", "HIP_VISIBLE_DEVICES": "0"}, ("0",)),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "HIP_VISIBLE_DEVICES": "2,3"}, ("2", "3")),
    ],
)
def test_variables_name_gpus_as_the_makers_read_them(environment, names):
    assert visible_gpus(environment) == names
    assert visible_gpus({**environment, **only(names[:1], environment)}) == names[:1]


def test_on_an_nvidia_machine_the_variables_of_amd_mean_nothing(smi):
    environment = {"CUDA_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "7", "PATH": os.environ["PATH"]}
    assert visible_gpus(environment) == ("0", "1")
    assert only(("1",), environment) == {"CUDA_VISIBLE_DEVICES": "1"}


def test_mig_instances_count_and_not_their_card():
    assert tuple(described_in(LISTING)) == (*INSTANCES, "1")


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """An nvidia-smi that lists a divided card and a whole one, and no variable that says more."""
    path = tmp_path / "bin" / "nvidia-smi"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTING}END\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize("broken", ["exit 18", "not a program"])
def test_where_nvidia_smi_fails_the_cards_are_those_with_device_files(smi, monkeypatch, tmp_path, broken):
    path = tmp_path / "bin" / "nvidia-smi"
    path.write_bytes(b"#!/bin/sh\necho '\xff'; exit 18\n" if broken == "exit 18" else b"#!/no/such/shell\n")
    monkeypatch.setattr("tensloradist.gpus.DEVICES", tmp_path)
    assert visible_gpus() == ()
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus() == ("0", "2", "10")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"there are 3 GPUs, but torch .* cannot use them"):
        uses_cpu(ComputeSpec())


def test_a_variable_without_a_gpu_is_said_to_be_left_over(monkeypatch, tmp_path):
    monkeypatch.setattr("tensloradist.gpus.DEVICES", tmp_path)
    monkeypatch.setattr("tensloradist.training.devices._AMD", tmp_path / "kfd")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=0, but there is no GPU here; unset"):
        uses_cpu(ComputeSpec())


def test_without_a_variable_nvidia_smi_is_asked(smi):
    assert visible_gpus() == (*INSTANCES, "1")


@pytest.mark.parametrize("named_by", ["nvidia-smi", "CUDA_VISIBLE_DEVICES=0"])
def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_cpu_in_silence(smi, monkeypatch, named_by):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if "=" in named_by:
        monkeypatch.setenv(*named_by.split("="))
    said = named_by if "=" in named_by else "there are 3 GPUs"
    with pytest.raises(UserError, match=rf"compute\.device: 'auto', and {said}.*compute\.device: cpu"):
        uses_cpu(ComputeSpec())
    assert uses_cpu(ComputeSpec(device="cpu"))


def test_without_a_gpu_auto_is_the_cpu(smi, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert uses_cpu(ComputeSpec())


def test_a_process_that_sees_one_gpu_uses_its_number(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    choose_gpu(ComputeSpec(processes=4, strategy="ddp"))
    assert os.environ["LOCAL_RANK"] == "0"


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="4 of them on this machine, but they see 2 GPUs"):
        choose_gpu(ComputeSpec(processes=4, strategy="ddp"))
