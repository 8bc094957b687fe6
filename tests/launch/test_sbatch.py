"""What sbatch is called with: nothing of the caller's allocation, and the profile before SBATCH_… variables."""

import os
from types import SimpleNamespace

import pytest
from fake_slurm import FakeSlurm

from launch.records.policy import Growth
from launch.records.submission import Submission
from launch.slurm import commands, doctor
from launch.slurm.accepted import accepted_array
from launch.slurm.arrays import Array
from launch.slurm.batch import executor
from launch.slurm.environment import environment_notes, left_open, submission_environment
from launch.slurm.profile import Options
from launch.slurm.resubmit import submit_larger
from launch.slurm.submit import submit
from launch.slurm.task import run_task
from tensloradist.errors import UserError

TWO = [Array("default", 1, None, 2, ("r",), None)]
# As salloc, srun, a batch script, and a terminal of OnDemand or Jupyter have them.
ALLOCATION = """
SLURM_JOB_ID=99 SLURM_JOBID=99 SLURM_MEM_PER_CPU=2000 SLURM_MEM_PER_NODE=4000 SLURM_CPU_BIND=quiet,mask_cpu:0x1
SLURM_EXPORT_ENV=NONE SLURM_ARRAY_TASK_ID=7 SLURM_WORKING_CLUSTER=c:1:2:3 SLURMD_NODENAME=n1 SRUN_DEBUG=3
SRUN_CPUS_PER_TASK=4 SBATCH_CPU_BIND=quiet SBATCH_MEM_BIND=none SUBMITIT_EXECUTOR=local PMI_RANK=1 PMIX_RANK=1
OMPI_COMM_WORLD_RANK=1 TORCHELASTIC_RUN_ID=x RANK=1 WORLD_SIZE=2 MASTER_ADDR=n1 CUDA_VISIBLE_DEVICES=3
TMPDIR=/tmp/slurm.99
"""
MEANT = "TEMP=/scratch/995 TMP=/scratch SLURM_CONF=/etc/x SLURM_CLUSTERS=x SLURM_JWT=x PMIX_MCA_psec=munge HF_HOME=/h"


def variables(text):
    return dict(entry.split("=", 1) for entry in text.split())


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return FakeSlurm(tmp_path / "bin").install(monkeypatch)


def in_allocation(monkeypatch):
    for name, value in variables(f"{ALLOCATION} {MEANT}").items():
        monkeypatch.setenv(name, value)


def by_launch(root):
    submit("s", root / "sweeps" / "s" / "m.json", root, "site", {"default": Options()}, TWO, run_task=run_task)


def by_doctor(root):
    with pytest.raises(UserError, match="ended before every node had reported"):  # nothing runs here
        doctor.check_site("devcluster", None, root)


def by_larger_jobs(root):
    _, folder = submit(
        "s", root / "sweeps" / "s" / "m.json", root, "site", {"default": Options()}, TWO, run_task=run_task
    )
    path = next(folder.glob("submission-*.json"))
    submit_larger(path, Submission.read(path), {Growth(time=2): ["r"]}, run_task)


@pytest.mark.parametrize("command", [by_launch, by_doctor, by_larger_jobs])
def test_no_variable_of_the_callers_allocation_reaches_a_job(slurm, tmp_path, monkeypatch, command):
    monkeypatch.setattr(doctor.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("launch.slurm.resubmit.read_manifest", lambda path: SimpleNamespace(name="s", plugins=()))
    in_allocation(monkeypatch)
    if command is by_doctor:
        slurm.says("scontrol", "MaxArraySize = 1001\nPartitionName=low MaxTime=UNLIMITED TotalNodes=2\n")
    command(tmp_path / "results")
    found = slurm.environment()
    assert not variables(ALLOCATION).keys() & found.keys()
    assert variables(MEANT).items() <= found.items() and found["PATH"] == os.environ["PATH"]
    assert slurm.calls()["sbatch"] == (2 if command is by_larger_jobs else 1)
    assert os.environ["SLURM_JOB_ID"] == "99", "the caller's own variables are left alone"


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        ({"sbatch": {"nodes": 1, "nice": 5, "partition": "low"}}, "larger jobs were submitted"),
        ({"gpu": 1}, "nothing larger was submitted: Options: gpu: "),
    ],
)
def test_jobs_with_options_that_are_refused_by_now_ask_for_larger_ones_or_say_why_not(
    slurm, tmp_path, monkeypatch, capsys, recorded, says
):
    """An earlier version has queued them, whose profiles could say this."""
    monkeypatch.setattr("launch.slurm.resubmit.read_manifest", lambda path: SimpleNamespace(name="s", plugins=()))
    root = tmp_path / "results"
    known = Submission(str(root / "m.json"), str(root), 1, profile="site", option_set="default", options=recorded)
    submit_larger(root / "submission-0.json", known, {Growth(time=2): ["r"]}, run_task)
    printed = "".join(capsys.readouterr())
    assert says in printed
    if "sbatch" in recorded:
        assert "sbatch.nodes: left out, since the profile's fields say it" in printed
        script = next(root.rglob("submitit-0/*.sh")).read_text()
        assert "--nice=5" in script and "--partition=low" in script and "--time=120" in script
        assert script.count("#SBATCH --nodes=") == 1
        assert accepted_array("7", 1, known).asked.nodes == 1


