"""Jobs of which no worker and no record tells: they are found, explained and cancelled all the same."""

import os
import shutil
import subprocess

import pytest
from slurm_sweeps import Sweep, scontrol, tensloradist, wait_until

pytestmark = pytest.mark.slurm
KILLS_ITS_CALLER = """#!/bin/sh
{sbatch} "$@"
kill -9 $PPID
"""


def profile(sweep, line):
    """A sweep's profile with a line more."""
    sweep.profile.write_text(sweep.profile.read_text() + line)


def queued():
    return subprocess.run(["squeue", "-h", "-o", "%F"], capture_output=True, text=True, timeout=20).stdout.split()


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def test_jobs_of_a_launch_that_was_killed_before_their_record_are_known_and_cancelled(cluster, tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    profile(sweep, 'sbatch: {begin: "now+1hour"}\n')
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(KILLS_ITS_CALLER.format(sbatch=shutil.which("sbatch")))
    wrapper.chmod(0o755)
    sweep.launch(check=False, PATH=f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    (job,) = queued()
    assert sweep.jobs == [] and not list(sweep.root.glob("sweeps/*/launches/*/accepted-*.json")), "it was killed"
    assert "Jobs: 1 pending" in sweep.status()
    assert list(sweep.root.glob("sweeps/*/launches/*/accepted-0.json")), f"{job} is on record now"
    assert "Cancelled 1 Slurm job;" in tensloradist("cancel", sweep.file, "--results", sweep.root).stdout
    wait_until(lambda: not queued(), 20, "the job is still there")


def test_a_job_whose_python_is_missing_says_so_in_status(cluster, tmp_path):
    sweep = Sweep(tmp_path)
    profile(sweep, "container: no-such-container exec\n")
    sweep.launch()
    says = "1 job ended before a worker could begin (FAILED, "
    shown = wait_until(lambda: says in (shown := sweep.status()) and shown, 30, sweep.status)
    assert "no-such-container" in shown and "_log.err" in shown
    assert "no job or worker is left that would train them; type: tensloradist launch" in shown


def test_on_a_read_only_folder_jobs_are_explained_and_cancelled(cluster, tmp_path):
    sweep = Sweep(tmp_path)
    sweep.root = cluster.small_disk / "read-only"
    profile(sweep, 'sbatch: {begin: "now+1hour"}\nmax_array_size: 1\nruns_per_task: 1\n')
    sweep.file.write_text(sweep.file.read_text().replace("seeds: 1", "seeds: 2"))
    sweep.launch()
    first, second = sorted(sweep.jobs, key=int)
    remount(cluster.small_disk, "ro")
    try:
        assert scontrol("update", f"JobId={first}", "StartTime=now").returncode == 0
        says = "1 job ended before a worker could begin (FAILED"
        shown = wait_until(lambda: says in (shown := sweep.status()) and shown, 30, sweep.status)
        assert "is absent; is the results folder full, read-only, or not mounted on the nodes?" in shown
        done = tensloradist("cancel", sweep.file, "--results", sweep.root, check=False)
        assert done.returncode == 2 and "Cancelled 1 Slurm job;" in done.stdout, done.stdout + done.stderr
        assert "/stop (Read-only file system)" in done.stderr
        wait_until(lambda: second not in queued(), 20, "the job is still there")
    finally:
        remount(cluster.small_disk, "rw")
