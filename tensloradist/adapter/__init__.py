"""The adapter family: `Adapter` from a specification and a shape, and its life on a model."""

import tensloradist._torchvision  # noqa: F401 (before anybody imports timm or transformers' image classes)
from tensloradist.adapter.adapter import Adapter, save
from tensloradist.adapter.attaching import attach, attached_adapter, detach
from tensloradist.adapter.core import AdapterTensor
from tensloradist.adapter.loading import load

__all__ = ["Adapter", "AdapterTensor", "attach", "attached_adapter", "detach", "load", "save"]
