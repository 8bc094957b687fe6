"""digits_vit: a tiny vision transformer that the project pretrains itself, for runs that need no download.

It learns the classes 0-4 of scikit-learn's handwritten digits (8 x 8, 16 grey levels), in seconds on a CPU; adapting
it to 5-9 is true transfer. Its fingerprint is a hash of the recipe, so that planning trains nothing; the weights are
cached, and their own hash is checked when they are read.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensloradist.backbones.base import Source, random_weights
from tensloradist.caching import cache_root
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.fingerprint import hash_bytes, hash_tensors

if TYPE_CHECKING:
    from torch import nn

    from tensloradist.spec import BackboneSpec

NAME = "digits_vit"
CLASSES = (0, 1, 2, 3, 4)
HELD_OUT = 5  # every fifth image is kept from training, to measure the accuracy that is recorded
MODEL: dict[str, Any] = {
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "initializer_range": 0.1,
}
TRAINING: dict[str, Any] = {"seed": 0, "epochs": 16, "batch_size": 32, "learning_rate": 3e-3, "weight_decay": 0.05}
# Raise the version when the recipe below changes in a way that the numbers above do not show.
RECIPE = {"version": 1, "classes": CLASSES, "held_out": HELD_OUT, "model": MODEL, "training": TRAINING}


def fingerprint(spec: BackboneSpec) -> str:
    """Hash of the recipe. Weights from one recipe may differ in their last bits between kinds of CPU."""
    _check(spec)
    return hash_bytes(NAME, json.dumps(RECIPE, sort_keys=True))


def _check(spec: BackboneSpec) -> None:
    if spec.name != NAME or spec.weights is not None or spec.revision is not None:
        raise UserError(f"backbone: source {NAME} has one model, name: {NAME}; it takes no weights and no revision")


def empty(spec: BackboneSpec, num_labels: int) -> nn.Module:
    import torch

    _check(spec)
    with torch.device("meta"):
        return _build(num_labels)


def _build(num_labels: int) -> nn.Module:
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()  # before transformers imports its image classes
    import transformers

    library: Any = transformers
    # from_config, as for every other backbone: it chooses the library's default attention.
    config = library.ViTConfig(num_labels=num_labels, **MODEL)
    model: nn.Module = library.AutoModelForImageClassification.from_config(config)
    return model.eval()


def cache_folder() -> Path:
    """Where the pretrained weights lie: below TENSLORADIST_CACHE, or ~/.cache/tensloradist."""
    return cache_root() / "backbones"


def _files() -> tuple[Path, Path]:
    stem = cache_folder() / f"{NAME}-{hash_bytes(NAME, json.dumps(RECIPE, sort_keys=True))}"
    return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def load(spec: BackboneSpec, num_labels: int) -> nn.Module:
    """The pretrained backbone with a new head; it is pretrained first if it is not in the cache.

    Raises:
        UserError: the cached weights are damaged, or the cache cannot be written.
    """
    import torch

    _check(spec)
    if spec.random_init:
        with random_weights():
            return _build(num_labels)
    weights, _ = _files()
    if not weights.is_file():
        _pretrain_into_cache()
    state = _read(weights)
    with torch.random.fork_rng(devices=[]):
        model = _build(num_labels)
    backbone = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    if num_labels == len(CLASSES):
        backbone = state
    model.load_state_dict({**model.state_dict(), **backbone})
    return model


def description() -> dict[str, Any]:
    """The cache's record of the pretrained weights: recipe, held-out accuracy, seconds, hash. Pretrains if needed."""
    weights, about = _files()
    if not weights.is_file():
        _pretrain_into_cache()
    found: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
    return found


def _read(weights: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    remedy = "delete the file, and the backbone is pretrained again"
    try:
        with safe_open(weights, framework="pt") as stream:
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  (not a dict)
            recorded = (stream.metadata() or {}).get("hash")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights}: cannot be read as safetensors ({error}); {remedy}") from error
    if hash_tensors(state) != recorded:
        raise UserError(f"{weights}: the weights are not those that were written; {remedy}")
    return state


