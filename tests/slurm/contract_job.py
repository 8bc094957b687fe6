"""What the jobs of test_contract.py run."""

from scheduler_contract import work_until_told

from launch.slurm.client import Slurm


def contract_job(submission):
    work_until_told(Slurm(), submission)
