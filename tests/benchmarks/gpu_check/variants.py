"""Quantised backbones, and ZeRO with and without offload: a few updates each, in processes of their own."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from gpu_check.part import Check, absent
from gpu_check.report import Row
from gpu_check.runs import plain_run, results_in, tensloradist, written

UPDATES = 4
# Name -> (the library it needs, what it changes of a run).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "int8": ("bitsandbytes", {"quantization": "int8"}),
    "nf4": ("bitsandbytes", {"quantization": "nf4"}),
    "zero1": ("deepspeed", {"strategy": "zero1"}),
    "zero2": ("deepspeed", {"strategy": "zero2"}),
    "zero2, offload optimizer": ("deepspeed", {"strategy": "zero2", "offload": "optimizer"}),
    "zero3": ("deepspeed", {"strategy": "zero3"}),
    "zero3, offload cpu": ("deepspeed", {"strategy": "zero3", "offload": "cpu"}),
}


_ORDINARY = {"strategy": "single", "offload": "none"}  # where a variant asks for nothing else


def rows(check: Check) -> Iterator[Row]:
    for name, (library, _) in VARIANTS.items():
        if absent([library]):
            yield check.skipped(name, f"not installed: {library}")
    wanted = [name for name, (library, _) in VARIANTS.items() if not absent([library])]
    at_once = min(3, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(at_once) as threads:
        for done in as_completed([threads.submit(_row, check, name) for name in wanted]):
            yield done.result()


def _row(check: Check, name: str) -> Row:
    check.say(f"training with {name}")
    try:
        return _of(check, name, VARIANTS[name][1])
    except Exception as error:  # one variant may fail by itself
        return check.failed(name, error)


def _of(check: Check, name: str, changes: dict[str, Any]) -> Row:
    stem, compute = name.replace(", ", "-").replace(" ", "-"), {k: v for k, v in changes.items() if k != "quantization"}
    plain = plain_run(check, updates=UPDATES, precision="bf16", compute=compute)
    plain["backbone"]["quantization"] = changes.get("quantization")
    root = check.folder / stem
    done = tensloradist(check, "run", written(check, stem, plain), "--results", str(root))
    results = results_in(root)
    if done.code or len(results) != 1:
        return done.row(check, name, root, f"{len(results)} runs have a result")
    (result,) = results
    provenance, score = result["provenance"], result["metrics"]["score"]
    place = f"on {provenance['device']}, strategy {provenance['strategy']}, offload {provenance['offload']}"
    seconds = result["times"]["total_seconds"]
    holds = result["state"] == "finished" and score is not None and math.isfinite(score)
    holds = holds and str(provenance["device"]).startswith(check.device)
    holds = holds and all(provenance[key] == compute.get(key, default) for key, default in _ORDINARY.items())
    text = f"{result['state']} {place}: {result['times']['steps']} updates, {seconds:.1f} s, accuracy {score}"
    return check.judged(name, holds, text, seconds=seconds, step_seconds=result["times"]["step_seconds"])