def _pretrain_into_cache() -> None:
    """Pretrain and store. Two processes at once both pretrain, and the last to finish replaces the files."""
    from safetensors.torch import save

    weights, about = _files()
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=weights.parent):
            pass  # check that it can be written before the training, not after
        started = time.monotonic()
        model, accuracy = pretrain()
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        digest = hash_tensors(state)
        found = {
            "recipe": RECIPE,
            "held_out_accuracy": accuracy,
            "seconds": round(time.monotonic() - started, 2),
            "hash": digest,
        }
        # The weights are written last, so that the description exists if they do.
        write_replacing(about, json.dumps(found, indent=2) + "\n")
        write_replacing(weights, save(state, metadata={"hash": digest}))
    except OSError as error:
        raise UserError(
            f"{weights.parent}: the cache cannot be written ({error.strerror or error}); set "
            "TENSLORADIST_CACHE to a writable folder"
        ) from error


def _digits() -> tuple[Any, Any]:
    """Images (n, 1, 8, 8) of the pretraining classes, scaled to -1..1, and their labels."""
    import torch

    from tensloradist.embedded_digits import digits_arrays

    images, labels = digits_arrays(CLASSES)
    return torch.from_numpy(images), torch.from_numpy(labels)


def pretrain() -> tuple[nn.Module, float]:
    """Train the classifier of 0-4 from random weights, on one thread, so that it is deterministic on one kind of CPU.

    Returns:
        The model, and its accuracy on the held-out fifth (0..1).
    """
    import torch
    import torch.nn.functional as F

    images, labels = _digits()
    held_out = torch.arange(len(images)) % HELD_OUT == 0
    train_x, train_y, test_x, test_y = images[~held_out], labels[~held_out], images[held_out], labels[held_out]
    epochs, batch = TRAINING["epochs"], TRAINING["batch_size"]
    steps = epochs * (len(train_x) // batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over several threads would depend on their number
    progress = _Progress(steps)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(TRAINING["seed"])
            model = _build(len(CLASSES)).train()
            optimizer = torch.optim.AdamW(
                model.parameters(), lr=TRAINING["learning_rate"], weight_decay=TRAINING["weight_decay"]
            )
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, TRAINING["learning_rate"], total_steps=steps)
            for _ in range(epochs):
                order = torch.randperm(len(train_x))
                for first in range(0, len(train_x) - batch + 1, batch):
                    chosen = order[first : first + batch]
                    loss: Any = F.cross_entropy(model(train_x[chosen]).logits, train_y[chosen])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    progress.advance()
            model.eval()
            with torch.no_grad():
                accuracy = (model(test_x).logits.argmax(-1) == test_y).double().mean().item()
    finally:
        torch.set_num_threads(threads)
    progress.finish(accuracy)
    return model, accuracy


class _Progress:
    """One line on stderr, only if pretraining takes over two seconds."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done, self.started, self.shown = steps, 0, time.monotonic(), 0.0

    def advance(self) -> None:
        self.done += 1
        seconds = time.monotonic() - self.started
        if seconds > 2 and seconds - self.shown > 0.5 and sys.stderr.isatty():
            self.shown = seconds
            print(
                f"\rpretraining {NAME} on the digits 0-4: {100 * self.done // self.steps} %",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def finish(self, accuracy: float) -> None:
        seconds = time.monotonic() - self.started
        if seconds > 2:
            print(
                f"{chr(13) if sys.stderr.isatty() else ''}pretrained {NAME} on the digits 0-4 in {seconds:.1f} s: "
                f"{100 * accuracy:.1f} % of the held-out images are right",
                file=sys.stderr,
                flush=True,
            )


DIGITS_VIT = Source(
    name=NAME,
    kind=lambda spec: "image",
    load=load,
    empty=empty,
    fingerprint=fingerprint,
    label=lambda spec: NAME,
)
