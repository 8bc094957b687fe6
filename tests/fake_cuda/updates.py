"""The training loop itself on a CUDA device without data; run with the device preloaded (fake_cuda.py).

Everything is the real one, from the files of a data set to the optimiser's step, but for the device, its streams and
its pinned memory. Prints one line of JSON: what made the host wait in each update, and what the streams were asked for.

    python updates.py FOLDER images|text|language
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from fake_cuda import operations, streams, tensors_without_data

from tensloradist import backbones, tasks
from tensloradist.dataless import fill
from tensloradist.results.control import RunControl
from tensloradist.spec import RunSpec
from tensloradist.tasks import examples
from tensloradist.tasks.glue import GLUE_TASKS
from tensloradist.training import loop
from tensloradist.training.accelerator import make_accelerator, only_the_spec, release
from tensloradist.training.boundary import Boundary
from tensloradist.training.build import build
from tensloradist.training.records import AttemptWriter
from tensloradist.training.strategy import Strategy


def data_of(kind: str, folder: Path) -> tuple[Any, Any]:
    """Data for four updates of four examples, and a tiny backbone."""
    folder.mkdir()
    if kind == "images":
        task = examples.image_folder(folder, each=9).model_copy(update={"augmentation": "flip_jitter"})
        return task, examples.image_backbone(folder)
    if kind == "text":
        return examples.glue_folder(folder, GLUE_TASKS["mrpc"], train=17), examples.text_backbone(folder)
    return examples.language_folder(folder, train=17), examples.language_backbone(folder)


class WithoutData(Strategy):
    """The model's tensors go to the device without their data, and what is made afterwards has none either."""

    def __init__(self, spec: RunSpec, accelerator: Any, counter: Any, stack: ExitStack) -> None:
        super().__init__(spec, accelerator)
        self._counter, self._stack = counter, stack

    def shard(self, model: torch.nn.Module) -> None:
        self._stack.enter_context(tensors_without_data(beside_others=True))
        self._stack.enter_context(self._counter)
        fill(model, torch.float32, "cuda")


def updates(kind: str, folder: Path) -> dict[str, Any]:
    task_spec, backbone = data_of(kind, folder)
    spec = RunSpec.model_validate(
        {
            "backbone": backbone.model_dump(),
            "task": task_spec.model_dump(),
            "adapter": {"grouping": "qkv_depth", "ranks": 2, "dropout": 0.1},
            "optimizer": {"epochs": 1, "batch_size": 4, "gradient_clipping": 1.0, "schedule": "cosine"},
            "compute": {"device": "cpu"},
        }
    )
    task = tasks.load(spec.task, spec.backbone)
    model = backbones.load(spec.backbone, task.num_labels)
    waits: list[list[str]] = []
    counter = operations()
    with only_the_spec(1), streams() as history, ExitStack() as stack:
        accelerator = make_accelerator(spec, folder)
        PartialState().device = accelerator.state.device = torch.device("cuda", 0)
        accelerator.device_placement = False  # the model is there already, and such tensors cannot be put elsewhere
        strategy = WithoutData(spec, accelerator, counter, stack)
        state = build(spec, task, model, strategy)

        class Counting(Boundary):
            def reached(self, within_evaluation: bool = False) -> None:
                super().reached(within_evaluation)
                waits.append(counter.waits[:])
                counter.waits.clear()

        counter.waits.clear()
        history.clear()
        boundary = Counting(state, folder, RunControl())
        loop.Loop(state, boundary, AttemptWriter(folder, True, None)).train_epoch()
        stack.close()
        release(accelerator)
    return {"waits": waits, "streams": history[:]}


def main() -> None:
    from transformers import masking_utils

    loop.LOSS_CHECK = 3

    # It asks tensors without data nothing, but those of a device.
    masking_utils.is_tracing = lambda tensor=None: False
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    print(json.dumps(updates(kind, folder / kind)))


if __name__ == "__main__":
    main()
