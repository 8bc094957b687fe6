"""Several runs on one GPU: proposed by what runs have measured, and NVIDIA's MPS started and stopped with the job."""

import os
import signal
import subprocess
import time

import pytest
from fake_slurm import FakeSlurm

from launch.monitor.efficiency import Spent, _of_set
from launch.planning.sharing import sharing
from launch.records.job_arrays import Asked, JobArray
from launch.slurm.batch import executor
from launch.slurm.launch import _sharing_notes
from launch.slurm.profile import Options, Profile, load_profile
from tensloradist.results.schema import Result, Throughput
from tensloradist.spec import RunSpec

GB = 2**30


def result(used=0.04, run_bytes=3 * GB, gpu_bytes=80 * GB, waited=None, **provenance):
    """A finished run on a GPU of its own, as far as it is looked at."""
    throughput = Throughput.model_construct(model_flops_utilization=used)
    where = {"hardware": {"gpu_bytes": [gpu_bytes] if gpu_bytes else []}, "processes": 1, "workers_per_gpu": 1}
    return Result.model_construct(
        times=type("Times", (), {"throughput": throughput, "data_wait_share": waited}),
        peak_memory=type("Memory", (), {"device_bytes": run_bytes}),
        provenance={**where, **provenance},
    )


def test_low_utilisation_and_little_memory_propose_sharing():
    found = sharing([result(0.03), result(0.05), result(0.9)])
    assert (found.workers, found.utilization, found.run_bytes) == (4, 0.05, 3 * GB)
    assert "workers_per_gpu: 4" in str(found)
    assert "5.0 % of the peak" in str(found) and "3.0 GB of GPUs with 80 GB" in str(found)
    assert sharing([result(run_bytes=25 * GB)]).workers == 2, "as many as the memory holds"


@pytest.mark.parametrize(
    "results",
    [
        [],
        [result(0.4)],
        [result(waited=0.5)],
        [result(None)],
        [result(run_bytes=30 * GB, gpu_bytes=40 * GB)],
        [result(gpu_bytes=None)],
        [result(run_bytes=None)],
        [result(workers_per_gpu=4)],
        [result(processes=2)],
    ],
    ids=[
        "nothing",
        "busy",
        "waiting for data",
        "unknown peak",
        "no room",
        "unknown card",
        "a CPU",
        "shared already",
        "several processes",
    ],
)
def test_nothing_else_proposes_it(results):
    assert sharing(results) is None


@pytest.mark.parametrize(
    ("workers", "processes", "proposed"), [(2, (1,), True), (8, (1,), False), (1, (2, 1), False)]
)
def test_efficiency_proposes_it_where_each_run_has_a_gpu_for_itself(workers, processes, proposed):
    arrays = [
        JobArray(
            job_id="1",
            tasks=1,
            options="gpu",
            processes=each,
            runs=1,
            runs_per_task=None,
            workers_per_task=workers,
            time_limit_minutes=60,
            asked=Asked(cpus=1, memory_gb=None, gpus_per_node=2, nodes=1),
        )
        for each in processes
    ]
    spent = Spent(1, 1.0, 1.0, 1.0, 1.0, None, sharing=sharing([result()]))
    suggestions = _of_set("site", "gpu", arrays, [], spent).suggestions
    assert any(line.startswith("workers_per_gpu: 4") for line in suggestions) == proposed


@pytest.mark.parametrize(("workers_per_gpu", "proposed"), [(1, True), (2, False)])
def test_the_plan_proposes_it_by_results_of_runs_like_those_to_train(workers_per_gpu, proposed):
    spec = RunSpec.model_validate(
        {
            "backbone": {"source": "digits_vit", "name": "digits_vit"},
            "task": {"name": "digits"},
            "adapter": {"grouping": "qkv_depth", "ranks": 2},
        }
    )
    known = type("Known", (), {"results": lambda self, asked: [result()] if asked == spec else []})()
    sets = {"gpu": Options(gpus_per_node=2, workers_per_gpu=workers_per_gpu), "cpu": Options()}
    profile = Profile(name="site", options=sets)
    notes = _sharing_notes(profile, sets, [spec, spec], known)
    assert [note.split(" could")[0] for note in notes] == ["site/gpu: workers_per_gpu: 4"] * proposed


MPS = """#!/bin/sh
case "$*" in
  -d) [ -e {0}/fails ] && exit 1
      echo "started in $CUDA_MPS_PIPE_DIRECTORY, sees ${{CUDA_VISIBLE_DEVICES:-all}}" >> {0}/said
      [ -d "$CUDA_MPS_PIPE_DIRECTORY" ] && [ "$CUDA_MPS_LOG_DIRECTORY" = "$CUDA_MPS_PIPE_DIRECTORY" ];;
  *) echo "told to $(cat)" >> {0}/said;;
esac
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The batch script of the shipped profile, as a process; what stands in for srun and MPS writes `said`."""
    slurm = FakeSlurm(tmp_path / "bin").install(monkeypatch)
    slurm.says("scontrol", "ClusterName = here\nJobState=CANCELLED\n")
    (slurm.folder / "nvidia-cuda-mps-control").write_text(MPS.format(tmp_path))
    made = executor("shared_gpu", load_profile("shared_gpu").options["normal"], tmp_path / "submitit", "name")
    script = tmp_path / "job.sh"
    script.write_text(made._make_submission_file_text("work", "id"))

    def start(srun):
        (slurm.folder / "srun").write_text(
            f"#!/bin/sh\necho 'runs in' $CUDA_MPS_PIPE_DIRECTORY >> {tmp_path}/said\n{srun}\n"
        )
        for name in ("srun", "nvidia-cuda-mps-control"):
            (slurm.folder / name).chmod(0o755)
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "3", "TMPDIR": str(tmp_path)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(["bash", str(script)], env=environment, cwd=tmp_path, start_new_session=True, **quiet)

    start.said = lambda: (tmp_path / "said").read_text().splitlines() if (tmp_path / "said").exists() else []
    start.left = lambda: list(tmp_path.glob("tmp.*"))
    start.folder = tmp_path
    return start


@pytest.mark.parametrize("code", [0, 1])
def test_mps_is_started_for_the_workers_and_stopped_when_the_job_ends_or_fails(job, code):
    assert job(f"exit {code}").wait(30) == code
    started, runs, told = job.said()
    folder = started.removeprefix("started in ").removesuffix(", sees all")
    assert folder.startswith(str(job.folder)) and runs == f"runs in {folder}", "all GPUs, whose numbers stay the same"
    assert told == "told to quit -t 10" and job.left() == []


def test_mps_is_stopped_when_the_job_is_cancelled(job):
    process = job("sleep 60")
    deadline = time.monotonic() + 30
    while len(job.said()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    os.killpg(process.pid, signal.SIGKILL)  # what Slurm does with the rest of a job: here, the stand-in of srun
    assert job.said()[-1] == "told to quit -t 10" and job.left() == []


def test_a_job_that_cannot_start_mps_ends_before_its_workers_begin(job):
    (job.folder / "fails").touch()
    assert job("exit 0").wait(30) == 1
    assert job.said() == ["told to quit -t 10"] and job.left() == []
