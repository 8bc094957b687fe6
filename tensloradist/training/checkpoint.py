"""Checkpoint files: a training state's tensors in safetensors, the rest in JSON; nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from safetensors.torch import save as serialized

from tensloradist.files import write_synced
from tensloradist.results.checkpoints import read_state, write_checkpoint
from tensloradist.training.state import StateDict, TrainState

FILES = ("weights", "optimizer", "progress")  # the parts of a StateDict that are tensors, a file each


def save(state: TrainState, folder: Path) -> None:
    """Write the state's checkpoint into its attempt's folder; the first process writes, all take part."""
    captured = state.state_dict()

    def write(into: Path) -> list[Path]:
        paths = []
        for name in FILES:
            paths.append(into / f"{name}.safetensors")
            tensors = getattr(captured, name)
            # Cloned: tensors that share memory are not written twice, nor may they change meanwhile.
            own = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
            write_synced(paths[-1], serialized(own))  # not by save_file, whose files only their owner can read
        return paths

    if state.accelerator.is_main_process:
        write_checkpoint(folder, state.step, captured.values, write)
    state.accelerator.wait_for_everyone()


def read(folder: Path) -> StateDict:
    """The state in a (verified) checkpoint."""
    tensors = {name: load_file(folder / f"{name}.safetensors") for name in FILES}
    return StateDict(values=read_state(folder), folder=folder, **tensors)
