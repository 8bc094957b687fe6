"""Benchmark: a training step of this checkout against one of another checkout, side by side.

A worker process for each checkout holds a model of every member, on DeiT-Tiny with the same weights and data. First
each counts the operations that torch dispatches in one step, its forward, backward and the optimiser's; they are to be
equal. Then the two take turns, a step each, the first turn alternating; the figure is the median of the ratios within a
pair, of wall time and of the process's processor time, which other programs on the machine disturb less.

    python tests/benchmarks/step_before_after.py --before ../main --pairs 15 --bound 1.03
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path

MEMBERS = {
    "lora": {"method": "lora", "ranks": 4},
    "qkv_depth": {"grouping": "qkv_depth", "ranks": 4},
    "att": {"grouping": "att", "ranks": 4},
}


def worker(backbone: str, batch: int) -> None:
    """Read a member's name or `count` and a name; answer with JSON."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    import tensloradist
    from tensloradist import backbones
    from tensloradist.adapter import attach
    from tensloradist.spec import AdapterSpec, BackboneSpec

    if Path(tensloradist.__file__).parents[1] != Path.cwd():
        sys.exit(f"{tensloradist.__file__} is not the code of {Path.cwd()}")

    class Counter(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.counts = collections.Counter()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.counts[str(function)] += 1
            return function(*args, **(kwargs or {}))

    def stepper(member):
        torch.manual_seed(0)
        model = backbones.load(BackboneSpec(source="transformers", name=backbone), 10).train()
        attach(model, AdapterSpec(**MEMBERS[member]), 0)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
        pixels = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))

        def step():
            logits = model(pixel_values=pixels).logits
            torch.nn.functional.cross_entropy(logits, torch.arange(batch) % 10).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    steps = {member: stepper(member) for member in MEMBERS}
    for step in steps.values():
        step()
    for line in sys.stdin:
        task, _, member = line.strip().rpartition(" ")
        if task == "count":
            with Counter() as counter:
                steps[member]()
            print(json.dumps(counter.counts), flush=True)
        else:
            began = time.perf_counter(), time.process_time()
            steps[member]()
            print(json.dumps([time.perf_counter() - began[0], time.process_time() - began[1]]), flush=True)


class Worker:
    def __init__(self, checkout: Path, arguments: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--worker", "--backbone", arguments.backbone]
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
        self._process = subprocess.Popen(
            [*command, "--batch", str(arguments.batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=checkout,
        )

    def ask(self, request: str):
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"a worker ended: {self._process.args}")
        return json.loads(answer)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def compare(member: str, before: Worker, after: Worker, pairs: int, bound: float) -> bool:
    """Print the member's line; whether the operations are equal and the median ratio of wall time is in the bound."""
    import numpy as np

    counts = [worker.ask(f"count {member}") for worker in (before, after)]
    took = {before: [], after: []}
    for turn in range(pairs + 1):
        for worker in (before, after) if turn % 2 else (after, before):
            took[worker].append(worker.ask(member))
    ratios = np.median((np.array(took[after]) / np.array(took[before]))[1:], axis=0)  # the first pair warms up
    differing = {name for name in counts[0] | counts[1] if counts[0].get(name) != counts[1].get(name)}
    holds = not differing and ratios[0] <= bound
    print(
        f"{member}: {sum(counts[0].values())} operations before, {sum(counts[1].values())} after"
        f"{' (' + ', '.join(sorted(differing)) + ')' if differing else ''}; median of {pairs} ratios after/before: "
        f"wall {ratios[0]:.3f}, processor {ratios[1]:.3f}; {'holds' if holds else 'DOES NOT HOLD'}",
        flush=True,
    )
    return bool(holds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--members", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--bound", type=float, default=1.03, help="of the median ratio of wall time")
    shared = Path(os.environ.get("TENSLORADIST_DATA", Path(__file__).parents[3] / "shared"))
    parser.add_argument("--backbone", default=str(shared.resolve() / "models" / "deit_tiny"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.backbone, arguments.batch)
        return 0
    if arguments.before is None:
        parser.error("--before: give the checkout to compare with")
    before, after = Worker(arguments.before, arguments), Worker(arguments.after, arguments)
    try:
        held = [compare(member, before, after, arguments.pairs, arguments.bound) for member in arguments.members]
    finally:
        before.close()
        after.close()
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
