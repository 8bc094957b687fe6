"""The initial values of a classification head, drawn from the project's own generator.

They depend on the seed and on the head's shapes alone: not on the adapter, not on what was loaded or drawn before, so
that runs of one seed start from the same head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensloradist.backbones.task_head import can_generate, head_parameters
from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_bytes, hash_tensors

if TYPE_CHECKING:
    from torch import nn

    from tensloradist.backbones.base import Family

STANDARD_DEVIATION = 0.02  # of the weights, as transformers' models initialise theirs


def initialize_head(model: nn.Module, family: Family, seed: int) -> str:
    """Draw the head anew: weights from N(0, 0.02²), biases zero; normalisation layers keep their values.

    Args:
        model: a model of the family, on any device but meta.
        seed: of the run.

    Returns:
        The hash of all parameters of the head, as they are now: what runs must share to be paired. A language model
        has no head, and the hash is that of nothing.

    Raises:
        UserError: a model without a classification head that is not a language model either.
    """
    import torch

    paths = family.head(model)
    if not paths and not can_generate(model):
        raise UserError(f"{type(model).__name__} has no classification head: load it with a number of labels")
    generator = torch.Generator().manual_seed(int(hash_bytes("head", str(seed))[:15], 16))
    parameters = head_parameters(model, paths)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.ndim > 1:
                drawn = torch.randn(parameter.shape, generator=generator) * STANDARD_DEVIATION
                parameter.copy_(drawn)
            elif name.rpartition(".")[2] == "bias":
                parameter.zero_()
    return hash_tensors(parameters)
