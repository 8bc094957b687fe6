"""`Adapter`: the adapter's tensors with their life on a model, from attachment to merging, saving and exporting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from tensloradist.adapter import adapter_files, merged_files, peft_files
from tensloradist.adapter.attachment import Attachment
from tensloradist.adapter.core import AdapterTensors
from tensloradist.errors import UserError
from tensloradist.modes import AttentionShape
from tensloradist.spec import AdapterSpec


class Adapter(AdapterTensors):
    """A member of the tensor adapter family; see `AdapterTensors` for its mathematics.

    Attributes:
        attachment: what ties it to a model; None while it is on none.
    """

    def __init__(
        self, spec: AdapterSpec, shape: AttentionShape, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(spec, shape, seed, dtype)
        self.attachment: Attachment | None = None

    def require_attachment(self) -> Attachment:
        """What ties the adapter to its model. Raises UserError if it is on none."""
        if self.attachment is None:
            raise UserError(
                "This adapter is not attached to a model: save it, and load it onto a model, or make one with attach"
            )
        return self.attachment

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the adapter, or under `full` of the backbone; without the classification head."""
        return super().num_parameters

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Those of `AdapterTensors`, and `backbone` where the method trains it."""
        groups = super().parameter_groups()
        backbone = self.attachment.trained_backbone() if self.attachment is not None else {}
        return {**groups, "backbone": list(backbone.values())} if backbone else groups

    def merge(self) -> None:
        """Add the update to the backbone's own weights, exactly; the adapter then does nothing until `unmerge`."""
        self.require_attachment().merge()

    def unmerge(self) -> None:
        """Give the backbone its own weights back, bit for bit."""
        self.require_attachment().unmerge()

    def detach(self) -> None:
        """Take the adapter off its model, which is then the frozen backbone (merged, if it was) with its head."""
        self.require_attachment().detach()
        self.attachment = None

    def save(self, folder: str | Path, backbone: str | None = None) -> None:
        """Write adapter.json and adapter.safetensors, and head.safetensors when attached. See `adapter_files`.

        Args:
            backbone: the hash of the weights that it was trained on, if it is known already.

        Raises:
            UserError: the adapter is merged, or the folder cannot be written.
        """
        try:
            save(self, Path(folder), backbone)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{folder}: the adapter cannot be saved there ({reason}); choose another folder") from error

    def export_peft(self, folder: str | Path, base_model: str | None = None, revision: str | None = None) -> None:
        """Write the attached adapter and the head as an ordinary LoRA checkpoint of PEFT. See `peft_files.write`."""
        peft_files.write(self.require_attachment(), Path(folder), base_model, revision)

    def export_merged(self, folder: str | Path, classes: Sequence[str] = (), beside: Iterable[Path] = ()) -> None:
        """Write the model with its update as a plain checkpoint of its own library. See `merged_files.write`."""
        merged_files.write(self.require_attachment(), Path(folder), classes, beside)


def save(adapter: Adapter, folder: Path, backbone: str | None = None) -> None:
    """As `Adapter.save`, but an OSError is left as it is, for those who tell a full disk from a mistake."""
    adapter_files.write(adapter, adapter.attachment, folder, backbone)
