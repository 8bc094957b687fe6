"""The base class of factorisations, and what several of them share: the order of head columns, products over slices."""

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
    """How one tensor of updates is made of small parameters. A subclass defines `name`, `shapes` and `pairs` at least.

    Modes come in the order that `order` gives them: by default input, output | head_dim, heads, then projection and
    depth where stacked, or `block` where the two are fused into one mode.

    Attributes:
        name: what it is called in messages; as in the registry.
        zero: the parameter that starts at zero, so that the update does; None: the last one.
        initialization: the default of a specification's `initialization`.
        shared_rank: whether all modes have one and the same rank, as in LoRA and CP.
        stacks: whether it factorises the stacked updates of a grouping; False: single matrices, for the method lora.
        ordered: whether the order of the modes matters, so that a specification may set `mode_order`.
        folds: whether `pairs` supports `fold` and the fused `block` mode.
        in_cores: whether a mode's parameter is a core of three axes instead of a factor (size of the mode × rank).
        ranks_belong_to: what `rank_names` names, in messages.
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
        """Parameter name -> shape. A mode's name is that mode's factor or core; 'core' is a core of all modes."""
        raise NotImplementedError(f"{type(self).__name__}.shapes")

    def pairs(self, parameters: Parameters, head_layout: str, fold: Fold = None) -> tuple[Tensor, Tensor]:
        """(A, B) with update[t, p, l] = A[t, p, l] @ B[t, p, l].

        Args:
            parameters: each stacked over T tensors, shape (T, *shape of one).
            head_layout: how (head_dim, heads) become output columns: aligned (head-major) or official.
            fold: the side that takes all factors of projection and layer, so that these share the other side; None:
                the factorisation chooses. Only passed where it is not None.

        Returns:
            A of shape (T, P, L, d_in, k) and B of shape (T, P, L, k, d_out); P and L are 1 where not stacked, and where
            all projections or layers share it. A fused `block` mode takes the place of P.
        """
        raise NotImplementedError(f"{type(self).__name__}.pairs")

    def order(self, modes: Modes, head_layout: str) -> Modes:
        """The modes in the order in which this factorisation takes them."""
        return modes

    def rank_names(self, modes: Modes) -> Modes:
        """The names of one tensor's ranks, which `ranks` of a specification uses."""
        return modes

    def caps(self, modes: Modes, sizes: Sizes) -> dict[str, int]:
        """Rank name -> the largest that the solver gives it: the mode's size, which does not bound a shared rank."""
        if self.shared_rank:
            return dict.fromkeys(modes, math.prod(sizes))
        return dict(zip(modes, sizes, strict=True))

    def largest_rank(self, modes: Modes, sizes: Sizes) -> int:
        """The largest rank that can matter where all have one: of a slice of the tensor, or if it is shared, of all."""
        if self.shared_rank:
            return math.prod(sizes) // max(sizes)
        size = dict(zip(modes, sizes, strict=True))
        return min(size["input"], size["output"] if "output" in size else size["head_dim"] * size["heads"])

    def unfolding(self, modes: Modes, rank_name: str) -> Modes:
        """The modes on one side of the matrix whose rank this is (the other modes are on its other side)."""
        return (rank_name,)

    def solve(self, search: RankSearch, strategy: str) -> Ranks:
        """The ranks that match the search's budget by the strategy `balanced` or `uniform`."""
        if self.shared_rank:
            return search.nearest_equal()
        return search.balanced() if strategy == "balanced" else search.uniform()

    def fan_in(self, parameter: str, shape: tuple[int, ...]) -> int:
        """The fan-in of Kaiming-uniform and normal initialisation: nn.init's own for a (d_i × r_i) matrix."""
        return shape[-1]

    def orthogonal_rows(self, shape: tuple[int, ...]) -> int:
        """The rows of the matrix that orthogonal initialisation takes a parameter of this shape for."""
        return shape[0]

    def count(self, modes: Modes, sizes: Sizes, ranks: Mapping[str, int]) -> int:
        """The parameters of one tensor."""
        return sum(map(math.prod, self.shapes(modes, sizes, ranks).values()))

    def ranks_of(self, ranks: int | Mapping[str, int], names: Modes) -> Ranks:
        """Each name's rank, from one integer for all or from a mapping.

        Raises:
            UserError: a name without a rank, a rank of another name or below 1, or unequal ones where all share one.
        """
        if isinstance(ranks, int):
            ranks = dict.fromkeys(names, ranks)
        where = f"ranks: {dict(ranks)} for {self.name} with the {self.ranks_belong_to} {list(names)}"
        missing, extra = [n for n in names if n not in ranks], [n for n in ranks if n not in names]
        if missing or extra:
            what = [f"no rank for {missing}"] if missing else []
            what += [f"{extra} are no {self.ranks_belong_to}"] if extra else []
            raise UserError(f"{where}: {'; '.join(what)}")
        for name, rank in ranks.items():
            if rank < 1:
                raise UserError(f"ranks: rank {rank} of mode {name!r} must be at least 1")
        if self.shared_rank and len(set(ranks.values())) != 1:
            raise UserError(f"ranks: {dict(ranks)} for {self.name}, which has one rank for all modes {list(names)}")
        return {name: ranks[name] for name in names}


def completed(found: Any, name: str | None) -> Factorization:
    """The registry's object itself, or if it does not derive from `Factorization`, one with its attributes.

    Earlier versions asked a plugin for the attributes alone; what it does not state has the defaults of the base class.

    Raises:
        UserError: it has no `shapes` or no `pairs` of its own.
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

    aligned: feature o = head * head_dim + e, as the backbone's own layers; official: o = e * heads + head, the C-order
    unfolding of the official code, whose heads mode does not match the heads.
    """
    return (columns.transpose(-1, -2) if head_layout == "aligned" else columns).flatten(-2)


def times_shared(slices: Tensor, shared: Tensor) -> Tensor:
    """(T, P, L, j, k) @ (T, 1, 1, k, d) as one product a tensor: broadcasting would copy `shared` for every slice."""
    if shared.shape[1:3] != (1, 1):
        return slices @ shared
    return slices.flatten(1, 3).bmm(shared.flatten(0, 2)).unflatten(1, slices.shape[1:4])
