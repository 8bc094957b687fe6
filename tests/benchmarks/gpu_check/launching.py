"""A batch that does not fit, through `tensloradist launch`: halved until it does. And two workers on one card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_check.limits import BATCH_LIMIT, MEMORY_LIMIT
from gpu_check.part import Check
from gpu_check.report import Row
from gpu_check.runs import as_sweep, plain_run, results_in, tensloradist, written

GiB = 2**30
WORKERS = 2
BATCH = {"cuda": 128, "cpu": 16}
# Of ViT-S in fp32, 128 images take 5.2 GiB, and 64 of them 2.6 GiB (the planner's figures).
LIMITS = {"cuda": {MEMORY_LIMIT: str(3 * GiB)}, "cpu": {BATCH_LIMIT: "8"}}


def rows(check: Check) -> Iterator[Row]:
    import torch

    from tensloradist.gpus import visible_gpus

    root, batch = check.folder / "results", BATCH[check.device]
    plain = plain_run(check, updates=2, optimizer={"batch_size": batch})
    plain["task"]["name"] = "plain_limited"
    sweep = as_sweep(plain, "limited", seeds=WORKERS)
    check.say(f"launching {WORKERS} runs on {WORKERS} workers, with batches of {batch} that do not fit")
    words = ("launch", written(check, "limited", sweep), "--workers", str(WORKERS), "--results", str(root))
    done = tensloradist(check, *words, **LIMITS[check.device])
    results = results_in(root)
    if done.code or len(results) != WORKERS:
        has = f"{len(results)} of {WORKERS} runs have a result"
        yield done.row(check, "a batch that does not fit", root, has)
    else:
        yield _halved(check, root, batch)
    cards = len(visible_gpus()) or torch.cuda.device_count()
    if not check.on_gpu:
        yield check.skipped("two workers on one card", "there is no card to share")
    elif cards > 1:
        yield check.skipped("two workers on one card", f"{cards} cards here: each worker had its own")
    else:
        recorded = [result["provenance"].get("workers_per_gpu") for result in results]
        together = _trained_together(root)
        text = f"the results' provenance says workers_per_gpu: {recorded}; {'' if together else 'not '}at the same time"
        holds = together and recorded == [WORKERS] * WORKERS
        yield check.judged("two workers on one card", holds, text, workers_per_gpu=recorded)


def _trained_together(root: Path) -> bool:
    """Whether the runs' last attempts overlapped: from what their processes wrote first to what they wrote last."""
    spans = []
    for folder in _runs(root):
        attempt = max(folder.glob("attempts/*"))
        spans.append(((attempt / "provenance.json").stat().st_mtime, (folder / "result.json").stat().st_mtime))
    return max(began for began, _ in spans) < min(ended for _, ended in spans)


def _halved(check: Check, root: Path, batch: int) -> Row:
    decisions = [_read(path) for path in sorted(root.glob("runs/*/attempts/*/decision.json"))]
    halvings = [d for d in decisions if (d["cause"], d["action"]) == ("out_of_device_memory", "retry_smaller")]
    last = [
        min((_micro(path) for path in folder.glob("attempts/*/attempt.json")), default=None) for folder in _runs(root)
    ]
    stand_in = "" if check.on_gpu else " (a stand-in: the data refuses batches above 8)"
    text = (
        f"batch {batch} halved {len(halvings)} times over {WORKERS} runs, finished with micro-batches {last}{stand_in}"
    )
    holds = len(halvings) == len(decisions) and len(halvings) >= WORKERS and all(m and m < batch for m in last)
    return check.judged("a batch that does not fit", holds, text, halvings=len(halvings), micro_batches=last)


def _runs(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("runs/*/result.json"))


def _micro(attempt: Path) -> int:
    return _read(attempt)["compute"]["micro_batch"] or 10**9


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
