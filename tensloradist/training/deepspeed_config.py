"""The DeepSpeed configuration of a run: generated from its spec, and completed by a user's file.

Neither torch nor DeepSpeed is imported, so that a file is checked before anything is started. Sizes are in elements.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensloradist.errors import UserError, unknown
from tensloradist.nested import dotted
from tensloradist.spec import RunSpec

# An adapter has few gradients, and DeepSpeed's own bucket sizes take more memory than ZeRO-3 saves on a small model.
BUCKET = 5_000_000
FETCHED_ON_GPU, LIVE_ON_GPU = 50_000_000, 500_000_000  # weights of ZeRO-3 ahead of use, and at all
PERSISTENT = 10_000  # smaller parameters (biases, normalisation) stay on every process: fetching them costs latency

# Key -> the field of the spec that decides it. A file may repeat the spec's value, but not contradict it.
OF_SPEC = {
    "train_micro_batch_size_per_gpu": "optimizer.batch_size, compute.processes and compute.micro_batch",
    "gradient_accumulation_steps": "optimizer.batch_size, compute.processes and compute.micro_batch",
    "train_batch_size": "optimizer.batch_size",
    "gradient_clipping": "optimizer.gradient_clipping",
    "zero_optimization.stage": "compute.strategy",
    "zero_optimization.offload_optimizer.device": "compute.offload",
    "zero_optimization.offload_param.device": "compute.offload",
}
# Keys that a file may not have, since they would change the result or duplicate this package -> the reason.
REFUSED = {
    "optimizer": "the optimiser is the spec's (optimizer: …)",
    "scheduler": "the schedule is the spec's (optimizer.schedule)",
    "fp16": "precision is the spec's: fp32 or bf16",
    "bf16": "precision is the spec's, and there bf16 keeps trainable weights in float32",
    "torch_autocast": "precision is the spec's",
    "amp": "precision is the spec's",
    "activation_checkpointing": "use compute.activation_checkpointing",
    "tensor_parallel": "the backbone is not split within its layers",
    "compression_training": "it changes the result",
    "data_efficiency": "it changes the result",
    "curriculum_learning": "it changes the result",
    "progressive_layer_drop": "it changes the result",
    "communication_data_type": "gradients are reduced in their own precision",
    "prescale_gradients": "it changes the result",
    "gradient_predivide_factor": "it changes the result",
    "zero_optimization.zero_quantized_weights": "it changes the result",
    "zero_optimization.zero_quantized_nontrainable_weights": "it changes the result",
    "zero_optimization.zero_quantized_gradients": "it changes the result",
    "zero_optimization.zenflow": "it changes the result",
}
# The other keys that a file may have. DeepSpeed itself ignores a misspelt key silently.
_KNOWN = """
    aio comms_logger csv_monitor data_types dump_state eigenvalue elasticity flops_profiler memory_breakdown
    steps_per_print tensorboard timers use_data_before_expert_parallel_ wall_clock_breakdown wandb
    zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
""".split()
_KNOWN_OF_ZERO = """
    allgather_bucket_size allgather_partitions allgather_sequential compute_grad_norm contiguous_gradients
    cpu_offload_use_pin_memory elastic_checkpoint enable_sanity_checks gather_16bit_weights_on_model_save
    ignore_unused_parameters leaf_module legacy_stage1 load_from_fp32_weights log_trace_cache_warnings
    memory_efficient_linear module_granularity_threshold offload_optimizer offload_param overlap_comm
    override_module_apply parameter_alignment pipeline_loading_checkpoint reduce_bucket_size reduce_scatter
    round_robin_gradients stage stage3_gather_16bit_weights_on_model_save stage3_max_live_parameters
    stage3_max_reuse_distance stage3_model_persistence_threshold stage3_module_granularity_threshold
    stage3_param_persistence_threshold stage3_prefetch_bucket_size sub_group_size use_all_reduce_for_fetch_params
    use_multi_rank_bucket_allreduce zero_hpz_partition_size
