"""Kernels, time and memory of a training step of the family's members against PEFT's LoRA, eager and compiled.

Methods of one backbone take turns, so that a ratio is of neighbours in time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product
from statistics import median
from typing import Any

import torch

from gpu_check.models import MODELS, PEFT, Method, made
from gpu_check.part import Check, absent
from gpu_check.report import Row
from gpu_check.trace import Tracer, synchronize

MOST_KERNELS, MOST_TIME = 1.0, 1.05
ROUNDS, STEPS = 7, 3  # a method's turns, and its steps in one
RESERVE_SECONDS = 12  # before the part's end nothing more is begun
DEFAULTS = {"cuda": ("vit_base", "decoder_1b"), "cpu": ("tiny", "tiny_decoder")}


def rows(check: Check) -> Iterator[Row]:
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    torch.set_float32_matmul_precision("highest")  # as the training loop has it
    for precision, compiled, model in _settings(check):
        name = f"{model}, {precision}{', compiled' if compiled else ''}"
        if compiled and check.on_gpu and absent(["triton"]):
            yield check.skipped(name, "not installed: triton")
            continue
        if check.seconds_left() < RESERVE_SECONDS:
            yield check.skipped(name, "not begun: its time is up (--limit)")
            continue
        check.say(name)
        try:
            yield from _of(check, model, precision, compiled)
        except torch.OutOfMemoryError as error:
            yield check.skipped(name, f"does not fit into this card's memory: {' '.join(str(error).split())}")
        except Exception as error:  # one of them may fail by itself
            yield check.failed(name, error)
        torch.compiler.reset()
        if check.on_gpu:
            torch.cuda.empty_cache()


def _settings(check: Check) -> Iterator[tuple[str, bool, str]]:
    """(precision, compiled, model): what is least likely to fit into the time comes last.

    On the CPU, where compiling takes longest, one backbone in one precision shows that it works.
    """
    models = check.options["models"] or DEFAULTS[check.device]
    for precision, compiled, model in product(("bf16", "fp32"), (False, True), models):
        if check.on_gpu or not compiled or (precision, model) == ("bf16", models[0]):
            yield precision, compiled, model


def _members(check: Check) -> list[str]:
    from tensloradist.modes import GROUPINGS

    chosen: list[str] = check.options["members"]
    return ["lora", *GROUPINGS] if "all" in chosen else chosen


def _of(check: Check, model_name: str, precision: str, compiled: bool) -> Iterator[Row]:
    model, device = MODELS[model_name], check.device
    network = made(model, device, precision)
    inputs, labels = model.inputs(device), torch.arange(model.batch, device=device) % 10
    methods = [Method(name, model, network, device, precision, compiled) for name in (PEFT, *_members(check))]
    for method in methods:  # all exist by now: to compile the blocks of one more is to forget what was compiled
        for _ in range(2):
            method.step(inputs, labels)
        if compiled:
            check.say(f"compiled {method.name}")
    found = {method.name: _counted(method, inputs, labels, device) for method in methods}
    seconds = _timed(methods, inputs, labels, device)
    for method in methods[1:]:
        yield judge(check, f"{model_name}, {precision}", method.name, compiled, found, seconds)


def _counted(method: Method, inputs: dict[str, torch.Tensor], labels: torch.Tensor, device: str) -> dict[str, Any]:
    """Kernels of one step, and the device's peak of memory in it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    method.step(inputs, labels)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    tracer = Tracer(device)
    tracer.start()
    method.step(inputs, labels)
    return {"kernels": tracer.stop().kernels, "peak": peak}


def _timed(
    methods: list[Method], inputs: dict[str, torch.Tensor], labels: torch.Tensor, device: str
) -> dict[str, list[float]]:
    """Seconds a step, of each turn."""
    seconds: dict[str, list[float]] = {method.name: [] for method in methods}
    for turn in range(ROUNDS):
        first = turn % len(methods)
        for method in methods[first:] + methods[:first]:
            synchronize(device)
            began = time.perf_counter()
            for _ in range(STEPS):
                method.step(inputs, labels)
            synchronize(device)
            seconds[method.name].append((time.perf_counter() - began) / STEPS)
    return seconds


def judge(
    check: Check, setting: str, name: str, compiled: bool, found: dict[str, Any], seconds: dict[str, list[float]]
) -> Row:
    """A method's step against PEFT's.

    Args:
        found: kernels and peak (bytes; None on the CPU) of a step, by method.
        seconds: a step's in each turn, by method.
    """
    ratio = median(ours / theirs for ours, theirs in zip(seconds[name], seconds[PEFT], strict=True))
    ours, theirs = found[name], found[PEFT]
    kernels = ours["kernels"] / theirs["kernels"]
    what = "kernels" if check.on_gpu else "operations"
    text = f"{ours['kernels']} {what}, {kernels:.3f} of PEFT's; "
    text += f"{1e3 * median(seconds[name]):.1f} ms, {ratio:.3f} of PEFT's"
    memory = None
    if ours["peak"] and theirs["peak"]:
        memory = ours["peak"] / theirs["peak"]
        text += f"; peak {ours['peak'] / 2**30:.2f} GiB, {memory:.3f}"
    return check.judged_on_gpu(
        f"{setting}{', compiled' if compiled else ''}: {name}",
        kernels <= MOST_KERNELS and ratio <= MOST_TIME,
        text,
        kernels=ours["kernels"],
        kernels_to_peft=kernels,
        seconds=median(seconds[name]),
        seconds_to_peft=ratio,
        peak_bytes=ours["peak"],
        peak_to_peft=memory,
    )
