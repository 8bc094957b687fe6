"""Which part of a model is its task head, which is trained with the adapter.

A head is what a task adds to the pretrained base model: transformers draws it if a checkpoint lacks it, so that a
frozen head would stay random. Its parts are named by paths, of modules or of single parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensloradist.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import nn

    from tensloradist.backbones.base import Family

ADAPTER_NAME = "tensor_adapter"  # the name under which an adapter becomes a submodule of its model
POOLER, MASK = "pooler", "mask_token"
_LOADED = "_is_hf_initialized"  # how transformers marks the parameters that it has read from a checkpoint


def transformers_head(model: nn.Module, draws_pooler: bool = False) -> tuple[str, ...]:
    """Everything outside the pretrained base model, for any class of transformers, or a module around one.

    The bare base model has no head. A language model has none either, except for what a user's class adds: the layer
    that predicts its tokens is pretrained and stays frozen. Within the base model, a mask token of image models belongs
    to the head.

    Args:
        draws_pooler: whether the family is pretrained without a pooler, so that a class with a pooler draws it.

    Raises:
        UserError: the base model cannot be identified.
    """
    if can_generate(model) and hasattr(model, "get_output_embeddings"):
        return _added_to_language_model(model)
    base = _base_of(model)
    if base is None:
        return ()
    inner = model.get_submodule(base)
    drawn = [f"{base}.{path}" for path in transformers_head(inner, draws_pooler)]
    if draws_pooler and _has_parameters(getattr(inner, POOLER, None)):
        drawn.append(f"{base}.{POOLER}")
    drawn += [f"{base}.{name}" for name, _ in inner.named_parameters() if name.rpartition(".")[2] == MASK]
    others = [
        name for name, child in model.named_children() if name not in (base, ADAPTER_NAME) and _has_parameters(child)
    ]
    own = [name for name, _ in model.named_parameters(recurse=False)]
    return tuple(dict.fromkeys((*drawn, *others, *own)))


def _added_to_language_model(model: Any) -> tuple[str, ...]:
    """What a user's class adds to the pretrained model and the layer that predicts its tokens, such as a value head."""
    predicts = model.get_output_embeddings()
    known = (model.base_model_prefix, ADAPTER_NAME)
    return tuple(
        name
        for name, child in model.named_children()
        if name not in known and _has_parameters(child) and all(module is not predicts for module in child.modules())
    )


def can_generate(model: nn.Module) -> bool:
    """Whether the model is a language model according to transformers."""
    can_generate = getattr(model, "can_generate", None)
    return bool(can_generate is not None and can_generate())


def _base_of(model: nn.Module) -> str | None:
    """The name of the child that is the pretrained base model; None if the model is one itself."""
    from transformers import PreTrainedModel

    pretrained = [name for name, child in model.named_children() if isinstance(child, PreTrainedModel)]
    prefix = getattr(model, "base_model_prefix", None)
    if prefix in pretrained:
        return str(prefix)
    if len(pretrained) == 1:
        return pretrained[0]
    if pretrained or not isinstance(model, PreTrainedModel):
        children = ", ".join(name for name, child in model.named_children() if _has_parameters(child))
        raise UserError(
            f"head: the backbone and the head of {type(model).__name__} cannot be told apart; name the modules to "
            f"leave trainable, of {children}, with attach(…, head=[…]), or none with head=()"
        )
    return None


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and any(True for _ in module.parameters())


def head_of(model: nn.Module, family: Family, asked: Iterable[str] | None = None) -> tuple[str, ...]:
    """The paths of what stays trainable beside an adapter.

    Args:
        asked: names of modules (or parameters); empty for none. None: the family's head, and what transformers has
            drawn because the checkpoint lacks it: a pooler, or a language model's prediction of tokens.

    Raises:
        UserError: a name that is not in the model, or that contains an adapted layer; or the family cannot identify the
            model's head.
    """
    if asked is None:
        paths = family.head(model)
        return (*(path for path in _drawn_anew(model) if path not in paths), *paths)
    if isinstance(asked, str):
        raise UserError(f"head: {asked!r} is one text; give a list of names, such as head=[{asked!r}]")
    paths = tuple(dict.fromkeys(asked))
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters(remove_duplicate=False))
    for path in paths:
        if path not in parameters and not _has_parameters(modules.get(path) if path else None):
            likely = [name for name, module in modules.items() if _may_be_meant(name, module)]
            raise UserError(f"head: {unknown('module with parameters', path, likely)}")
        inside = next((site.path for site in family.sites(model) if is_under(site.path, path)), None)
        if inside is not None:
            raise UserError(
                f"head: {path} contains the attention layer {inside}, which an adapter adapts; leave it out"
            )
    return paths


def _may_be_meant(path: str, module: nn.Module) -> bool:
    """Whether to suggest a module as a part of a head: those of the first two levels, numbered ones left out."""
    return bool(path) and path.count(".") < 2 and not path[-1].isdigit() and _has_parameters(module)


def _drawn_anew(model: nn.Module) -> Iterator[str]:
    """Poolers, and a language model's prediction of tokens, that transformers had to draw when it loaded the model.

    Quantised weights count as loaded, whether or not they are marked.
    """
    if not any(hasattr(parameter, _LOADED) for parameter in model.parameters()):
        return
    base = _base_of(model) if can_generate(model) else None
    for path, module in model.named_modules():
        outside = base is not None and path and "." not in path and path not in (base, ADAPTER_NAME)
        parameters: list[Any] = list(module.parameters()) if outside or path.rpartition(".")[2] == POOLER else []
        if parameters and not any(hasattr(p, _LOADED) or not p.is_floating_point() for p in parameters):
            yield path


def is_under(name: str, path: str) -> bool:
    """Whether a name is the path itself or lies below it."""
    return name == path or name.startswith(f"{path}.")


def head_parameters(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters at these paths and below, in their order, by their full names in the model, each once.

    Parameters that a head shares with the backbone (a decoder tied to the input embeddings) are the backbone's.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    of_path = {path: [name for name in named if is_under(name, path)] for path in paths}
    inside = {name for names in of_path.values() for name in names}
    taken = {id(parameter) for name, parameter in named.items() if name not in inside}
    found = {}
    for name in (name for names in of_path.values() for name in names):
        if id(named[name]) not in taken:
            taken.add(id(named[name]))
            found[name] = named[name]
    return found


def head_tensors(model: nn.Module, paths: Iterable[str]) -> dict[str, Any]:
    """`head_parameters`, and the buffers of the same modules that a checkpoint keeps."""
    paths = tuple(paths)
    buffers = {}
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix=path, recurse=False):
            kept = name.rpartition(".")[2] not in module._non_persistent_buffers_set
            if kept and any(is_under(name, part) for part in paths):
                buffers[name] = buffer
    return {**head_parameters(model, paths), **buffers}
