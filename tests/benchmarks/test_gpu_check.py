"""`make gpu-check`: a part that fails, dies or hangs is said with its reason, and costs no other part."""

import importlib.metadata
import json
import os
import runpy
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gpu_check import collectives, command, launching, loop, process, steps, variants, versions
from gpu_check.command import PARTS, as_if_installed, in_order, main, run_parts, share
from gpu_check.compare import FILES, compared
from gpu_check.part import Check, Part
from gpu_check.process import run_in_process
from gpu_check.report import Report
from gpu_check.runs import Ended
from gpu_check.trace import Seen, seen
from safetensors.torch import save_file

from tensloradist import bounded

HERE = Path(__file__).parent
CHECK = HERE / "gpu_check"


def part(name, needs=()):
    return Part(name=name, module="failing_parts", question=f"{name}?", expected={"cpu": 10.0}, needs=needs)


@pytest.fixture
def environment(tmp_path):
    """Of parts in which no process can import bitsandbytes."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text("import sys\nsys.modules['bitsandbytes'] = None\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "blocked"), str(HERE)])}


def test_parts_that_fail_cost_no_other_part_and_the_file_has_what_the_table_says(tmp_path, environment, capsys):
    parts = [part(name) for name in ("raises", "crashes", "exits", "falls", "absent inside")]
    parts += [part("absent", ("json", "bitsandbytes", "no_such.library")), part("last")]
    report = Report(tmp_path / "new" / "check.json", device="cpu")
    assert run_parts(parts, report, "cpu", 300, {}, environment, tmp_path / "work", time.monotonic()) == 1
    rows = {(row.part, row.check): row for row in report.rows}
    before = {(name, "before") for name in ("raises", "crashes", "exits", "falls", "absent inside", "last")}
    assert before <= rows.keys() and all(
        rows[key].state == "holds" and rows[key].figures == {"number": 1} for key in before
    )
    found = {key[0]: (rows[key].state, rows[key].text) for key in rows.keys() - before}
    doing = "; it was at: about to be {}; its last line: "
    crashed = found.pop("crashes")
    assert crashed[0] == "falls short" and "ended by SIGSEGV" in crashed[1] and doing.format("crashes") in crashed[1]
    assert found == {
        "raises": ("falls short", "ValueError: broken on request"),
        "exits": (
            "falls short",
            f"its process ended with code 3 before it was done{doing.format('exits')}the last words",
        ),
        "falls": ("falls short", "as it should not be"),
        "absent inside": ("skipped", "not installed: bitsandbytes"),
        "absent": ("skipped", "not installed: bitsandbytes, no_such.library"),
        "last": ("holds", "still there"),
    }
    assert 'raise ValueError("broken on request")' in "".join(rows["raises", "all of it"].output)
    written, shown = json.loads(report.path.read_text()), capsys.readouterr().out
    lines = [line for line in shown.splitlines() if line.startswith(("holds ", "falls short ", "skipped "))]
    table = [f"{r['state']:11}  {r['part']:10}  {r['check']:36}  {r['text']}" for r in written["rows"]]
    assert lines[: len(table)] == table == [row.line() for row in report.rows]
    assert written["counts"] == {"holds": 7, "falls short": 4, "skipped": 2}
    assert "holds: 7, falls short: 4, skipped: 2" in shown
    assert lines[len(table) :] == [line for line in table if line.startswith("falls short")], "said again at the end"


def test_a_part_that_hangs_is_ended_with_all_that_it_has_started(tmp_path, environment):
    pid = tmp_path / "pid"
    for seconds in (1, 4, 16):  # on a busy machine a process may take that long to begin
        said = []
        found = run_in_process(
            part("hangs"),
            device="cpu",
            folder=tmp_path / f"hangs{seconds}",
            seconds=seconds,
            options={"pid": str(pid)},
            environment=environment,
            say=said.append,
        )
        *before, hung = found
        if pid.exists():
            break
    assert [(row.state, row.check) for row in before] == [("holds", "before")] and said == ["about to be hangs"]
    assert hung.state == "falls short"
    assert hung.text.startswith(f"not done after its {seconds} s; it was at: about to be hangs")
    assert hung.output == ("the last words",)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid.read_text()}/cmdline").exists() and Path(f"/proc/{pid.read_text()}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "what the part had started is still there"
        time.sleep(0.05)


def test_a_process_that_does_not_even_end_when_it_is_killed_is_not_waited_for(tmp_path, monkeypatch):
    class Stuck:
        returncode = None

        def poll(self):
            return None

        def wait(self, timeout=None):
            assert timeout is not None, "waits for ever"
            raise subprocess.TimeoutExpired("stuck", timeout)

    monkeypatch.setattr(process.subprocess, "Popen", lambda *words, **more: Stuck())
    given = {"options": {}, "environment": {}, "say": lambda text: None}
    (row,) = run_in_process(part("stuck"), device="cpu", folder=tmp_path / "stuck", seconds=0.05, **given)
    assert (row.state, row.text) == ("falls short", "not done after its 0 s")
    monkeypatch.setattr(command, "run_bounded", lambda *words: bounded.Ended(None, "", ""))
    with pytest.raises(RuntimeError, match="not told in 120 s"):
        command._probe({})


def test_it_starts_without_any_library():
    done = subprocess.run([sys.executable, "-S", "-E", str(CHECK), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "collectives" in done.stdout, done.stderr


def test_time_that_is_left_goes_to_the_parts_without_taking_that_of_later_ones():
    assert share([10, 20, 30], 60) == share([10, 20, 30], 40) == 30 and share([10, 20, 30], 8) == 8
    assert 100 < share([10, 20, 30], 600) < 600 - 20 - 30 and share([30], 600) == 600
    assert in_order(PARTS)[-1].name == "steps"
    for device, limit in (("cuda", 600), ("cpu", 240)):
        assert sum(part.expected[device] for part in PARTS) < limit


def test_mistakes_are_one_message(tmp_path, capsys):
    for arguments, message in (
        (["--parts", "10"], "no part '10'; the parts are versions, steps"),
        (["--limit", "-1"], "'-1' is no number of seconds above 0"),
        (["--members", "lroa"], "invalid choice: 'lroa'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_checkout_that_is_not_installed_has_all_commands(tmp_path):
    (found,) = importlib.metadata.distributions(path=[str(as_if_installed(tmp_path / "site"))])
    commands = found.entry_points.select(group="tensloradist.commands")
    assert found.metadata["Name"] == "tensloradist" and {"launch", "analysis"} <= {entry.name for entry in commands}
    assert callable(next(iter(commands)).load())


def event(category, name, begin, duration):
    return {"ph": "X", "cat": category, "name": name, "ts": begin, "dur": duration, "tid": 1}


def test_a_trace_gives_kernels_waits_and_the_time_at_work():
    found = seen(
        [
            event("user_annotation", "gpu_check", 0, 100),
            event("kernel", "gemm", 10, 20),
            event("kernel", "add", 20, 20),  # at the same time, for half of it
            event("gpu_memcpy", "Memcpy HtoD", 60, 20),
            event("cuda_runtime", "cudaStreamSynchronize", 50, 1),
            event("cuda_runtime", "cudaLaunchKernel", 5, 1),
            event("cuda_runtime", "cudaDeviceSynchronize", 101, 1),  # the tracer's own
            {"ph": "M", "name": "process_name"},
        ],
        on_gpu=True,
    )
    assert (found.kernels, found.copies, found.waits) == (2, 1, {"cudaStreamSynchronize": 1})
    assert found.busy == pytest.approx(50e-6)
    with pytest.raises(RuntimeError, match="has seen no kernel"):
        seen([event("user_annotation", "gpu_check", 0, 100)], on_gpu=True)


@pytest.fixture
def gpu(tmp_path):
    return Check(part="any", device="cuda", folder=tmp_path, ends=time.time() + 60)


def test_the_loop_holds_where_the_host_does_not_wait_and_the_gpu_works(gpu):
    def states(waits, busy, places=()):
        traced = Seen(kernels=500, copies=10, waits=waits, busy=busy)
        return [(row.state, row.text) for row in loop.judge(gpu, "bf16", traced, Counter(places), 0.01, 0.5)]

    assert [state for state, _ in states({}, 0.05)] == ["holds", "holds", "holds"]
    (trained, waits, idle) = states({"cudaStreamSynchronize": 15}, 0.04, ["training/loop.py:5"])
    assert trained == ("holds", "100 kernels an update, 10.0 ms each, 50.0% of the card's peak")
    assert waits[0] == "falls short" and "15 in 5 updates" in waits[1] and "training/loop.py:5 × 1" in waits[1]
    assert idle == ("falls short", "20.0% of the time (at most 10%): it works for 8.0 ms of an update")


@pytest.mark.parametrize(
    ("kernels", "seconds", "state"), [(100, 1.04, "holds"), (101, 1.0, "falls short"), (90, 1.06, "falls short")]
)
def test_steps_hold_with_no_more_kernels_and_hardly_more_time_than_pefts(gpu, kernels, seconds, state):
    found = {"peft": {"kernels": 100, "peak": 2**30}, "att": {"kernels": kernels, "peak": 2**29}}
    row = steps.judge(gpu, "vit_base, bf16", "att", False, found, {"peft": [1.0] * 3, "att": [seconds] * 3})
    assert row.state == state and row.check == "vit_base, bf16: att"
    assert row.figures["kernels_to_peft"] == kernels / 100 and row.figures["seconds_to_peft"] == seconds
    assert row.figures["peak_to_peft"] == 0.5


@pytest.mark.parametrize(
    ("other", "on_gpu", "on_cpu"),
    [(0.0, True, True), (1e-4, True, False), (1e-2, False, False), (float("nan"), False, False)],
)
def test_runs_are_alike_to_the_bit_or_on_a_gpu_nearly(tmp_path, other, on_gpu, on_cpu):
    folders = tmp_path / "first", tmp_path / "second"
    for folder, value in zip(folders, (0.0, other), strict=True):
        folder.mkdir()
        for name in FILES:
            save_file({"logits": torch.tensor([1.0, -0.5 + value])}, folder / name)
    result = SimpleNamespace(fingerprints="the same", metrics=SimpleNamespace(score=0.5))
    assert compared(result, result, folders, "fp32", bits=False)[0] == on_gpu
    assert compared(result, result, folders, "fp32", bits=True)[0] == on_cpu


def test_a_command_that_fails_is_said_with_why_its_attempts_failed_or_else_its_last_line(gpu):
    done, root = Ended(1, "planning\n\n1 failed  \n"), gpu.folder
    row = done.row(gpu, "a launch", root, "0 runs have a result")
    assert (row.state, row.text) == ("falls short", "the command ended with code 1, 0 runs have a result: 1 failed")
    assert row.output == ("planning", "1 failed")
    attempt = root / "runs" / "0123" / "attempts" / "0001"
    attempt.mkdir(parents=True)
    (attempt / "failure.json").write_text(json.dumps({"cause": "bug", "message": "broken"}))
    assert done.row(gpu, "a launch", root, "").text.endswith(": bug: broken")


def test_a_card_that_hangs_or_crashes_hides_no_other(gpu, monkeypatch, capsys):
    def run(words, seconds, environment):
        assert 0 < seconds <= 55 and "NVIDIA_TF32_OVERRIDE" not in environment
        if words[-1] == "cuda:0":
            return bounded.Ended(None, "", "")
        if words[-1] == "cuda:1":
            return bounded.Ended(-11, "", "\nXid 79\n")
        monkeypatch.setattr(sys, "argv", ["versions", "cpu"])  # what a sound card's process does
        runpy.run_module(words[2], run_name="__main__")
        return bounded.Ended(0, capsys.readouterr().out, "")

    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setattr(versions, "run_bounded", run)
    monkeypatch.setattr(versions, "_of_torch", dict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delitem(sys.modules, "gpu_check.versions")  # runpy warns of a module that it finds there
    _, hung, crashed, sound = versions.rows(gpu)
    assert hung.state == crashed.state == "falls short" and "did not end within 55 s" in hung.text
    assert crashed.text == "its process ended with code -11: Xid 79"
    assert sound.state == "holds" and sound.figures["float32"] < 1e-5


def test_one_card_is_no_group_of_ddp(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(collectives, "absent", lambda names: ["deepspeed"] if "deepspeed" in names else [])
    monkeypatch.setattr(collectives, "_collectives", lambda check, backend: check.judged(backend, True, ""))
    _, ddp, _ = collectives.rows(gpu)
    assert ddp.state == "skipped" and "no group of one process" in ddp.text


@pytest.mark.parametrize(("second", "together"), [((5, 15), True), ((10, 20), False)])
def test_workers_shared_a_card_only_where_their_runs_overlapped(tmp_path, second, together):
    for name, (began, ended) in (("first", (0, 10)), ("second", second)):
        attempt = tmp_path / "runs" / name / "attempts" / "0001"
        attempt.mkdir(parents=True)
        for path, moment in ((attempt / "provenance.json", began), (attempt.parents[1] / "result.json", ended)):
            path.touch()
            os.utime(path, (moment, moment))
    assert launching._trained_together(tmp_path) == together


@pytest.mark.parametrize(
    ("trained", "state"),
    [
        ({}, "holds"),
        ({"strategy": "single"}, "falls short"),
        ({"offload": "none"}, "falls short"),
    ],
    ids=["as asked", "strategy", "offload"],
)
def test_a_variant_holds_only_where_it_was_what_was_asked(gpu, monkeypatch, trained, state):
    found = {"strategy": "zero2", "offload": "optimizer", **trained}
    result = {
        "state": "finished",
        "provenance": {"device": "cuda:0", **found},
        "metrics": {"score": 0.5},
        "times": {"total_seconds": 1.0, "steps": 4, "step_seconds": 0.1},
    }
    monkeypatch.setattr(variants, "tensloradist", lambda *words: Ended(0, ""))
    monkeypatch.setattr(variants, "results_in", lambda root: [result])
    name = "zero2, offload optimizer"
    assert variants._of(gpu, name, variants.VARIANTS[name][1]).state == state


@pytest.mark.evidence
@pytest.mark.parametrize("blocked", [(), ("bitsandbytes", "deepspeed", "timm")], ids=["all", "few libraries"])
def test_all_of_it_on_the_cpu_from_anywhere(tmp_path, blocked):
    """As a stranger would: in another folder, without a home, with or without the libraries that are extras."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({blocked!r})\n")
    environment = {k: v for k, v in os.environ.items() if k != "HOME"} | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(CHECK), "--device", "cpu", "--limit", "1500"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing that\nfollows is about GPUs" in done.stdout
    rows = json.loads((tmp_path / "results" / "gpu-check.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {part.name for part in PARTS}
    skipped = {row["text"] for row in rows if row["text"].startswith("not installed")}
    assert skipped == {f"not installed: {name}" for name in blocked if name != "timm"}
