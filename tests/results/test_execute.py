"""One run from claim to result: published once, validated, its failures classified and kept."""

import errno
import json
import os

import pytest

from tensloradist.errors import DataMissing, UserError
from tensloradist.records import UnreadableRecord
from tensloradist.results.claims import is_alive
from tensloradist.results.execute import cause_of, execute
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import publish, read_failure_of, read_result, write_spec
from tensloradist.results.ranks import write_rank_failure


def test_a_run_is_trained_once_and_then_present(tmp_path, spec, make_result):
    calls = []

    def train(given, folder, progress, control):
        calls.append(folder)
        return make_result(int(folder.name))

    first, again = execute(spec, tmp_path, train), execute(spec, tmp_path, train)
    assert (first.status, again.status, len(calls)) == ("finished", "present", 1)
    run = RunFolder(tmp_path, spec.run_id)
    assert read_result(run.result) == first.result == again.result
    assert run.result.stat().st_ino == (run.attempt(1) / "result.json").stat().st_ino
    assert json.loads(run.spec.read_text()) == spec.model_dump(mode="json")
    assert (run.attempt(1) / "log.txt").exists()


def test_what_goes_wrong_after_publication_is_no_failure(tmp_path, spec, make_result, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensloradist.results.execute.end_attempt", full)
    outcome = execute(spec, tmp_path, lambda s, f, p, c: make_result(int(f.name)))
    assert outcome.status == "finished" and read_failure_of(RunFolder(tmp_path, spec.run_id), 1) is None


def test_a_user_without_a_name_can_run(tmp_path, spec, make_result, monkeypatch):
    def unknown():
        raise KeyError("getpwuid(): uid not found: 4321")

    monkeypatch.setattr("getpass.getuser", unknown)
    assert execute(spec, tmp_path, lambda s, f, p, c: make_result(int(f.name))).status == "finished"


def test_a_later_result_stays_in_its_attempt(tmp_path, spec, make_result):
    run = RunFolder(tmp_path, spec.run_id)
    for number in (1, 2):
        run.attempt(number).mkdir(parents=True)
    assert publish(run, make_result(1, 0.5))
    assert not publish(run, make_result(2, 0.6))
    assert read_result(run.result).metrics.score == 0.5
    assert read_result(run.attempt(2) / "result.json").metrics.score == 0.6


def test_a_failure_is_recorded_and_the_run_can_be_tried_again(tmp_path, spec, make_result):
    def fails(given, folder, progress, control):
        raise ZeroDivisionError("by hand")

    outcome = execute(spec, tmp_path, fails)
    assert (outcome.status, outcome.failure.cause) == ("failed", "bug")
    assert "ZeroDivisionError: by hand" in read_failure_of(RunFolder(tmp_path, spec.run_id), 1).message
    assert "by hand" in (outcome.attempt / "log.txt").read_text()
    assert execute(spec, tmp_path, lambda s, f, p, c: make_result(int(f.name))).result.attempt == 2


@pytest.mark.parametrize(("who", "named"), [([1, 3], "process 2 of 4, which"), ([1, 2, 3], "one of the 4 processes")])
def test_a_process_that_hung_is_named_by_its_silence(tmp_path, spec, monkeypatch, who, named):
    def timed_out(given, folder, progress, control):
        for rank in who:  # they waited, too
            write_rank_failure(folder, rank, "communication", RuntimeError("gloo: timed out"))
        raise RuntimeError("gloo: timed out")

    monkeypatch.setattr("tensloradist.results.execute.WAIT_SECONDS", 0.0)
    compute = spec.compute.model_copy(update={"processes": 4, "strategy": "ddp"})
    failure = execute(spec.model_copy(update={"compute": compute}), tmp_path, timed_out).failure
    assert failure.cause == "communication" and named in failure.message and "timeout_seconds: 600" in failure.message


def test_another_specification_in_the_folder_fails_the_run_by_name(tmp_path, spec, make_result):
    run = RunFolder(tmp_path, spec.run_id)
    write_spec(run, spec)
    run.spec.write_text(run.spec.read_text().replace('"seed": 0', '"seed": 5'))
    outcome = execute(spec, tmp_path, lambda s, f, p, c: make_result(int(f.name)))
    assert (outcome.status, outcome.failure.cause) == ("failed", "configuration")
    assert '"seed": 5' in outcome.failure.message and not run.result.exists() and not is_alive(run)


def test_a_result_is_published_for_its_own_run_and_once_an_attempt(tmp_path, spec, make_result):
    run = RunFolder(tmp_path, spec.run_id)
    with pytest.raises(ValueError, match="cannot be published"):
        publish(RunFolder(tmp_path, "another"), make_result())
    assert publish(run, make_result(score=0.1))
    with pytest.raises(ValueError, match="has a result already"):
        publish(run, make_result(score=0.2))
    assert read_result(run.result).metrics.score == read_result(run.attempt(1) / "result.json").metrics.score == 0.1


def test_files_keep_the_users_umask(tmp_path, spec, make_result):
    before = os.umask(0o002)
    try:
        execute(spec, tmp_path, lambda s, f, p, c: make_result(int(f.name)))
    finally:
        os.umask(before)
    run = RunFolder(tmp_path, spec.run_id)
    for path in [run.path, *run.path.rglob("*")]:
        assert path.stat().st_mode & 0o020, f"{path} is not writable for the group"


def test_an_interruption_is_recorded_and_passed_on(tmp_path, spec):
    def interrupted(given, folder, progress, control):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path, interrupted)
    assert read_failure_of(RunFolder(tmp_path, spec.run_id), 1).cause == "interrupted"


