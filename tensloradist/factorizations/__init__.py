"""Factorisations: how small parameters make up one tensor of updates, and how they collapse to LoRA pairs.

A factorisation knows everything about itself, so no other module refers to one by name. A plugin adds an entry to
`FACTORIZATIONS`, a plain dict. Only computing pairs imports torch.
"""

from tensloradist.errors import unknown
from tensloradist.factorizations.base import Factorization, Fold, Parameters, completed, head_columns
from tensloradist.factorizations.cp import Cp
from tensloradist.factorizations.tensor_train import TensorTrain
from tensloradist.factorizations.tucker import Lora, Tucker

FACTORIZATIONS: dict[str, Factorization] = {"lora": Lora(), "tucker": Tucker(), "cp": Cp(), "tt": TensorTrain()}
DEFAULT_FACTORIZATION = "tucker"  # for groupings


def factorization_named(name: str | None) -> Factorization:
    """The registered factorisation with this name.

    Raises:
        UserError: the name is not registered, or a plugin's factorisation lacks `shapes` or `pairs`.
    """
    if name not in FACTORIZATIONS:
        raise unknown("factorization", name, FACTORIZATIONS)
    return completed(FACTORIZATIONS[name], name)


def of_groupings() -> list[str]:
    """The names of the factorisations for the stacked updates of a grouping."""
    return [name for name in FACTORIZATIONS if factorization_named(name).stacks]


__all__ = [
    "DEFAULT_FACTORIZATION",
    "FACTORIZATIONS",
    "Factorization",
    "Fold",
    "Parameters",
    "factorization_named",
    "head_columns",
    "of_groupings",
]
