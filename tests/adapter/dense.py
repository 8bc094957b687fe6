"""The dense tensor of an adapter by tensorly, and one projection's update cut out of it by hand."""

import tensorly
import torch

from tensloradist.modes import GROUPINGS

tensorly.set_backend("pytorch")


def reconstructed(tensor, layout):
    """tensorly's dense tensor, its axes in the order of the layout's modes."""
    if len(tensor.cores):
        return tensorly.tt_to_tensor([tensor.cores[mode] for mode in layout.modes])
    factors = [tensor.factors[mode] for mode in layout.modes]
    if tensor.core is not None:
        return tensorly.tucker_to_tensor((tensor.core, factors))
    return tensorly.cp_to_tensor((tensor.weights, factors))


def heads_merged(full, modes, official):
    """(input, …, output features): the heads' modes laid out one column at a time."""
    if "heads" not in modes:
        return full
    heads, dims = full.shape[1], full.shape[2]
    if official:
        columns = [full[:, h, e] for e in range(dims) for h in range(heads)]
    else:
        columns = [full[:, h, e] for h in range(heads) for e in range(dims)]
    return torch.stack(columns, dim=1)


def averaged(matrix, shape, projection, official):
    """Key and value under grouped-query attention: means over the query heads that share one of theirs."""
    kv = shape.heads_of(projection)
    repeats, dim = shape.heads // kv, shape.head_dim
    head = [matrix[:, h * dim : (h + 1) * dim] for h in range(shape.heads)]
    if official:
        groups = [[head[g + kv * i] for i in range(repeats)] for g in range(kv)]
    else:
        groups = [[head[g * repeats + i] for i in range(repeats)] for g in range(kv)]
    return torch.cat([torch.stack(group).mean(0) for group in groups], dim=1)


def dense(adapter, projection, layer):
    """One projection's update, multiplier not included."""
    shape, spec, grouping = adapter.shape, adapter.spec, GROUPINGS[adapter.spec.grouping]
    official = spec.head_layout == "official"
    serving = [
        (layout, tensor)
        for layout, tensor in zip(adapter.arrangement.tensors, adapter.tensors, strict=True)
        if projection in layout.projections and layer in layout.layers
    ]
    ((layout, tensor),) = serving
    full, modes = reconstructed(tensor, layout), list(layout.modes)

    def cut(mode, index):
        nonlocal full
        full = full.select(modes.index(mode), index)
        modes.remove(mode)

    if "depth" in modes:
        cut("depth", layer)
    if "projection" in modes:
        cut("projection", layout.projections.index(projection))
    if "block" in modes:
        widths = [4 if p in ("fc1", "fc2") else 1 for p in layout.projections]
        place = layout.projections.index(projection)
        first = layer * sum(widths) + sum(widths[:place])
        full = full.movedim(modes.index("block"), 0)[first : first + widths[place]]
        modes.remove("block")
        chunks = [heads_merged(c.permute(*(modes.index(m) for m in _canonical(modes))), modes, official) for c in full]
        if projection == "fc1":
            return torch.cat(chunks, dim=1)
        if projection == "fc2":
            return torch.cat([c.T if grouping.att else c for c in chunks], dim=0)
        matrix = chunks[0]
    else:
        matrix = heads_merged(full.permute(*(modes.index(m) for m in _canonical(modes))), modes, official)
    if grouping.qkv and shape.heads_of(projection) != shape.heads:
        matrix = averaged(matrix, shape, projection, official)
    own = projection == "attention_output" and not spec.fused and spec.head_side == "own"
    return matrix.T if grouping.att and (own or spec.head_side == "input") else matrix


def _canonical(modes):
    return [mode for mode in ("input", "heads", "head_dim", "output") if mode in modes]
