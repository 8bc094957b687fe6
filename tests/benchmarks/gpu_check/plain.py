"""A plugin for the check's runs: a vision transformer in plain torch, and images of patterns in noise to tell apart.

With it the project's own loop, launch and planner run where neither transformers nor timm is installed. The task
`plain_limited` lets its process have only so much of the device's memory; on the CPU, which cannot be limited so, it
refuses batches above a size, as a stand-in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gpu_check.limits import BATCH_LIMIT, MEMORY_LIMIT
from tensloradist.backbones import FAMILIES, SOURCES, Family, Site, Source
from tensloradist.backbones.base import random_weights
from tensloradist.spec import BackboneSpec, TaskSpec
from tensloradist.tasks import TASKS, LoadedTask, SplitData, Task
from tensloradist.tasks.base import accuracy

CLASSES = 10
HELD_OUT = 128  # validation and test examples each
NOISES = 64  # different noises; an example is one of them and its class's pattern


@dataclass(frozen=True)
class Size:
    image: int
    patch: int
    width: int
    depth: int
    heads: int


SIZES = {
    "tiny": Size(16, 8, 64, 2, 4),
    "small": Size(224, 16, 384, 12, 6),
    "vit_base": Size(224, 16, 768, 12, 12),
}


class Block(nn.Module):
    """Attention and feed-forward layers, each behind a normalisation: (n, tokens, width) -> the same."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.before_attention, self.before_mlp = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.query, self.key, self.value, self.output = (nn.Linear(size.width, size.width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(size.width, 4 * size.width), nn.Linear(4 * size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.before_attention(x)
        q, k, v = (p(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.before_mlp(x))))


class PlainViT(nn.Module):
    """(n, 3, image, image) -> (n, labels)."""

    def __init__(self, size: Size, labels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size.width, size.patch, size.patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size.image // size.patch) ** 2, size.width))
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, labels)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(pixel_values).flatten(2).mT + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(1)))


def _sites(model: nn.Module) -> list[Site]:
    names = {"query": "query", "key": "key", "value": "value", "output": "attention_output"}
    found = [
        (re.fullmatch(r"blocks\.(\d+)\.(query|key|value|output)", path), path) for path, _ in model.named_modules()
    ]
    return [Site(int(match[1]), (names[match[2]],), path) for match, path in found if match]


def _load(spec: BackboneSpec, num_labels: int) -> nn.Module:
    with random_weights():
        return PlainViT(SIZES[spec.name], num_labels).eval()


def _empty(spec: BackboneSpec, num_labels: int) -> nn.Module:
    with torch.device("meta"):
        return PlainViT(SIZES[spec.name], num_labels).eval()


FAMILIES["plain"] = Family(
    name="plain",
    matches=lambda model: isinstance(model, PlainViT),
    sites=_sites,
    heads=lambda model: (model.blocks[0].heads,) * 2,  # type: ignore[index, union-attr]
    head=lambda model: ("head",),
    logits=lambda model, inputs: model(inputs["pixel_values"]),
    example=lambda: (PlainViT(SIZES["tiny"], 4).eval(), {"pixel_values": torch.randn(2, 3, 16, 16)}),
)
SOURCES["plain"] = Source(
    name="plain",
    kind=lambda spec: "image",
    load=_load,
    empty=_empty,
    fingerprint=lambda spec: f"plain-{spec.name}",
    label=lambda spec: f"plain_{spec.name}",
)


class Patterns(SplitData):
    """Noise, and a faint pattern by which its class is told."""

    def __init__(self, part: int, examples: int, image: int, most: int | None) -> None:
        generator = torch.Generator().manual_seed(0)
        self._patterns = 0.3 * torch.randn(CLASSES, 3, image, image, generator=generator)
        self._noises = torch.randn(NOISES, 3, image, image, generator=generator)
        self.ids = [f"{part}-{index}" for index in range(examples)]
        self.labels = (np.arange(examples, dtype=np.int64) * 7 + part) % CLASSES
        self._part, self._most = part, most

    def batch(
        self, indices: Sequence[int] | npt.NDArray[np.int64], augment: tuple[int, int] | None
    ) -> dict[str, Tensor]:
        chosen = np.asarray(indices)
        if augment is not None and self._most is not None and len(chosen) > self._most:
            raise torch.OutOfMemoryError(f"out of memory, as if: {len(chosen)} examples, above {self._most}")
        noises = self._noises[torch.from_numpy((chosen * 3 + self._part) % NOISES)]
        return {"pixel_values": noises + self._patterns[torch.from_numpy(self.labels[chosen])]}


def _load_task(limited: bool, task: TaskSpec, backbone: BackboneSpec, protocol: str) -> LoadedTask:
    if limited and (memory := os.environ.get(MEMORY_LIMIT)):
        torch.cuda.set_per_process_memory_fraction(int(memory) / torch.cuda.mem_get_info()[1])
    most = int(os.environ[BATCH_LIMIT]) if limited and BATCH_LIMIT in os.environ else None
    sizes = (task.train_examples or HELD_OUT, HELD_OUT, HELD_OUT)
    image = SIZES[backbone.name].image
    train, validation, test = (Patterns(part, size, image, most) for part, size in enumerate(sizes))
    return LoadedTask(
        name=task.name,
        kind="image",
        num_labels=CLASSES,
        regression=False,
        train=train,
        validation=validation,
        test=test,
        primary_metric="accuracy",
        metric_names=("accuracy",),
        metrics=accuracy,
        data_fingerprint="patterns",
        classes=tuple(f"pattern {label}" for label in range(CLASSES)),
    )


def _example(folder: Path) -> tuple[TaskSpec, BackboneSpec]:
    return TaskSpec(name="plain_images"), BackboneSpec(source="plain", name="tiny")


TASKS["plain_images"] = Task(
    name="plain_images",
    kind="image",
    load=partial(_load_task, False),
    fingerprint=lambda task: "patterns",
    label=lambda task: task.name,
    num_labels=lambda task: CLASSES,
    example=_example,
    fetch=lambda task, backbone, protocol: [],
)
TASKS["plain_limited"] = replace(TASKS["plain_images"], name="plain_limited", load=partial(_load_task, True))
