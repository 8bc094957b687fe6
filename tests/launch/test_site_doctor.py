"""`doctor --profile`: it asks for one worker's share of two nodes, and every GPU that it was given is tried."""

import json

import pytest
from fake_slurm import FakeSlurm

from launch.slurm import doctor as site_doctor
from launch.slurm import probe as site_probe
from launch.slurm.rendezvous import Place
from tensloradist.errors import UserError
from tensloradist.gpu_check import Checked

PROFILE = """\
gpus_per_node: 8
workers_per_gpu: 2
cpus_per_worker: 4
memory_gb: 320
options: {normal: {partition: gpu}}
"""
SITE = "MaxArraySize = 1001\nPartitionName=gpu MaxTime=UNLIMITED TotalNodes=4\n"
GOOD = Checked("GPU 0 (NVIDIA A100, GPU-0)", "products of matrices agree", None)
SICK = Checked("GPU 1 (NVIDIA A100, GPU-1)", "", "no answer within 90 s; look at it with nvidia-smi")


def word(rank, *gpus):
    return {
        "rank": rank,
        "host": f"n{rank}",
        "errors": [],
        "versions": {"torch": "2"},
        "file_system": "links are exclusive",
        "first_link": rank == 0,
        "clock": 1.0,
        "gpus": {"visible": "0", "checked": [gpu.__dict__ for gpu in gpus]},
        "compilation": ["?", "compilation: no compiler"],
        "all_reduce": "nccl",
    }


@pytest.fixture
def doctor(tmp_path, monkeypatch, capsys):
    """The doctor's job, whose tasks say these words: (whether all held, what was printed)."""
    slurm = FakeSlurm(tmp_path / "slurm").install(monkeypatch)
    slurm.says("scontrol", SITE)
    profile, seen = tmp_path / "site.yaml", {}
    profile.write_text(PROFILE)

    def run(*words):
        def wait(folder, job, tasks):
            seen["small"] = next((folder / "submitit").glob("*submission*.sh")).read_text()
            return list(words)

        monkeypatch.setattr(site_doctor, "_wait", wait)
        held = site_doctor.check_site(str(profile), None, tmp_path / "results")
        return held, capsys.readouterr().out

    run.slurm, run.seen, run.results = slurm, seen, tmp_path / "results"
    return run


def asked(script):
    return dict(
        line[10:].split("=", 1) for line in script.splitlines() if line.startswith("#SBATCH --") and "=" in line
    )


def test_it_asks_for_what_one_worker_has_and_whether_the_site_would_take_the_whole(doctor):
    held, shown = doctor(word(0, GOOD), word(1, GOOD))
    assert held, shown
    small = asked(doctor.seen["small"])
    assert (small["nodes"], small["ntasks-per-node"], small["gpus-per-node"]) == ("2", "1", "1"), small
    assert (small["cpus-per-task"], small["mem"], small["time"]) == ("4", "20480M", "8"), "of 64 cores and 320 GB"
    assert [line for line in doctor.slurm.asked("sbatch") if line.startswith("--test-only")]
    assert "Slurm would take a job as site/normal asks for it" in shown
    assert not list(doctor.results.glob(".doctor-*")), "nothing stays behind"


def test_a_whole_job_that_the_site_would_not_take_is_a_failure_in_its_words(doctor):
    script = doctor.slurm.folder / "sbatch"
    refuses = (
        'case "$1" in --test-only) cp "$2" {0}/whole; echo "allocation failure: no such node" >&2; exit 1;; esac\n'
    )
    lines = script.read_text().split("\n", 1)
    script.write_text(f"{lines[0]}\n{refuses.format(doctor.slurm.folder)}{lines[1]}")
    held, shown = doctor(word(0, GOOD), word(1, GOOD))
    assert not held and "FAILED  Slurm would refuse (allocation failure: no such node) a job as site/normal" in shown
    whole = asked((doctor.slurm.folder / "whole").read_text())
    assert (whole["gpus-per-node"], whole["cpus-per-task"], whole["mem"]) == ("8", "64", "327680M")


def test_every_gpu_of_every_node_has_a_line_and_a_sick_one_fails_the_check(doctor):
    held, shown = doctor(word(0, GOOD), word(1, GOOD, SICK))
    assert not held and shown.count("(NVIDIA A100, GPU-0): products of matrices agree") == 2
    assert "FAILED  n1: GPU 1 (NVIDIA A100, GPU-1): no answer within 90 s" in shown
    assert "?       n0: compilation: no compiler" in shown


def test_a_node_without_the_gpus_that_the_profile_asks_for_fails_the_check(doctor):
    held, shown = doctor(word(0, GOOD), word(1))
    assert not held and "FAILED  n1: no GPU, although the profile asks for gpus_per_node: 8" in shown


@pytest.mark.parametrize("gpus", [[GOOD, SICK], UserError("torch does not answer")], ids=["sick", "unknown"])
def test_a_task_tries_all_its_gpus_and_no_collective_over_a_sick_one(tmp_path, monkeypatch, gpus):
    def check():
        if isinstance(gpus, Exception):
            raise gpus
        return gpus

    monkeypatch.setattr(site_probe, "check_gpus", check)
    monkeypatch.setattr(site_probe, "compilation", lambda device: ("ok", device))
    monkeypatch.setattr(site_probe.Place, "here", lambda: Place(0, 1, 0, 1, "127.0.0.1", "7", 0))
    site_probe.probe(str(tmp_path), str(tmp_path))
    found = json.loads((tmp_path / "probe-0.json").read_text())
    assert any(error.startswith("all_reduce: RuntimeError: not tried, since a GPU") for error in found["errors"])
    if isinstance(gpus, list):
        assert [gpu["error"] for gpu in found["gpus"]["checked"]] == [None, SICK.error]
        assert found["compilation"] == ["ok", "cuda"]
    else:
        assert "gpus: UserError: torch does not answer" in found["errors"]
