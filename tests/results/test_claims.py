"""Claims and publishing under contention, with real processes: one owner at a time, one result for ever."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

from tensloradist.errors import UserError
from tensloradist.files import link_once, write_once, write_replacing
from tensloradist.results.claims import (
    Owner,
    Watch,
    claim,
    heartbeat_for,
    highest_claim,
    is_alive,
    owner_of,
    ownership,
)
from tensloradist.results.jobs import JobRef
from tensloradist.results.layout import RunFolder

CONTENDER = """
import sys, time
from pathlib import Path
from tensloradist.results.claims import claim
from tensloradist.results.jobs import JobRef
from tensloradist.results.layout import RunFolder
root, go = Path(sys.argv[1]), Path(sys.argv[2])
runs = [RunFolder(root, f"run{i}") for i in range(20)]
print("ready", flush=True)
while not go.exists():
    pass
held = [claim(run) for run in runs]
print(*[run.run_id for run, mine in zip(runs, held) if mine is not None], flush=True)
sys.stdin.read()  # hold the claims until told to end
"""
HOLDER = """
import sys
from pathlib import Path
from tensloradist.results.claims import claim
from tensloradist.results.jobs import JobRef
from tensloradist.results.layout import RunFolder
with claim(RunFolder(Path(sys.argv[1]), "run"), heartbeat_seconds=0.05):
    print("held", flush=True)
    sys.stdin.read()
