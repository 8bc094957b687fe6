"""Factorisations: how one tensor of updates is made of small parameters, and how those collapse to LoRA pairs.

`FACTORIZATIONS` is a plain dict; a plugin adds an entry that follows `Factorization`.
"""

from tensloradist.factorizations.base import Factorization, Fold, Parameters, head_columns
from tensloradist.factorizations.cp import Cp
from tensloradist.factorizations.initialization import initialize, zero_of
from tensloradist.factorizations.tensor_train import TensorTrain
from tensloradist.factorizations.tucker import Lora, Tucker

FACTORIZATIONS: dict[str, Factorization] = {"lora": Lora(), "tucker": Tucker(), "cp": Cp(), "tt": TensorTrain()}

__all__ = ["FACTORIZATIONS", "Factorization", "Fold", "Parameters", "head_columns", "initialize", "zero_of"]