def raised_from(cause):
    """A message for the user, of an error that the system gave."""
    error = UserError(f"/data/x: cannot be read ({cause.strerror})")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (DataMissing("task.data: x: no such folder"), "data_missing"),
        (FileNotFoundError(2, "No such file or directory", "/data/x.jpg"), "data_missing"),
        (FileNotFoundError(2, "No such file or directory", "g++"), "bug"),
        (ValueError("the label 'gloomy' and the file igloo.txt are odd"), "bug"),
        (UserError("optimizer.batch_size: too large"), "configuration"),
        (MemoryError(), "out_of_host_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_host_memory"),
        (RuntimeError("[gloo] Connection closed by peer"), "communication"),
        (ValueError("surprise"), "bug"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device_failure"),
        (RuntimeError("CUDA error: unspecified launch failure"), "device_failure"),
        (
            RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"),
            "device_failure",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), "device_failure"),
        (RuntimeError("CUDA error: out of memory"), "out_of_device_memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "out_of_device_memory",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out_of_device_memory"),
        (RuntimeError("NCCL error: unhandled cuda error"), "communication"),
        (RuntimeError("CUDA error: device-side assert triggered"), "bug"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "bug"),
        (RuntimeError("CUDA error: peer access is not supported between these two devices"), "bug"),
        (RuntimeError("No CUDA GPUs are available"), "device_failure"),
        (RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"), "device_failure"),
        (UserError("compute.device: 'cuda', but torch sees no device (No CUDA GPUs are available)"), "device_failure"),
        (UserError("compute.device: 'cuda', but torch sees no device (it is a build for CPUs)"), "configuration"),
        (OSError(errno.EIO, "Input/output error"), "device_failure"),
        (OSError(errno.EROFS, "Read-only file system", "/scratch/x"), "device_failure"),
        (OSError(errno.ESTALE, "Stale file handle"), "device_failure"),
        (raised_from(OSError(errno.EIO, "Input/output error")), "device_failure"),
        (raised_from(OSError(errno.EDQUOT, "Disk quota exceeded")), "disk_full"),
        (raised_from(OSError(errno.EACCES, "Permission denied")), "configuration"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk_full"),
    ],
)
def test_causes(error, cause):
    assert cause_of(error) == cause


def test_out_of_device_memory_is_known_by_torchs_own_exception():
    import torch

    assert cause_of(torch.OutOfMemoryError("CUDA out of memory")) == "out_of_device_memory"


def test_a_full_disk_is_the_cause_on_record(tmp_path, spec, monkeypatch):
    """The record is written in the room that was kept for it, and says it for ever."""

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def train(spec, attempt, progress, control):
        monkeypatch.setattr("tensloradist.files.write_synced", full)
        raise OSError(errno.ENOSPC, "No space left on device: " + "x" * 40_000)

    outcome = execute(spec, tmp_path, train, heartbeat_seconds=0.01)
    monkeypatch.undo()
    run = RunFolder(tmp_path, spec.run_id)
    assert outcome.failure.cause == read_failure_of(run, 1).cause == "disk_full"
    assert "No space left" in read_failure_of(run, 1).message
    assert sorted(path.name for path in run.attempt(1).iterdir()) == ["attempt.json", "failure.json", "log.txt"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: "{", "damaged"),
        (lambda data: json.dumps({**data, "schema_version": 2}), "schema_version 2"),
        (lambda data: json.dumps({**data, "attempt": "x"}), "attempt"),
        (lambda data: json.dumps({**data, "extra": 1}), "extra"),
    ],
)
def test_broken_results_are_refused_by_name(tmp_path, make_result, change, says):
    path = tmp_path / "result.json"
    path.write_text(change(json.loads(make_result().model_dump_json())))
    with pytest.raises(UnreadableRecord, match=says):
        read_result(path)


def test_another_specification_under_the_same_id_shows_the_difference(tmp_path, spec):
    run = RunFolder(tmp_path, spec.run_id)
    write_spec(run, spec)
    write_spec(run, spec.model_copy(update={"compute": spec.compute.model_copy(update={"threads": 2})}))
    other = spec.model_copy(update={"seed": 7})
    with pytest.raises(UserError, match=r'-  ?"seed": 0|"seed": 7'):
        write_spec(run, other)
