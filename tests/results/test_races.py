"""Many processes at once, some of them killed: no run ever has two results, and none is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from synthetic import result_of

from tensloradist.files import write_replacing
from tensloradist.results.claims import Watch, claim, highest_claim, is_alive
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import publish, read_result

RESULT = """
import os, random, sys, time
from pathlib import Path
from tensloradist.results.claims import claim
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import publish
from tensloradist.results.schema import Result
template = Result.model_validate_json(Path(sys.argv[2]).read_text())
def result(run, attempt, score):
    metrics = template.metrics.model_copy(update={"score": score})
    return template.model_copy(update={"run_id": run.run_id, "attempt": attempt, "metrics": metrics})
root = Path(sys.argv[1])
"""
PUBLISHER = (
    RESULT
    + """
number = int(sys.argv[3])
runs = [RunFolder(root, f"run{i}") for i in range(20)]
print("ready", flush=True)
while not (root / "go").exists():
    pass
print(*[run.run_id for run in runs if publish(run, result(run, number, number / 10))], flush=True)
"""
)
TAKER = """
import sys
from pathlib import Path
from tensloradist.results.claims import claim
from tensloradist.results.layout import RunFolder
root = Path(sys.argv[1])
runs = [RunFolder(root, f"run{i}") for i in range(20)]
print("ready", flush=True)
while not (root / "go").exists():
    pass
held = [claim(run, expected=1, stood_still=True) for run in runs]
print(*[run.run_id for run, mine in zip(runs, held) if mine is not None], flush=True)
sys.stdin.read()
"""
WORKER = (
    RESULT
    + """
rng = random.Random(int(sys.argv[3]))
runs = [RunFolder(root, f"run{i}") for i in range(40)]
while any(not run.result.exists() for run in runs):
    for run in rng.sample(runs, len(runs)):
        held = claim(run, heartbeat_seconds=0.01)
        if held is None:
            continue
        with held:
            attempt = run.attempt(held.number)
            attempt.mkdir(parents=True)
            time.sleep(rng.uniform(0, 0.2))
            publish(run, result(run, held.number, rng.random()))
