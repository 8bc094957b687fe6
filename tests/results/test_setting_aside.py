"""Results and records that are set aside or written in a reserved place: none takes another's place, ever."""

import errno
import os
import threading

import pytest

from tensloradist import commands
from tensloradist.config import load_run_spec
from tensloradist.identity import resolve
from tensloradist.one_run import _foreseen
from tensloradist.results import publish as publishing
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import publish, read_failure_of, read_result, recover_broken, write_failure
from tensloradist.results.retract import retract
from tensloradist.results.schema import Failure


@pytest.fixture
def run(tmp_path, spec):
    run = RunFolder(tmp_path, spec.run_id)
    run.path.mkdir(parents=True)
    return run


def damage(run, text):
    run.result.unlink(missing_ok=True)
    run.result.write_text(text)


def texts(run, kind):
    return sorted(path.read_text() for path in run.path.glob(f"result.json.{kind}-*"))


def test_a_result_set_aside_takes_no_other_ones_place(run):
    for text in ('{"one', '{"two'):
        damage(run, text)
        recover_broken(run)
    (run.path / "result.json.broken-1").unlink()
    damage(run, '{"three')
    recover_broken(run)
    assert texts(run, "broken") == ['{"three', '{"two'] and not run.result.exists()
    run.result.mkdir()
    assert recover_broken(run).is_dir() and not run.result.exists(), "a folder in its place is moved, too"


def test_a_result_taken_back_takes_no_other_ones_place(run, make_result):
    for number in (1, 2, 3):
        publish(run, make_result(number))
        retract(run)
        if number == 2:
            (run.path / "result.json.retracted-1").unlink()
    kept = [read_result(path).attempt for path in sorted(run.path.glob("result.json.retracted-*"))]
    assert kept == [2, 3] and not run.result.exists()
    assert len(list(run.attempts.glob("*/result.json.retracted*"))) == 3


@pytest.mark.parametrize("sound", [True, False])
def test_two_that_find_one_damaged_result_set_it_aside_once(run, make_result, monkeypatch, sound):
    """The second has judged the damaged result, and goes on when the first has put everything right."""
    if sound:
        publish(run, make_result(1))
    damage(run, '{"cut')
    judged, go_on, found = threading.Event(), threading.Event(), []
    real = publishing.read_published

    def slow(*of):
        try:
            return real(*of)
        finally:
            if threading.current_thread() is not threading.main_thread():
                judged.set()
                go_on.wait(20)

    monkeypatch.setattr(publishing, "read_published", slow)
    second = threading.Thread(target=lambda: found.append(recover_broken(run)))
    second.start()
    assert judged.wait(20)
    assert recover_broken(run) == run.path / "result.json.broken-1"
    go_on.set()
    second.join()
    assert found == [None] and texts(run, "broken") == ['{"cut']
    assert read_result(run.result).attempt == 1 if sound else not run.result.exists()


@pytest.mark.parametrize("sound", [True, False])
def test_a_following_process_foresees_what_the_first_one_finds_and_moves_nothing(run, make_result, sound):
    if sound:
        publish(run, make_result(1))
    damage(run, '{"cut')
    before = sorted(path.name for path in run.path.rglob("*"))
    assert _foreseen(run).state == ("finished" if sound else "open")
    assert sorted(path.name for path in run.path.rglob("*")) == before


def test_the_first_word_on_a_failure_stays_on_a_full_disk_too(run, monkeypatch):
    attempt = run.attempt(1)
    attempt.mkdir(parents=True)
    publishing.reserve_failure(attempt)

    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(publishing, "write_once", full)
    for cause in ("killed", "interrupted"):
        write_failure(attempt, Failure(run_id=run.run_id, attempt=1, cause=cause, message="it ended", kept_step=0))
        assert read_failure_of(run, 1).cause == "killed"


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_alone_sets_a_damaged_result_aside(tmp_path, monkeypatch, rank):
    file, done = tmp_path / "run.yaml", []
    file.write_text(
        "backbone: {source: digits_vit, name: digits_vit}\ntask: {name: digits}\nadapter: {method: lora}\n"
        "compute: {device: cpu, strategy: ddp, processes: 2}\n"
    )
    run = RunFolder(tmp_path, resolve(load_run_spec(file, [])).run_id)
    run.path.mkdir(parents=True)
    damage(run, '{"cut')
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("tensloradist.one_run._follow", lambda spec: done.append("follows"))
    monkeypatch.setattr("tensloradist.one_run._train_here", lambda *of: done.append("leads") or "an outcome")
    monkeypatch.setattr("tensloradist.one_run._say_outcome", lambda *of: 0)
    commands.run(file, [], tmp_path)
    assert done == [("leads", "follows")[rank]] and run.result.exists() == (rank == 1)
