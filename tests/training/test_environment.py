"""What a shell, MPI or a notebook left in the environment changes no result; what may change one is on record."""

import os
import re
from pathlib import Path

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState

from launch.worker.children import Child
from tensloradist import environment
from tensloradist.commands import run as run_command
from tensloradist.errors import UserError
from tensloradist.spec import RunSpec
from tensloradist.training.accelerator import make_accelerator, only_the_spec, release
from tensloradist.training.provenance import provenance

RUN = """
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits, train_examples: 40}
adapter: {grouping: qkv_depth, ranks: 2}
optimizer: {epochs: 1, batch_size: 20, learning_rate: 1.0e-3, gradient_clipping: 1.0}
compute: {device: cpu, threads: 1}
"""
LEFT_OVER = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "PARALLELISM_CONFIG_TP_SIZE": "2",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "PMI_SIZE": "4",
    "PMI_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "MV2_COMM_WORLD_SIZE": "4",
    "WORLD_SIZE": "1",
    "RANK": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "a_node_of_yesterday",
}
# Read by Accelerate, too: the hardware it looks for (none of ours), where trackers log to, and what its comments say.
WITHOUT_NUMBERS = (
    "TPU_NAME|PJRT_DEVICE|USE_TORCH_XLA|XLA_.*|PYTORCH_ENABLE_MPS_FALLBACK|DEEPSPEED_USE_HPU|PT_HPU_LAZY_MODE"
    "|(MLFLOW|CLEARML|AWS)_.*|NPROC|OMP_NUM_THREADS|FOO|systemdrive"
)


@pytest.fixture(scope="module")
def expected():
    return settings()


def settings():
    """What an Accelerator made here would do."""
    spec = RunSpec.model_validate(
        {
            "backbone": {"source": "digits_vit", "name": "digits_vit"},
            "task": {"name": "digits"},
            "adapter": {"grouping": "qkv_depth", "ranks": 2},
            "compute": {"device": "cpu"},
        }
    )
    with only_the_spec(1):
        made = make_accelerator(spec, None)
        state = AcceleratorState()
        found = (
            *(made.num_processes, made.process_index, made.device, made.distributed_type, made.mixed_precision),
            *(made.gradient_accumulation_steps, state.dynamo_plugin.backend, state.deepspeed_plugins),
            *(made.parallelism_config, torch.get_float32_matmul_precision()),
        )
        release(made)
    return found


@pytest.mark.parametrize("name", LEFT_OVER)
def test_a_variable_that_was_left_over_changes_nothing_and_stays(monkeypatch, expected, name):
    monkeypatch.setenv(name, LEFT_OVER[name])
    assert settings() == expected
    assert os.environ[name] == LEFT_OVER[name], "it is somebody's"


