"""The base class of factorisations, and shared functions: the order of head columns, products over slices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from tensloradist.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.rank_search import Ranks, RankSearch

Parameters = dict[str, "Tensor"]
Fold = Literal["left", "right"] | None
Modes = tuple[str, ...]
Sizes = tuple[int, ...]


class Factorization:
    """How small parameters make up one tensor of updates. A subclass defines at least `name`, `shapes` and `pairs`.

    `order` decides the order of the modes. The default is input, output | head_dim, heads, then projection and depth if
    stacked, or `block` if these two are fused into one mode.

    Attributes:
        name: the name in the registry and in messages.
        zero: the parameter that starts at zero, so that the update starts at zero; None: the last one.
        initialization: the default of a specification's `initialization`.
        shared_rank: whether all modes share one rank, as in LoRA and CP.
        stacks: whether it factorises the stacked updates of a grouping; False: single matrices, for the method lora.
        ordered: whether the order of the modes matters, so that a specification may set `mode_order`.
        folds: whether `pairs` supports `fold` and the fused `block` mode.
        in_cores: whether a mode's parameter is a core with three axes instead of a factor (size of the mode × rank).
        ranks_belong_to: what the ranks belong to, for messages.
    """

    name: str
    zero: str | None = None
    initialization: Literal["orthogonal", "kaiming_uniform", "normal"] = "orthogonal"
    shared_rank = False
    stacks = True
    ordered = False
    folds = False
    in_cores = False
    ranks_belong_to = "modes"

    def shapes(self, modes: Modes, sizes: Sizes, ranks: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape. A factor or core of one mode has the mode's name; 'core' belongs to all modes."""
        raise NotImplementedError(f"{type(self).__name__}.shapes")

    def pairs(self, parameters: Parameters, head_layout: str, fold: Fold = None) -> tuple[Tensor, Tensor]:
        """(A, B) with update[t, p, l] = A[t, p, l] @ B[t, p, l].

        Args:
            parameters: each stacked over T tensors, shape (T, *shape of one).
            head_layout: how (head_dim, heads) become output columns: aligned (head-major) or official.
            fold: the side that absorbs all factors of projection and layer, so that they share the other side; None:
                the factorisation chooses. Passed only if it is not None.

        Returns:
            A of shape (T, P, L, d_in, k) and B of shape (T, P, L, k, d_out). P and L are 1 if the mode is not stacked
            or all projections or layers share the matrix. A fused `block` mode takes the place of P.
        """
        raise NotImplementedError(f"{type(self).__name__}.pairs")

    def order(self, modes: Modes, head_layout: str) -> Modes:
        """The modes in the order of this factorisation."""
        return modes

    def rank_names(self, modes: Modes) -> Modes:
        """The names of one tensor's ranks, as used in a specification's `ranks`."""
        return modes

    def caps(self, modes: Modes, sizes: Sizes) -> dict[str, int]:
        """Rank name -> the largest rank that the solver assigns: the mode's size, unless the rank is shared."""
        if self.shared_rank:
            return dict.fromkeys(modes, math.prod(sizes))
        return dict(zip(modes, sizes, strict=True))

    def largest_rank(self, modes: Modes, sizes: Sizes) -> int:
        """The largest useful value if all ranks are equal: a slice's largest rank, or the tensor's if shared."""
        if self.shared_rank:
            return math.prod(sizes) // max(sizes)
        size = dict(zip(modes, sizes, strict=True))
        return min(size["input"], size["output"] if "output" in size else size["head_dim"] * size["heads"])

    def unfolding(self, modes: Modes, rank_name: str) -> Modes:
        """The modes on one side of the matrix that has this rank; the other modes are on its other side."""
        return (rank_name,)

    def solve(self, search: RankSearch, strategy: str) -> Ranks:
        """The ranks that match the search's budget under the strategy `balanced` or `uniform`."""
        if self.shared_rank:
            return search.nearest_equal()
        return search.balanced() if strategy == "balanced" else search.uniform()

    def fan_in(self, parameter: str, shape: tuple[int, ...]) -> int:
        """The fan-in of Kaiming-uniform and normal initialisation; by default nn.init's for a (d_i × r_i) matrix."""
        return shape[-1]

    def orthogonal_rows(self, shape: tuple[int, ...]) -> int:
        """The number of rows of the matrix that orthogonal initialisation draws for a parameter of this shape."""
        return shape[0]

    def count(self, modes: Modes, sizes: Sizes, ranks: Mapping[str, int]) -> int:
        """The number of parameters of one tensor."""
        return sum(map(math.prod, self.shapes(modes, sizes, ranks).values()))

    def ranks_of(self, ranks: int | Mapping[str, int], names: Modes) -> Ranks:
        """Each name's rank, from one integer for all or from a mapping.

        Raises:
            UserError: a name without a rank, an unknown name, a rank below 1, or unequal ranks if all share one.
        """
        if isinstance(ranks, int):
            ranks = dict.fromkeys(names, ranks)
        where = f"ranks: {dict(ranks)} for {self.name} with the {self.ranks_belong_to} {list(names)}"
        missing, extra = [n for n in names if n not in ranks], [n for n in ranks if n not in names]
        if missing or extra:
            what = [f"no rank for {missing}"] if missing else []
            what += [f"{extra} are not {self.ranks_belong_to}"] if extra else []
            raise UserError(f"{where}: {'; '.join(what)}")
        for name, rank in ranks.items():
            if rank < 1:
                raise UserError(f"ranks: rank {rank} of mode {name!r} must be at least 1")
        if self.shared_rank and len(set(ranks.values())) != 1:
            raise UserError(f"ranks: {dict(ranks)} for {self.name}, which has one rank for all modes {list(names)}")
        return {name: ranks[name] for name in names}


def completed(found: Any, name: str | None) -> Factorization:
    """The registered object, or, if it does not derive from `Factorization`, a `Factorization` with its attributes.

    Earlier versions did not require plugins to derive from the base class; attributes that a plugin lacks get the base
    class's defaults.

    Raises:
        UserError: it lacks its own `shapes` or `pairs`.
    """
    for needed in ("shapes", "pairs"):
        own = getattr(found, needed, None)
        if not callable(own) or getattr(own, "__func__", None) is getattr(Factorization, needed):
            raise UserError(
                f"factorization: {name!r} has no method {needed!r}; derive its class from "
                "tensloradist.factorizations.Factorization and define it"
            )
    if isinstance(found, Factorization):
        return found
    whole = Factorization()
    stated = {attribute: getattr(found, attribute) for attribute in dir(found) if not attribute.startswith("_")}
    vars(whole).update({"name": name, **stated})
    return whole


def head_columns(columns: Tensor, head_layout: str) -> Tensor:
    """Merge the last two axes (head_dim, heads) into output features.

    aligned: feature o = head * head_dim + e, as in the backbone's layers. official: o = e * heads + head, the C-order
    unfolding of the official code, whose heads mode does not match the backbone's heads.
    """
    return (columns.transpose(-1, -2) if head_layout == "aligned" else columns).flatten(-2)


def times_shared(slices: Tensor, shared: Tensor) -> Tensor:
    """(T, P, L, j, k) @ (T, 1, 1, k, d), as one product per tensor; broadcasting would copy `shared` for each slice."""
    if shared.shape[1:3] != (1, 1):
        return slices @ shared
    return slices.flatten(1, 3).bmm(shared.flatten(0, 2)).unflatten(1, slices.shape[1:4])
