"""Sweeps for the tests on a real cluster: runs of some seconds, checkpointed often, and what became of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tensloradist.results.claims import highest_claim, owner_of
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_result

PATIENCE = 4
OTHER_USER = "tensloradist-test"
FILES = ("adapter.safetensors", "head.safetensors", "predictions.safetensors")
PROFILE = """
cpus_per_worker: 1
memory_gb: 2
time_minutes: {minutes}
signal_lead_seconds: {lead}
max_parallel: {parallel}
processes_per_node: 1
takeover_seconds: 20
environment: {{OMP_NUM_THREADS: "1"}}
options:
  low: {{partition: low}}
  high: {{partition: high}}
"""
SWEEP = """
name: faults
backbone: {{source: digits_vit, name: digits_vit}}
task: {{name: {task}, train_examples: 144}}
methods: [{methods}]
conditions: [{{isorank: [2]}}]
seeds: {seeds}
optimizer: {{epochs: {epochs}, batch_size: 16, learning_rate: 1e-2}}
adapter: {{dropout: 0.1}}
compute: {{device: cpu, threads: 1, checkpoint_steps: {checkpoint_steps}, checkpoint_seconds: null{compute}}}
{plugins}
"""


def tensloradist(*arguments, check=True, **environment):
    command = [sys.executable, "-m", "tensloradist.cli", *map(str, arguments)]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # where the tests' plugin is
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=900)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def wait_until(condition, seconds, what):
    """The condition's first true value, asked about four times a second. On a busy machine all takes longer."""
    deadline = time.monotonic() + PATIENCE * seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.25)
    raise AssertionError(f"after {PATIENCE * seconds} s still not: {what() if callable(what) else what}")


class Sweep:
    """One sweep in a folder of its own, launched on the cluster. An epoch is of 9 steps."""

    def __init__(
        self,
        folder: Path,
        methods="{tenslora: {grouping: att}}",
        seeds=1,
        epochs=14,
        checkpoint_steps=20,
        minutes=30,
        lead=15,
        parallel=4,
        compute="",
        task="paced",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.root = folder, folder / "results"
        self.file, self.profile = folder / "sweep.yaml", folder / "site.yaml"
        self.file.write_text(
            SWEEP.format(
                methods=methods,
                seeds=seeds,
                epochs=epochs,
                checkpoint_steps=checkpoint_steps,
                compute=compute,
                task=task,
                plugins="" if task == "digits" else f"plugins: [{task}_plugin]",
            )
        )
        self.profile.write_text(PROFILE.format(minutes=minutes, lead=lead, parallel=parallel))
        self.jobs: list[str] = []
        self._ids: list[str] = []

    @property
    def run_ids(self):
        if not self._ids:
            planned = tensloradist("plan", self.file, "--json", "--results", self.root)
            self._ids = [run["run_id"] for run in json.loads(planned.stdout)["runs"]]
        return self._ids

    def launch(self, *options, check=True, **environment):
        done = tensloradist(
            "launch",
            self.file,
            "--profile",
            self.profile,
            "--results",
            self.root,
            *options,
            check=check,
            **environment,
        )
        for path in self.root.glob("sweeps/*/launches/*/slurm.json"):
            for array in json.loads(path.read_text())["arrays"]:
                if array["job_id"] not in self.jobs:
                    self.jobs.append(array["job_id"])
        return done.stdout + done.stderr

    def status(self):
        return tensloradist("status", self.file, "--results", self.root).stdout

    def run(self, index=0):
        return RunFolder(self.root, self.run_ids[index])

    def attempt_files(self, name):
        return sorted(self.root.glob(f"runs/*/attempts/*/{name}"))

    def records(self, name):
        return [json.loads(path.read_text()) for path in self.attempt_files(name)]

    def causes(self):
        return [record["cause"] for record in self.records("failure.json")]

    def results(self):
        return [read_result(self.run(i).result) for i in range(len(self.run_ids)) if self.run(i).result.exists()]

    def wait_finished(self, seconds=120):
        wait_until(lambda: len(self.results()) == len(self.run_ids), seconds, self.story)
        return self.results()

    def wait_step(self, step, index=0, attempt=None, seconds=90):
        """Until an attempt has a checkpoint at that step or a later one; returns the newest."""

        def newest():
            folder = self.run(index).path / "attempts"
            pattern = f"{attempt:04d}" if attempt else "*"
            found = [int(p.parent.name.split("-")[1]) for p in folder.glob(f"{pattern}/checkpoints/step-*/COMPLETE")]
            return max(found, default=0) >= step and max(found)

        return wait_until(newest, seconds, self.story)

    def story(self):
        """What the files say: for a failed assertion."""
        lines = [subprocess.run(["squeue", "-r"], capture_output=True, text=True, timeout=20).stdout]
        for path in sorted(self.root.glob("sweeps/*/launches/*/*.err")) + self.attempt_files("log.txt"):
            lines.append(f"== {path}\n{path.read_text()[-1500:]}")
        for path in sorted(self.root.glob("sweeps/*/launches/*/submitit-*/*.err")):
            lines.append(f"== {path}\n{path.read_text()[-1500:]}")
        return "\n".join([*lines, str(self.records("failure.json"))])

    def resumed_from(self, index=0):
        """The step that each attempt of a run began at, in order; None: from the start."""
        found = []
        for number in self.run(index).attempt_numbers():
            record = json.loads((self.run(index).attempt(number) / "attempt.json").read_text())
            found.append(record["resumed_from"]["step"] if record["resumed_from"] else None)
        return found


def reference(sweep, folder):
    """The same sweep, trained here without any interruption."""
    done = tensloradist("launch", sweep.file, "--workers", "1", "--results", folder)
    assert "failed" not in done.stdout.replace("0 failed", "")
    return folder


def assert_same_bits(sweep, reference_root):
    """Metrics, weights and predictions of every run are those of the uninterrupted one, to the bit."""
    for run_id in sweep.run_ids:
        ours, theirs = (RunFolder(root, run_id) for root in (sweep.root, reference_root))
        first, second = read_result(ours.result), read_result(theirs.result)
        assert first.metrics == second.metrics and first.fingerprints == second.fingerprints
        for name in FILES:
            a, b = ours.attempt(first.attempt) / name, theirs.attempt(second.attempt) / name
            assert a.read_bytes() == b.read_bytes(), f"{run_id}: {name} differs"


def fill(disk, left):
    """Fill a disk but for so many bytes; returns the file that does."""
    space = os.statvfs(disk)
    path = disk / "filling"
    path.write_bytes(b"x" * max(0, space.f_bavail * space.f_bsize - left))
    return path


def processes_of(*words):
    """Process numbers whose command line has all the words."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if all(word in line for word in words) and not line.startswith("srun"):
                found.append(int(name))
    return found


def task_processes(sweep):
    """The processes that submitit runs: the workers."""
    return processes_of("submitit.core._submit", str(sweep.root))


def child_of_run(sweep, index=0):
    """The training process that owns a run."""
    run = sweep.run(index)
    return owner_of(run, highest_claim(run)).pid


def scontrol(*arguments):
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=20)


def job_field(job, field):
    shown = scontrol("show", "job", job).stdout
    return next((word.split("=", 1)[1] for word in shown.split() if word.startswith(f"{field}=")), None)
