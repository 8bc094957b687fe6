"""A plugin for the conformance tests: CP as plugins were written before there was a base class `Factorization`."""

import torch

from tensloradist.factorizations import FACTORIZATIONS, head_columns


class Cp:
    name, zero, shared_rank = "plugin_cp", "input", True

    def shapes(self, modes, sizes, ranks):
        return {mode: (size, ranks[mode]) for mode, size in zip(modes, sizes, strict=True)}

    def fan_in(self, parameter, shape):
        return shape[-1]

    def pairs(self, parameters, head_layout):
        tensors, _, rank = parameters["input"].shape
        weights = parameters["input"].new_ones(tensors, 1, 1, rank)
        if "projection" in parameters:
            weights = weights * parameters["projection"][:, :, None]
        if "depth" in parameters:
            weights = weights * parameters["depth"][:, None]
        if "heads" in parameters:
            right = torch.einsum("ter,thr->treh", parameters["head_dim"], parameters["heads"])
            right = head_columns(right, head_layout)
        else:
            right = parameters["output"].mT
        return parameters["input"][:, None, None], weights[..., None] * right[:, None, None]


FACTORIZATIONS["plugin_cp"] = Cp()
