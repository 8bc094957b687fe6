"""Launches from where Slurm's variables are set: within an allocation, or in a notebook's terminal."""

import pytest
from slurm_sweeps import Sweep

pytestmark = pytest.mark.slurm

# What a job's shell has, of an allocation that asks for memory by CPU and by node, and of an array's element; and what
# keeps variables from jobs. Each of these alone broke the first step of every job.
WITHIN_AN_ALLOCATION = {
    "SLURM_JOB_ID": "99",
    "SLURM_MEM_PER_CPU": "1000",
    "SLURM_MEM_PER_NODE": "4000",
    "SLURM_ARRAY_JOB_ID": "98",
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_NTASKS": "3",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "2",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_EXPORT_ENV": "NONE",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_WAIT": "1",
    "SBATCH_PARTITION": "nowhere",
    "SQUEUE_PARTITION": "high",
    "SUBMITIT_EXECUTOR": "local",
    "TMPDIR": "/tmp/slurm.99",
}


def test_a_launch_from_within_an_allocation_trains_its_runs(cluster, tmp_path):
    sweep = Sweep(tmp_path, task="digits", seeds=2, epochs=1)
    sweep.profile.write_text(sweep.profile.read_text().replace("partition: low", "partition: 'low,high'"))
    said = sweep.launch("--runs-per-task", "1", **WITHIN_AN_ALLOCATION)
    assert "SBATCH_PARTITION=nowhere is not used: jobs are submitted with --partition=low,high" in said
    sweep.wait_finished()
    assert len(sweep.attempt_files("result.json")) == 2