""".split()


def passes(spec: RunSpec) -> tuple[int, int]:
    """(examples per process and pass, passes per update) of a full batch, padding included."""
    share = math.ceil(spec.optimizer.batch_size / spec.compute.processes)
    micro = min(spec.compute.micro_batch or share, share)
    return micro, math.ceil(share / micro)


def deepspeed_config(spec: RunSpec, on_gpu: bool = False) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize` of a run with strategy zero1, zero2 or zero3.

    Raises:
        UserError: `compute.deepspeed_config` cannot be read, contradicts the spec, or has a key that is not allowed.
    """
    compute = spec.compute
    micro, accumulated = passes(spec)
    zero: dict[str, Any] = {
        "stage": compute.zero_stage,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if compute.zero_stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": FETCHED_ON_GPU if on_gpu else BUCKET,
            "stage3_max_live_parameters": LIVE_ON_GPU if on_gpu else BUCKET,
            "stage3_max_reuse_distance": 0,
            "stage3_param_persistence_threshold": PERSISTENT,
        }
    if compute.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if compute.offload == "cpu" and compute.zero_stage == 3:
        zero["offload_param"] = {"device": "cpu"}
    config = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulated,
        "train_batch_size": micro * accumulated * compute.processes,
        # Given even if there is no clipping, since DeepSpeed's default is 1.0.
        "gradient_clipping": spec.optimizer.gradient_clipping or 0.0,
        "zero_optimization": zero,
        # Offloaded state is updated by the optimiser of all other strategies; DeepSpeed's own has to be compiled first.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }
    if compute.deepspeed_config is None:
        return config
    return _laid_over(config, _read(Path(compute.deepspeed_config)), spec)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"compute.deepspeed_config: {path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"compute.deepspeed_config: {path} is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise UserError(f"compute.deepspeed_config: {path} holds a {type(data).__name__}, not an object")
    return data


def _laid_over(config: dict[str, Any], given: Mapping[str, Any], spec: RunSpec) -> dict[str, Any]:
    path, own = spec.compute.deepspeed_config, dict(dotted(config))
    problems = []
    for key, value in dotted(given):
        section = key.partition(".")[0]
        refused = section if section in REFUSED else ".".join(key.split(".")[:2])
        _refuse_unknown(key, Path(path or ""))
        if value == "auto":
            continue  # the spec's value, as in the files of transformers' Trainer
        if refused in REFUSED and not _is_off(key, refused, given, value):
            problems.append(f"{refused} may not be there: {REFUSED[refused]}")
        elif key in OF_SPEC and value != own.get(key, "none") and not _is_batch(key, value, spec):
            problems.append(f"{key} is {value!r}, but by the spec's {OF_SPEC[key]} it is {own.get(key, 'none')!r}")
        elif refused not in REFUSED and key != "train_batch_size":  # our own, which counts the padding, stays
            _set(config, key, value)
    if problems:
        raise UserError(
            f"compute.deepspeed_config: {path} contradicts the spec: {'; '.join(dict.fromkeys(problems))}. Change one "
            "of them, or leave it out of the file"
        )
    return config


def _refuse_unknown(key: str, path: Path) -> None:
    section, _, rest = key.partition(".")
    known = [*_KNOWN, *(name.partition(".")[0] for name in (*OF_SPEC, *REFUSED))]
    if section == "zero_optimization" and rest:
        known = [*_KNOWN_OF_ZERO, *(name.partition(".")[2] for name in REFUSED if "." in name)]
        section = rest.partition(".")[0]
    if section not in known:
        raise UserError(f"compute.deepspeed_config: {path}: {unknown('key', section, set(known))}")


def _is_off(key: str, section: str, given: Mapping[str, Any], value: Any) -> bool:
    """Whether the key is a switch that is off, or belongs to a section that is not enabled."""
    whole = given.get(section)
    return value is False if key == section else isinstance(whole, dict) and whole.get("enabled") in (False, "auto")


def _is_batch(key: str, value: Any, spec: RunSpec) -> bool:
    """Whether it is the batch size without the padding of the last share, which DeepSpeed counts."""
    return key == "train_batch_size" and value == spec.optimizer.batch_size


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        config = config.setdefault(name, {})
    config[last] = value
