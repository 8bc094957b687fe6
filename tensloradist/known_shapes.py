"""Sizes of well-known backbones, for counting parameters without loading one."""

from __future__ import annotations

# name: (features of query, key and value; heads; attention layers)
KNOWN_SHAPES = {
    "vit_base": (768, 12, 12),
    "roberta_base": (768, 12, 12),
    "vit_large": (1024, 16, 24),
    "roberta_large": (1024, 16, 24),
    "deit_tiny": (192, 3, 12),
    "minilm_l6": (384, 12, 6),
}
