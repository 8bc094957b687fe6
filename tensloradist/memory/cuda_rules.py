"""CUDA's rules for tensors without data on the CPU: the precision of each autocast operation, and what kernels keep.

A CPU build of torch cannot trace a training step on 'cuda' tensors, and a CUDA build cannot choose an attention kernel
without a GPU. The few rules that determine memory are the same for all GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import _scoped_library
from torch.utils._pytree import tree_map

# The operations that CUDA's autocast computes in float32, and those that it accumulates in float32: AT_FORALL_FP32 and
# AT_FORALL_FP32_SET_OPT_DTYPE of torch's ATen/autocast_mode.h. The CPU's autocast computes only some of them in float32
# and uses bfloat16 wherever CUDA's does.
FLOAT32 = """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar pow.Tensor_Tensor
    pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm frobenius_norm.dim nuclear_norm
    nuclear_norm.dim cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss
    kl_div l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss
    triplet_margin_loss multi_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp
    upsample_nearest1d _upsample_nearest_exact1d upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_trilinear3d
    upsample_bicubic2d _upsample_bicubic2d_aa
""".split()
FLOAT32_RESULT = """
    prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm
    linalg_matrix_norm.str_ord sum sum.dim_IntList
""".split()


@contextmanager
def cuda_rules() -> Iterator[None]:
    """Within this context and FakeTensorMode, a step on CPU tensors allocates and keeps what it would on a GPU."""
    with _scoped_library("aten", "IMPL") as library:
        for names, kernel in ((FLOAT32, _in_float32), (FLOAT32_RESULT, _to_float32)):
            for name in names:
                if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCPU"):
                    library.impl(name, partial(kernel, _operation(name)), "AutocastCPU")
        library.impl("dropout", dropout, "AutogradCPU")
        library.impl("scaled_dot_product_attention", attention, "AutogradCPU")
        yield


def _operation(name: str) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    operation: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return operation


def _is_cast(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64


def _in_float32(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    args, kwargs = tree_map(lambda value: value.float() if _is_cast(value) else value, (args, kwargs))
    with torch.autocast("cpu", enabled=False):
        return operation(*args, **kwargs)


def _to_float32(operation: Callable[..., Any], *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
    if dtype is None and not any(isinstance(value, torch.dtype) for value in args) and _is_cast(args[0]):
        dtype = torch.float32
    with torch.autocast("cpu", enabled=False):
        return operation(*args, **kwargs) if dtype is None else operation(*args, dtype=dtype, **kwargs)


def dropout(x: Tensor, p: float, train: bool) -> Tensor:
    """Dropout as on CUDA, whose mask takes one byte per element; the CPU's has the input's precision."""
    return torch.native_dropout(x, p, train)[0] if train and p > 0 else x


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The kernel of `scaled_dot_product_attention` on CUDA: flash attention in half precision without a mask, else the
    memory-efficient kernel, which does not support keys shared by queries and gets them expanded."""
    if query.dim() != 4:
        kernel: Callable[..., Any] = partial(torch.ops.aten._scaled_dot_product_attention_math, enable_gqa=enable_gqa)
        given: tuple[Any, ...] = (query, key, value, attn_mask, dropout_p, is_causal)
    elif attn_mask is None and query.dtype in (torch.bfloat16, torch.float16):
        kernel = torch.ops.aten._scaled_dot_product_flash_attention
        given = (query, key, value, dropout_p, is_causal)
    elif enable_gqa:
        kernel = partial(torch.ops.aten._scaled_dot_product_attention_math, enable_gqa=True)
        given = (query, key, value, attn_mask, dropout_p, is_causal)
    else:
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        bias = attn_mask if attn_mask is None else attn_mask.to(query.dtype)
        given = (query, key, value, bias, True, dropout_p, is_causal)
    computed: Tensor = kernel(*given, scale=scale)[0]
    return computed