"""
)


def start(script, root, *arguments):
    template = root / "template.json"
    if not template.exists():
        template.write_text(result_of().model_dump_json())
    command = [sys.executable, "-c", script, str(root), str(template), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def winners(script, root, count):
    """What each of `count` processes, set off at once, says that it has won."""
    processes = [start(script, root, number) for number in range(1, count + 1)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    (root / "go").touch()
    won = [process.stdout.readline().split() for process in processes]
    for process in processes:
        process.communicate("")
    return won


def test_of_many_results_at_once_exactly_one_is_published_and_the_others_stay_as_duplicates(tmp_path):
    runs = [RunFolder(tmp_path, f"run{i}") for i in range(20)]
    for run in runs:
        for number in range(1, 6):
            run.attempt(number).mkdir(parents=True)
    won = winners(PUBLISHER, tmp_path, 5)
    assert sorted(name for names in won for name in names) == sorted(run.run_id for run in runs)
    for number, names in enumerate(won, start=1):
        for name in names:
            assert read_result(RunFolder(tmp_path, name).result).attempt == number
    for run in runs:
        assert [read_result(run.attempt(n) / "result.json").attempt for n in range(1, 6)] == [1, 2, 3, 4, 5]


def test_of_many_that_take_over_at_once_exactly_one_succeeds(tmp_path):
    for number in range(20):
        run = RunFolder(tmp_path, f"run{number}")
        assert claim(run) is not None
        elsewhere(run)
    won = winners(TAKER, tmp_path, 5)
    assert sorted(name for names in won for name in names) == sorted(f"run{i}" for i in range(20))


def test_workers_killed_at_random_moments_lose_no_run_and_publish_none_twice(tmp_path):
    rng, seeds = random.Random(0), iter(range(1000))
    workers = [start(WORKER, tmp_path, next(seeds)) for _ in range(3)]
    runs = [RunFolder(tmp_path, f"run{i}") for i in range(40)]
    first: dict[str, tuple[int, bytes]] = {}
    kills, deadline = 0, time.monotonic() + 300
    while len(first) < len(runs):
        assert time.monotonic() < deadline, f"{len(first)} of {len(runs)} runs have a result"
        for run in runs:
            if run.result.exists():
                now = (run.result.stat().st_ino, run.result.read_bytes())
                assert first.setdefault(run.run_id, now) == now, "a published result has changed"
        index = rng.randrange(len(workers))
        if kills < 12 and any((tmp_path / "runs").glob("*/claim.*")):
            workers[index].send_signal(signal.SIGKILL)
            workers[index].wait()
            workers[index] = start(WORKER, tmp_path, next(seeds))
            kills += 1
        time.sleep(rng.uniform(0, 0.1))
    assert kills >= 5
    for worker in workers:
        assert worker.wait(240) == 0
    for run in runs:
        assert first[run.run_id] == (run.result.stat().st_ino, run.result.read_bytes())
        result = read_result(run.result)
        assert os.path.samefile(run.result, run.attempt(result.attempt) / "result.json")


def elsewhere(run):
    """Make the newest owner one that this machine cannot see."""
    path = run.path / f"claim.{highest_claim(run):04d}"
    owner = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**owner, "host": "elsewhere"}))


class Machines(RuleBasedStateMachine):
    """One run and four machines that do not see each other's processes, with clocks of their own.

    Owners beat, pause for any time, come back and publish late, release, or vanish; the others watch and take over.
    """

    MACHINES = st.integers(0, 3)

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.run = RunFolder(Path(self.folder.name), "run")
        self.now = 0.0
        self.watches = [
            Watch(still_seconds=180, clock=lambda offset=offset: self.now + offset) for offset in (0, 1e3, 1e6, -1e4)
        ]
        self.held = {}  # claim number -> machine, while its owner has neither ended nor vanished
        self.beats = {}
        self.last_sign = {}  # claim number -> when it was made, or beat last
        self.released = set()
        self.published = None

    def teardown(self):
        self.folder.cleanup()

    @rule(machine=MACHINES)
    def contend(self, machine):
        known = highest_claim(self.run)
        still = known > 0 and self.watches[machine].look(self.run) == "still"
        taken = claim(self.run, expected=known, stood_still=still)
        if taken is None:
            return
        assert taken.number == known + 1 and self.published is None
        assert known == 0 or known in self.released or self.now - self.last_sign[known] >= 180
        elsewhere(self.run)
        self.run.attempt(taken.number).mkdir(parents=True)
        self.held[taken.number], self.beats[taken.number], self.last_sign[taken.number] = machine, 0, self.now

    @rule(seconds=st.sampled_from([1, 29, 30, 91, 181, 1000]))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def beat(self, data):
        number = data.draw(st.sampled_from(sorted(self.held)))
        self.beats[number] += 1
        self.last_sign[number] = self.now
        write_replacing(self.run.path / f"heartbeat.{number:04d}", str(self.beats[number]))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), finished=st.booleans())
    def end_in_order(self, data, finished):
        number = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[number]
        if finished and publish(self.run, result_of(attempt=number, score=number / 100)):
            assert self.published is None
            self.published = number
        write_replacing(self.run.path / f"released.{number:04d}", "")
        self.released.add(number)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def vanish(self, data):
        del self.held[data.draw(st.sampled_from(sorted(self.held)))]

    @invariant()
    def one_result_for_ever(self):
        assert self.run.result.exists() == (self.published is not None)
        if self.published is not None:
            assert read_result(self.run.result).attempt == self.published

    @invariant()
    def an_owner_with_a_recent_sign_of_life_is_alive(self):
        number = highest_claim(self.run)
        assert is_alive(self.run) == (number > 0 and number not in self.released)


Machines.TestCase.settings = settings(max_examples=25, stateful_step_count=25)
TestMachines = Machines.TestCase