# Of each of sbatch's variables: with which option set it is not used.
SAID = {
    "ACCOUNT": Options(account="a"),
    "PARTITION": Options(partition="p"),
    "QOS": Options(qos="q"),
    "CONSTRAINT": Options(constraint="c"),
    "RESERVATION": Options(sbatch={"reservation": "r"}),
    "EXCLUSIVE": Options(sbatch={"exclusive": True}),
    "GRES": Options(sbatch={"gres": "disk:1"}),
    "REQ_SWITCH": Options(sbatch={"switches": "1"}),
    "THREADS_PER_CORE": Options(sbatch={"threads_per_core": 1}),
    "MEM_PER_NODE": Options(memory_gb=4),
    "MEM_PER_CPU": Options(memory_gb=4),
    "MEM_PER_GPU": Options(memory_gb=4),
    "GPUS": Options(gpus_per_node=1),
    "GPUS_PER_NODE": Options(gpus_per_node=1),
    "GPUS_PER_TASK": Options(gpus_per_node=1),
}
NEVER = (
    *("TIMELIMIT", "ARRAY_INX", "REQUEUE", "NO_REQUEUE", "SIGNAL", "OUTPUT", "ERROR", "INPUT", "JOB_NAME", "OPEN_MODE"),
    *("WAIT", "EXPORT", "GET_USER_ENV", "CLUSTERS", "CPUS_PER_GPU", "DEBUG", "TEST_ONLY"),
)


@pytest.mark.parametrize("option", SAID)
def test_what_the_profile_says_wins_and_what_it_leaves_open_is_the_users(option):
    name, says = f"SBATCH_{option}", SAID[option]
    caller = {name: "7", "PATH": "/bin"}
    assert submission_environment(says, caller) == {"PATH": "/bin"}
    (note,) = environment_notes(says, caller)
    assert note.startswith(f"{name}=7 is not used: jobs are submitted with --")
    assert submission_environment(Options(), caller) == caller
    assert environment_notes(Options(), caller) == [f"{name}=7 is left to sbatch, because the profile does not say it"]


@pytest.mark.parametrize("name", [f"SBATCH_{name}" for name in NEVER])
def test_variables_that_change_what_a_submission_is_are_never_used_and_named(name):
    assert submission_environment(Options(), {name: "1"}) == {}
    assert environment_notes(Options(), {name: "1"})[0].startswith(f"{name}=1 is not used: ")


def test_only_the_gpus_of_generic_resources_compete_with_the_profiles():
    options = Options(gpus_per_node=2)
    assert left_open(options, {"SBATCH_GRES": "lscratch:100"}) == {"SBATCH_GRES": "lscratch:100"}
    assert left_open(options, {"SBATCH_GRES": "gpu:a100:1"}) == {}


def test_a_variable_that_says_the_same_is_not_worth_a_word():
    options = Options(account="a", time_minutes=30)
    assert environment_notes(options, {"SBATCH_ACCOUNT": "a", "SBATCH_TIMELIMIT": "30"}) == []


def test_a_flag_that_the_profile_sets_to_false_is_off():
    options = Options(sbatch={"exclusive": False})
    assert submission_environment(options, {"SBATCH_EXCLUSIVE": "user"}) == {}
    assert environment_notes(options, {"SBATCH_EXCLUSIVE": "user"}) == [
        "SBATCH_EXCLUSIVE=user is not used: jobs are submitted without --exclusive"
    ]