def test_one_run_id_has_one_result_whatever_is_left_over(monkeypatch, tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    results = []
    for root in ("clean", "left_over"):
        run_command(tmp_path / "run.yaml", results=tmp_path / root)
        (folder,) = (tmp_path / root / "runs").iterdir()
        results.append((folder.name, (folder / "attempts/0001/adapter.safetensors").read_bytes()))
        for name, value in LEFT_OVER.items():
            monkeypatch.setenv(name, value)
    assert results[0] == results[1]


def test_all_that_accelerate_reads_is_hidden_or_changes_no_number():
    folder = Path(accelerate.__file__).parent
    files = [path for path in folder.rglob("*.py") if not {"test_utils", "commands"} & set(path.parts)]
    text = "\n".join(path.read_text() for path in files)
    names = set(re.findall(r"""(?:environ\.get\(|environ\[|parse_\w+_from_env\()\s*f?["'](\w+)["']""", text))
    names |= set(re.findall(r"""prefix = f?["'](\w+_)["']""", text))  # of names that are put together
    for listed in re.findall(r"get_int_from_env\(\s*\[([^\]]*)\]", text):
        names |= set(re.findall(r"\w+", listed))
    assert {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "PMI_SIZE", "FSDP_"} <= names, "this test finds them"
    read = {name for name in names if not re.fullmatch(WITHOUT_NUMBERS, name)}
    assert read - {name for name in read if name not in environment.inherited({name: "1"})} == set()


def test_a_place_counts_only_among_processes_that_were_started_together(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (environment.world_size(), environment.process_index()) == (1, 0)
    monkeypatch.setenv("RANK", "3")
    assert environment.process_index() == 0, "a rank of nobody's: else nothing would be published, and exit code 0"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (environment.world_size(), environment.process_index()) == (4, 3)
    with (
        pytest.raises(UserError, match=r"compute\.processes: 1, but 4 .* WORLD_SIZE says; unset WORLD_SIZE"),
        only_the_spec(1),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with (
        pytest.raises(UserError, match=r"2, but 1 process was started, .*; start them with `torchrun"),
        only_the_spec(2),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="RANK: 3, but WORLD_SIZE is 2"):
        environment.process_index()
    monkeypatch.setenv("WORLD_SIZE", "four")
    with pytest.raises(UserError, match="WORLD_SIZE: 'four' is not an integer of at least 1"):
        environment.world_size()


def everywhere():
    """What float32 computes in, by back end and operation."""
    backends = torch.backends
    places = {
        "cuda.matmul": backends.cuda.matmul,
        "cudnn.conv": backends.cudnn.conv,
        "cudnn.rnn": backends.cudnn.rnn,
        "cudnn": backends.cudnn,
        "mkldnn.matmul": backends.mkldnn.matmul,
        "mkldnn.conv": backends.mkldnn.conv,
        "mkldnn.rnn": backends.mkldnn.rnn,
    }
    return {name: place.fp32_precision for name, place in places.items()}


def as_in_a_new_process():
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for name in ("matmul", "conv", "rnn"):
        getattr(torch.backends.mkldnn, name).fp32_precision = "none"
    torch.backends.cudnn.fp32_precision = "none"
    torch.backends.cuda.matmul.fp32_precision = "none"


@pytest.fixture
def torch_as_it_was():
    """Runs of other tests leave explicit precisions where there were implied ones."""
    as_in_a_new_process()
    before = everywhere()
    yield
    as_in_a_new_process()
    assert everywhere() == before


CALLERS = {
    "torch's defaults": "",
    "the older way": "torch.set_float32_matmul_precision('high'); torch.backends.cudnn.allow_tf32 = True",
    "convolutions alone": "torch.backends.cudnn.allow_tf32 = False",
    "the newer way": "torch.backends.fp32_precision = 'tf32'",
    "one operation": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "both ways": "torch.set_float32_matmul_precision('high'); torch.backends.cuda.matmul.fp32_precision = 'ieee'",
    "the CPU's": "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
}


@pytest.mark.parametrize("caller", CALLERS)
def test_fp32_is_no_tf32_while_a_run_computes_and_the_callers_settings_come_back(torch_as_it_was, caller):
    exec(CALLERS[caller])
    before = everywhere()
    with only_the_spec(1):
        assert set(everywhere().values()) == {"ieee"}
        # What torch.compile reads: each raises an error where the other way was set alone.
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        assert provenance()["float32"] == {"matmul": "ieee", "convolution": "ieee"}
    assert everywhere() == before


def test_float32_in_full_is_what_the_cpu_computes_anyway():
    image, kernel = torch.randn(2, 3, 32, 32), torch.randn(8, 3, 4, 4)
    rows, state = torch.randn(5, 2, 16), torch.nn.LSTM(16, 16)

    def computed():
        return [torch.nn.functional.conv2d(image, kernel, stride=4), rows @ rows.mT, state(rows)[0]]

    before = computed()
    with only_the_spec(1):
        assert all(map(torch.equal, computed(), before))


def test_a_switch_of_torch_that_somebody_turned_is_in_the_provenance():
    assert not [name for name in provenance()["environment"] if name.startswith("torch.")]
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        found = provenance()["environment"]
    finally:
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.enable_flash_sdp(True)
    assert {name: value for name, value in found.items() if name.startswith("torch.")} == {
        "torch.backends.cudnn.benchmark": "True",
        "torch.backends.cuda.flash_sdp_enabled": "False",
    }


@pytest.mark.parametrize(
    "name",
    ["NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "MKL_CBWR", "ONEDNN_DEFAULT_FPMATH_MODE", "ATEN_CPU_CAPABILITY"]
    + ["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCHDYNAMO_DISABLE", "TIMM_FUSED_ATTN", "OPENBLAS_CORETYPE", "NCCL_ALGO"]
    + ["MKL_DEBUG_CPU_TYPE", "MIOPEN_DEBUG_CONV_DIRECT", "PYTORCH_MIOPEN_SUGGEST_NHWC", "PYTORCH_TUNABLEOP_FILENAME"]
    + ["HIPBLASLT_TUNING_OVERRIDE_FILE"],
)
def test_a_variable_that_chooses_kernels_is_in_the_provenance(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    for other in (
        "MKL_NUM_THREADS",
        "ONEDNN_VERBOSE",
        "TRITON_CACHE_DIR",
        "CUDNN_LOGINFO_DBG",
        "TRITON_DEBUG",
        "CUBLASLT_LOG_FILE",
    ):
        monkeypatch.setenv(other, "1")
    found = provenance()["environment"]
    assert found[name] == "1" and len([n for n, value in found.items() if value == "1"]) == 1


def test_a_child_of_a_worker_inherits_no_place_and_no_options(monkeypatch, tmp_path):
    for name, value in {**LEFT_OVER, "TORCHELASTIC_USE_AGENT_STORE": "True", "MY_OWN": "1"}.items():
        monkeypatch.setenv(name, value)
    child = Child(tmp_path / "log", {"RANK": "0", "WORLD_SIZE": "1"})
    try:
        given = dict(part.split("=", 1) for part in Path(f"/proc/{child.pid}/environ").read_text().split("\0") if part)
    finally:
        child.stop(0)
    assert given["MY_OWN"] == "1" and given["RANK"] == "0" and given["WORLD_SIZE"] == "1"
    assert not ({*LEFT_OVER, "TORCHELASTIC_USE_AGENT_STORE"} - {"RANK", "WORLD_SIZE"}) & set(given)
