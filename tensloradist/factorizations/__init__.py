"""Factorisations: how one tensor of updates is made of small parameters, and how those collapse to LoRA pairs.

Each answers all questions about itself, so that no other module asks for one by its name. A plugin adds an entry to
`FACTORIZATIONS`, a plain dict. torch is only imported to compute pairs.
"""

from tensloradist.errors import unknown
from tensloradist.factorizations.base import Factorization, Fold, Parameters, completed, head_columns
from tensloradist.factorizations.cp import Cp
from tensloradist.factorizations.tensor_train import TensorTrain
from tensloradist.factorizations.tucker import Lora, Tucker

FACTORIZATIONS: dict[str, Factorization] = {"lora": Lora(), "tucker": Tucker(), "cp": Cp(), "tt": TensorTrain()}
DEFAULT_FACTORIZATION = "tucker"  # of a grouping


def factorization_named(name: str | None) -> Factorization:
    """The registered factorisation of that name.

    Raises:
        UserError: there is none, or a plugin's has no `shapes` or no `pairs`.
    """
    if name not in FACTORIZATIONS:
        raise unknown("factorization", name, FACTORIZATIONS)
    return completed(FACTORIZATIONS[name], name)


def of_groupings() -> list[str]:
    """The names of those that factorise the stacked updates of a grouping."""
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
