"""Five runs one after another in a warm process, against the same runs in fresh ones; and what they leave in memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import torch

from gpu_check.compare import compared
from gpu_check.part import Check
from gpu_check.report import Row
from gpu_check.runs import plain_run, resolved, result_of, tensloradist, written

RUNS = 5
FRESH = (0, 4)  # seeds that are trained in a fresh process, too
UPDATES = 8
MOST_GROWTH = {"cuda": 2**20, "cpu": 32 * 2**20}  # bytes, from the second run's end to the last's


def rows(check: Check) -> Iterator[Row]:
    from tensloradist.results.execute import execute
    from tensloradist.training import train

    warm, left = check.folder / "warm", []
    plain = plain_run(check, updates=UPDATES)
    for seed in range(RUNS):
        check.say(f"warm run {seed + 1} of {RUNS}")
        result_of(execute(resolved({**plain, "seed": seed}), warm, train))
        gc.collect()
        left.append(_memory(check.device))
    yield _growth(check, left)
    for seed in FRESH:
        yield _against_fresh(check, {**plain, "seed": seed}, warm)


def _memory(device: str) -> int:
    """Bytes of tensors on the GPU; on the CPU the process's resident memory."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def _growth(check: Check, left: list[int]) -> Row:
    growth, most = left[-1] - left[1], MOST_GROWTH[check.device]
    after = ", ".join(f"{bytes_ / 2**20:.1f}" for bytes_ in left)
    what = "on the GPU" if check.on_gpu else "resident"
    text = f"{after} MiB {what} after each; {growth / 2**20:+.2f} MiB from the second on (at most {most / 2**20:.0f})"
    return check.judged(f"memory after {RUNS} warm runs", growth <= most, text, bytes=left)


def _against_fresh(check: Check, plain: dict, warm: Path) -> Row:
    from tensloradist.results.layout import RunFolder
    from tensloradist.results.publish import read_result

    name, fresh = f"warm against fresh, seed {plain['seed']}", check.folder / "fresh"
    check.say(f"a fresh process for seed {plain['seed']}")
    done = tensloradist(check, "run", written(check, f"seed{plain['seed']}", plain), "--results", str(fresh))
    if done.code:
        return done.row(check, name, fresh, "the run has no result")
    folders = [RunFolder(root, resolved(plain).run_id) for root in (warm, fresh)]
    first, second = (read_result(folder.result) for folder in folders)
    attempts = (folders[0].attempt(first.attempt), folders[1].attempt(second.attempt))
    alike, text = compared(first, second, attempts, "fp32", bits=not check.on_gpu)
    return check.judged(name, alike, text, scores=[first.metrics.score, second.metrics.score])
