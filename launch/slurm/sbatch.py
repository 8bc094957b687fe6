"""submitit's Slurm executor, but it calls sbatch in a given environment and reads its answer strictly."""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit
from submitit.core import utils

from tensloradist.bounded import run_bounded

_TEST_SECONDS = 120.0  # for an answer to --test-only
# sbatch prints this on a line of its own. A site's wrapper may print anything before and after it.
_ANSWER = re.compile(r"^Submitted batch job (\d+)(?: on cluster \S+)?\s*$", re.MULTILINE)


class Sbatch(submitit.SlurmExecutor):
    """Submits batch scripts in exactly this environment."""

    def __init__(self, folder: Path, python: str, environment: Mapping[str, str]) -> None:
        super().__init__(folder, python=python)
        self._environment = dict(environment)

    def _internal_process_submissions(self, delayed_submissions: list[Any]) -> list[Any]:
        """Submit one job or one array; submitit itself would submit an array by an executor of its own class."""
        if len(delayed_submissions) == 1:
            return super()._internal_process_submissions(delayed_submissions)
        folder = utils.JobPaths.get_first_id_independent_folder(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        pickles = []
        for delayed in delayed_submissions:
            pickles.append(folder / f"{uuid.uuid4().hex}.pkl")
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(pickles[-1])
        array = copy.copy(self)
        array.parameters = {**self.parameters, "map_count": len(pickles)}
        first = array._submit_command(self._submitit_command_str)
        tasks = list(range(first.num_tasks))
        jobs = [self.job_class(self.folder, f"{first.job_id}_{index}", tasks) for index in range(len(pickles))]
        for job, pickle in zip(jobs, pickles, strict=True):
            job.paths.move_temporary_file(pickle, "submitted_pickle")
        return jobs

    def would_refuse(self) -> str | None:
        """Slurm's reason for refusing a job with these parameters; None: it would accept the job."""
        folder = utils.JobPaths.get_first_id_independent_folder(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "test-only.sh"
        script.write_text(self._make_submission_file_text(self._submitit_command_str, "test-only"), encoding="utf-8")
        command = ["sbatch", "--test-only", str(script)]
        asked = run_bounded(command, _TEST_SECONDS, self._environment)
        if asked.code == 0:
            return None
        how = f"did not answer in {_TEST_SECONDS:g} s" if asked.code is None else f"exited with {asked.code}"
        lines = asked.errors.strip().splitlines() or [f"sbatch {how}"]
        return lines[-1].removeprefix("sbatch: ").removeprefix("error: ")

    def _submit_command(self, command: str) -> Any:
        folder, name = utils.JobPaths.get_first_id_independent_folder(self.folder), uuid.uuid4().hex
        script = folder / f".submission_file_{name}.sh"
        script.write_text(self._make_submission_file_text(command, name), encoding="utf-8")
        answer = utils.CommandFunction(["sbatch", str(script)], verbose=False, env=self._environment)()
        job = self.job_class(self.folder, job_id_in(answer), list(range(self._num_tasks())))
        job.paths.move_temporary_file(script, "submission_file", keep_as_symlink=True)
        return job


def job_id_in(answer: str) -> str:
    """The job's id in the output of sbatch.

    Raises:
        FailedSubmissionError: no line of the output has an id, or several lines have different ids.
    """
    ids = set(_ANSWER.findall(answer))
    if len(ids) != 1:
        shown = " ".join(answer.split())[:200]
        raise utils.FailedSubmissionError(f"sbatch did not answer 'Submitted batch job ID' but {shown!r}")
    return str(ids.pop())
