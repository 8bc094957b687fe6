"""NCCL (gloo on the CPU): collectives by themselves, and through the project's own launch of several processes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from gpu_check.part import Check, absent
from gpu_check.report import Row
from gpu_check.runs import LAUNCH, as_sweep, plain_run, results_in, tensloradist, written


def rows(check: Check) -> Iterator[Row]:
    backend = "nccl" if check.on_gpu else "gloo"
    try:
        yield _collectives(check, backend)
    except Exception as error:  # the launch below is tried all the same
        yield check.failed(f"{backend}, one process", error)
    if missing := absent(LAUNCH):
        yield check.skipped("ddp through launch", f"not installed: {', '.join(missing)}")
        return
    processes = min(2, torch.cuda.device_count()) if check.on_gpu else 2
    if processes > 1:
        yield _launched(check, "ddp", processes)
    else:  # ZeRO makes a group of one process
        yield check.skipped("ddp, launch", "there is one card, and ddp makes no group of one process")
        if absent(["deepspeed"]):
            yield check.skipped("zero1, 1 process, launch", "not installed: deepspeed")
        else:
            yield _launched(check, "zero1", processes)


def _collectives(check: Check, backend: str) -> Row:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    dist.init_process_group(backend, init_method=address, rank=0, world_size=1, timeout=timedelta(seconds=60))
    try:
        device = torch.device("cuda", 0) if check.on_gpu else torch.device("cpu")
        value = torch.arange(1 << 20, dtype=torch.float32, device=device)
        expected = value.clone()
        dist.all_reduce(value)
        dist.broadcast(value, src=0)
        dist.barrier(device_ids=[0] if check.on_gpu else None)
        equal = torch.equal(value, expected)
    finally:
        dist.destroy_process_group()
    text = f"all_reduce, broadcast and barrier of 4 MiB{'' if equal else ': the numbers have changed'}"
    return check.judged(f"{backend}, one process", equal, text)


def _launched(check: Check, strategy: str, processes: int) -> Row:
    """A run of the strategy, whose results must say that so many processes have trained it."""
    counted = f"{processes} process{'es' if processes > 1 else ''}"
    name, root = f"{strategy}, {counted}, launch", check.folder / strategy
    plain = plain_run(check, updates=4, compute={"strategy": strategy, "processes": processes})
    check.say(f"launching a run of strategy {strategy}, {counted}")
    done = tensloradist(check, "launch", written(check, strategy, as_sweep(plain, strategy)), "--results", str(root))
    results = results_in(root)
    if done.code or len(results) != 1:
        return done.row(check, name, root, f"{len(results)} runs have a result")
    (result,) = results
    found, share = result["provenance"]["processes"], (result["times"]["throughput"] or {}).get("communication_share")
    shared = f", {share:.1%} of an update is communication" if share is not None else ""
    text = f"{result['state']} on {found} × {result['provenance']['device']}{shared}"
    return check.judged(name, found == processes and result["state"] == "finished", text, communication_share=share)