def script(options, folder):
    made = executor("site", options, folder, "name")
    return made._make_submission_file_text("true", "0")


def test_a_job_hands_on_what_the_profile_leaves_open_and_all_variables(slurm, tmp_path, monkeypatch):
    """To larger jobs, and to srun's tasks, whatever sbatch --export or the site say."""
    monkeypatch.setenv("SBATCH_RESERVATION", "a b")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    options = Options(account="theirs", sbatch={"export": "NONE", "exclusive": False, "time-min": "1:30:00"})
    text = script(options, tmp_path)
    assert "export SBATCH_RESERVATION='a b'\n" in text and "SBATCH_ACCOUNT" not in text
    assert "--export=ALL" in next(line for line in text.splitlines() if line.startswith("srun "))
    for line in ("#SBATCH --export=NONE", "#SBATCH --time-min=1:30:00", "#SBATCH --signal=USR2@60"):
        assert f"{line}\n" in text
    assert "exclusive" not in text


def test_filters_of_the_callers_shell_do_not_change_what_slurm_is_asked(slurm, monkeypatch):
    filters = "SQUEUE_STATES=PD SQUEUE_FORMAT=%i SCANCEL_STATE=PENDING SCANCEL_INTERACTIVE=1 SLURM_JOB_ID=9"
    for name, value in variables(f"{filters} SLURM_CONF=/etc/here").items():
        monkeypatch.setenv(name, value)
    script = '#!/bin/sh\nenv | grep -E "^(SQUEUE|SCANCEL|SLURM)_" > {file}\n'
    for command, ask in (("squeue", commands.queue), ("scancel", lambda: commands.cancel(["1"]))):
        seen = slurm.folder / "seen"
        (slurm.folder / command).write_text(script.format(file=seen))
        ask()
        assert seen.read_text() == "SLURM_CONF=/etc/here\n", command


BANNER = "Welcome! Your last job 7 has ended.\nSubmitted batch job 8 times this week\njob 9\n"


def test_a_banner_is_not_a_job_id(slurm, tmp_path):
    (slurm.folder / "sbatch.banner").write_text(BANNER)
    done, _ = submit("s", tmp_path / "m.json", tmp_path, "site", {"default": Options()}, TWO, run_task=run_task)
    assert done.job_ids == ["101"]


def test_an_answer_without_a_job_id_is_no_submission(slurm, tmp_path):
    (slurm.folder / "sbatch").write_text("#!/bin/sh\necho 'job 7 was logged'\n")
    with pytest.raises(UserError, match=r"sbatch did not answer 'Submitted batch job ID' but 'job 7 was logged'"):
        submit("s", tmp_path / "m.json", tmp_path, "site", {"default": Options()}, TWO, run_task=run_task)


def test_a_silent_slurm_is_not_waited_for_when_it_is_asked_what_it_would_take(slurm, tmp_path, monkeypatch):
    (slurm.folder / "sbatch").write_text("#!/bin/sh\nexec sleep 5\n")
    monkeypatch.setattr("launch.slurm.sbatch._TEST_SECONDS", 0.2)
    assert executor("site", Options(), tmp_path / "whole", "name").would_refuse() == "sbatch did not answer in 0.2 s"


def test_a_worker_takes_its_limit_from_its_job(slurm, monkeypatch):
    known = Submission("m", "r", 1, job_seconds=1800.0)
    assert commands.seconds_left() is None and Submission("m", "r", 1).job_end(commands.seconds_left) is None
    now = 1_000_000.0
    monkeypatch.setattr("launch.slurm.commands.time.time", lambda: now)
    monkeypatch.setattr("launch.records.submission.time.monotonic", lambda: 0.0)
    assert known.job_end(commands.seconds_left) == 1800, "nobody tells"
    for name, value in {"SLURM_JOB_ID": "102", "SLURM_ARRAY_JOB_ID": "101", "SLURM_ARRAY_TASK_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    slurm.says("squeue", "1:30\n")  # a Slurm before 23.02
    assert known.job_end(commands.seconds_left) == 90 and "-j 101_0" in slurm.asked("squeue")[-1]
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now) + 60))
    assert known.job_end(commands.seconds_left) == 60