"""


def start(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_every_run_has_exactly_one_owner_among_contenders(tmp_path):
    go = tmp_path / "go"
    contenders = [start(CONTENDER, tmp_path, go) for _ in range(5)]
    for contender in contenders:
        assert contender.stdout.readline() == "ready\n"
    go.touch()
    won = [contender.stdout.readline().split() for contender in contenders]
    assert sorted(run for runs in won for run in runs) == sorted(f"run{i}" for i in range(20))
    assert not list(tmp_path.glob("runs/*/.claim-*"))
    for contender in contenders:
        contender.communicate("")


def test_a_living_owner_is_left_alone_and_a_killed_one_replaced_at_once(tmp_path):
    run = RunFolder(tmp_path, "run")
    holder = start(HOLDER, tmp_path)
    assert holder.stdout.readline() == "held\n"
    assert is_alive(run)
    assert claim(run) is None
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_alive(run)
    taken = claim(run)
    assert taken is not None
    assert taken.number == 2


def test_an_orderly_end_releases(tmp_path):
    run = RunFolder(tmp_path, "run")
    holder = start(HOLDER, tmp_path)
    assert holder.stdout.readline() == "held\n"
    holder.communicate("")
    assert not is_alive(run)
    assert claim(run).number == 2


def wait_for_first_beat(run):
    """Else it may come between two looks at the counter, on a busy machine."""
    deadline = time.monotonic() + 120
    while not (run.path / f"heartbeat.{highest_claim(run):04d}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def another_machine(run, heartbeat_seconds=30.0):
    """Make the owner one of which this machine cannot tell whether it lives."""
    path = run.path / f"claim.{highest_claim(run):04d}"
    owner = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**owner, "host": "elsewhere", "heartbeat_seconds": heartbeat_seconds}))


def test_an_owner_elsewhere_is_replaced_only_after_standing_still(tmp_path):
    run = RunFolder(tmp_path, "run")
    with claim(run, heartbeat_seconds=1000):
        wait_for_first_beat(run)
        another_machine(run)
        assert ownership(run) == "unknown"
        clock = {"now": 0.0}
        watch, looks = Watch(still_seconds=180, clock=lambda: clock["now"]), []
        for now, beat in ((0.0, None), (179.0, None), (200.0, "2"), (379.9, None), (380.1, None)):
            clock["now"] = now
            if beat is not None:  # a sign of life starts the wait anew
                write_replacing(run.path / "heartbeat.0001", beat)
            looks.append(watch.look(run))
        assert looks == ["undecided", "undecided", "moved", "moved", "still"]
        assert claim(run) is None, "without having watched, nobody takes over"
        assert claim(run, expected=2, stood_still=True) is None, "it was another claim that stood still"
        taken = claim(run, expected=1, stood_still=True)
        assert taken is not None and taken.number == 2


def test_an_owner_is_not_replaced_before_it_could_have_beaten(tmp_path):
    """A contender in a hurry: it would take over after 20 s, while the owner beats every 30 s."""
    run = RunFolder(tmp_path, "run")
    with claim(run, heartbeat_seconds=1000):
        wait_for_first_beat(run)
        another_machine(run, heartbeat_seconds=30.0)
        clock = {"now": 0.0}
        watch, looks = Watch(still_seconds=20, clock=lambda: clock["now"]), []
        for clock["now"] in (0.0, 21.0, 29.0, 179.0, 180.0):
            looks.append(watch.look(run))
        assert looks == ["undecided"] * 4 + ["still"]


def test_a_heartbeat_that_moves_outranks_a_squeue_that_has_forgotten_the_job(tmp_path):
    run = RunFolder(tmp_path, "run")
    assert claim(run, heartbeat_seconds=1000) is not None
    another_machine(run, heartbeat_seconds=30.0)
    clock = {"now": 0.0}
    watch = Watch(clock=lambda: clock["now"])

    def judged(now, beat=None, gone=True):
        clock["now"] = now
        if beat is not None:
            write_replacing(run.path / "heartbeat.0001", beat)
        return ownership(run, lambda owner: not gone, watch)

    assert judged(0, beat="1", gone=False) == "unknown"
    assert judged(30, beat="2") == "unknown", "it has just been seen beating"
    assert judged(119) == "unknown", "a beat or two may be late"
    assert judged(121) == "free", "it beats no more, and its job is gone"
    assert ownership(run, lambda owner: False) == "free", "who has not watched can go by the job alone"
    assert ownership(run, lambda owner: None) == "unknown"


def test_a_claim_says_which_cluster_its_job_is_of_and_older_ones_can_still_be_read(tmp_path):
    run = RunFolder(tmp_path, "run")
    assert claim(run, job=JobRef(key="7", cluster="blue", id="7")) is not None
    assert (owner_of(run, 1).job, owner_of(run, 1).cluster) == ("7", "blue")
    path = run.path / "claim.0001"
    record = json.loads(path.read_text())
    del record["cluster"]
    path.unlink()
    path.write_text(json.dumps(record))
    assert owner_of(run, 1).cluster is None


def test_who_is_replaced_soon_beats_often():
    assert [heartbeat_for(seconds) for seconds in (20.0, 180.0, 3600.0)] == [20 / 6, 30.0, 30.0]


def test_an_outnumbered_owner_notices(tmp_path):
    run = RunFolder(tmp_path, "run")
    first = claim(run)
    another_machine(run)
    write_replacing(run.path / "released.0001", "")
    assert not first.is_outnumbered
    assert claim(run) is not None
    assert first.is_outnumbered


def test_a_finished_run_cannot_be_claimed(tmp_path):
    run = RunFolder(tmp_path, "run")
    run.path.mkdir(parents=True)
    run.result.write_text("{}")
    assert claim(run) is None


def test_the_heartbeat_counts_on(tmp_path):
    run = RunFolder(tmp_path, "run")
    with claim(run, heartbeat_seconds=0.02):
        deadline = time.monotonic() + 120
        path = run.path / "heartbeat.0001"
        while (not path.exists() or int(path.read_text()) < 3) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert int(path.read_text()) >= 3


def test_a_reused_process_number_is_not_the_owner():
    me = Owner.me()
    assert not me.is_dead_here()
    assert Owner(me.host, me.boot, me.pid, "1").is_dead_here()
    assert Owner(me.host, "another boot", me.pid, me.start).is_dead_here()
    assert not Owner("elsewhere", me.boot, 1, "1").is_dead_here()
    container = Owner(me.host, me.boot, 1, "1", "pid:[1]")
    assert not container.is_here and not container.is_dead_here(), "its process numbers are not this one's"


def test_a_process_that_has_ended_but_was_not_waited_for_is_dead(tmp_path):
    run = RunFolder(tmp_path, "run")
    holder = start(HOLDER, tmp_path)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    deadline = time.monotonic() + 120
    while is_alive(run) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holder.returncode is None and not is_alive(run)
    holder.wait()


def test_a_claim_that_was_overtaken_while_judging_is_given_up(tmp_path):
    run = RunFolder(tmp_path, "run")
    with claim(run, expected=0):
        pass
    assert claim(run, expected=0) is None
    assert highest_claim(run) == 1


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(UserError, match=r"runs/run: cannot be created .*--results"):
        claim(RunFolder(tmp_path, "run"))


def test_a_damaged_claim_is_replaced_only_after_its_heartbeat_stood_still(tmp_path):
    run, now = RunFolder(tmp_path, "run"), [0.0]
    run.path.mkdir(parents=True)
    (run.path / "claim.0001").write_bytes(b"\xff garbage")
    watch = Watch(still_seconds=180, clock=lambda: now[0])
    assert ownership(run) == "unknown" and claim(run) is None and watch.look(run) == "undecided"
    now[0] = 181
    assert watch.look(run) == "still"
    taken = claim(run, expected=1, stood_still=True)
    assert taken is not None and taken.number == 2


def test_a_newer_versions_claim_is_left_alone(tmp_path):
    run = RunFolder(tmp_path, "run")
    run.path.mkdir(parents=True)
    (run.path / "claim.0001").write_text(json.dumps({**asdict(Owner.me()), "lease": 3}))
    with pytest.raises(UserError, match=r"claim\.0001: made by a newer version of tensloradist .*lease.*; update"):
        claim(run)


def test_links_are_first_wins_and_replacement_is_whole(tmp_path):
    assert write_once(tmp_path / "a", "first")
    assert not write_once(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    write_replacing(tmp_path / "b", "x" * 100)
    write_replacing(tmp_path / "b", "y")
    assert (tmp_path / "b").read_text() == "y"
    assert link_once(tmp_path / "b", tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"], "no temporary file may be left"
