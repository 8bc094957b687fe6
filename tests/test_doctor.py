"""The doctor's look at devices: every GPU computes what the CPU computes, in bounded time, and compilers compile."""

import sysconfig
import time

import pytest
import torch

from tensloradist import doctor, gpu_check
from tensloradist.bounded import run_bounded
from tensloradist.errors import UserError
from tensloradist.gpu_check import check_gpus, differences
from tensloradist.training.compilers import check_compiler

INSTANCES = ("MIG-c7384736", "MIG-a28ad590")
LISTING = f"""\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6)
  MIG 3g.20gb     Device  0: (UUID: {INSTANCES[0]})
  MIG 3g.20gb     Device  1: (UUID: {INSTANCES[1]})
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-d33d5d5b)
"""
# Of three GPUs one computes, one computes wrongly, and one hangs whoever touches it.
CHILD = f"""#!/bin/sh
case "$CUDA_VISIBLE_DEVICES" in
  {INSTANCES[0]}) echo '{{"gpu": "NVIDIA A100, GPU-1"}}'; echo '{{"differences": {{"fp32": 3e-7, "bf16": 0.003}}}}';;
  {INSTANCES[1]}) echo '{{"gpu": "NVIDIA A100, GPU-1"}}'; echo '{{"error": "a product is wrong"}}'; exit 1;;
  1) trap '' TERM; sleep 60;;
  *) exit 9;;
esac
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """An nvidia-smi that lists a divided card and a whole one, and no variable that says more."""
    path = tmp_path / "bin" / "nvidia-smi"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTING}END\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Stands in for the process that checks a GPU."""

    def put(text):
        path = tmp_path / "child"
        path.write_text(text)
        path.chmod(0o755)
        monkeypatch.setattr(gpu_check, "COMMAND", (str(path),))

    return put


def test_every_gpu_is_checked_and_a_sick_one_is_named(smi, child, monkeypatch, tmp_path, capsys):
    child(CHILD)
    for name in ("_versions", "_plain_imports", "_all_reduce"):
        monkeypatch.setattr(doctor, name, lambda: "")
    monkeypatch.setattr(doctor, "check_gpus", lambda: check_gpus(seconds=0.5))
    began = time.monotonic()
    assert not doctor.check_machine(tmp_path / "results"), "the exit code is 1"
    assert time.monotonic() - began < 20, "a GPU that hangs is not waited for"
    lines = capsys.readouterr().out.splitlines()
    good, wrong, hanging = (next(line for line in lines if f"GPU {name}" in line) for name in (*INSTANCES, "1"))
    assert good.startswith("ok") and "fp32 within 3e-07, bf16 within 3e-03" in good
    assert wrong.startswith("FAILED") and "(NVIDIA A100, GPU-1): a product is wrong" in wrong
    assert f"set CUDA_VISIBLE_DEVICES={INSTANCES[0]},1 to use the others" in wrong and "exclude" in wrong
    assert hanging.startswith("FAILED") and "no answer within 0.5 s" in hanging
    assert "NVIDIA A100-SXM4-40GB, GPU-d33d5d5b" in hanging, "what nvidia-smi says of it"


def test_a_check_that_crashes_is_an_error_with_its_last_word(smi, child, monkeypatch):
    child("#!/bin/sh\necho 'cudaErrorUnknown' >&2; kill -SEGV $$\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    (checked,) = check_gpus()
    assert checked.gpu.startswith("GPU 1 (NVIDIA A100") and "ended by signal 11: cudaErrorUnknown" in checked.error
    assert "use another machine" in checked.error


def test_variables_that_turn_tf32_on_do_not_reach_the_check(smi, child, monkeypatch):
    names = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
    for name in ("CUDA_VISIBLE_DEVICES", *names):
        monkeypatch.setenv(name, "1")
    child(f"""#!/bin/sh\necho "{{\\"error\\": \\"set: {" ".join(f"${name}" for name in names)}\\"}}"; exit 1\n""")
    (checked,) = check_gpus()
    assert checked.error.startswith("set:  ;")


MIXED = {"0": "NVIDIA T400, GPU-aa", "1": "NVIDIA H100, GPU-bb"}  # CUDA's 0 is the H100


@pytest.mark.parametrize(
    ("order", "described", "name", "about"),
    [
        (None, MIXED, "0", ""),
        ("PCI_BUS_ID", MIXED, "0", MIXED["0"]),
        (None, {"0": "NVIDIA H100, GPU-aa", "1": "NVIDIA H100, GPU-bb"}, "1", "NVIDIA H100, GPU-bb"),
        (None, MIXED, "GPU-b", MIXED["1"]),
    ],
    ids=["unlike", "by bus", "alike", "by UUID"],
)
def test_a_number_names_a_card_only_where_cuda_counts_as_nvidia_smi_does(monkeypatch, order, described, name, about):
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    if order:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    assert gpu_check._described(name, described) == about


def test_a_gpu_that_torch_cannot_use_is_refused_as_a_run_refuses_it(smi, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_check.main([]) == 1
    assert "torch 2" in (said := capsys.readouterr().out) and '{"refused": "compute.device' in said


@pytest.mark.parametrize(("count", "found"), [(0, 0), (2, 2)])
def test_where_nothing_names_gpus_torch_is_asked_in_a_process_of_its_own(child, monkeypatch, tmp_path, count, found):
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpu_check, "visible_gpus", lambda: ())
    child(
        f"""#!/bin/sh\n[ "$1" = --count ] && echo '{{"count": {count}}}' || echo '{{"differences": {{"fp32": 0}}}}'\n"""
    )
    checked = check_gpus()
    assert [gpu.gpu for gpu in checked] == ["GPU 0", "GPU 1"][:found] and not any(gpu.error for gpu in checked)
    child("#!/bin/sh\necho broken >&2; exit 3\n")
    with pytest.raises(UserError, match="counts torch's GPUs exited with 3: broken"):
        check_gpus()


def test_a_wrong_product_is_found(monkeypatch):
    monkeypatch.setattr(gpu_check, "SIZE", 64)
    device = torch.device("cpu")
    assert differences(device).keys() == {"fp32", "bf16"}
    monkeypatch.setattr(torch.Tensor, "cpu", lambda product: product.index_fill(0, torch.tensor([3]), float("nan")))
    with pytest.raises(ArithmeticError, match="in fp32 is wrong: .* nan of its largest entry"):
        differences(device)


def test_a_command_that_outlives_its_signals_is_not_waited_for():
    began = time.monotonic()
    ended = run_bounded(["sh", "-c", "echo begun; trap '' TERM INT; sleep 60"], 0.3)
    assert (ended.code, ended.output) == (None, "begun\n") and time.monotonic() - began < 10


@pytest.fixture
def compilers(tmp_path, monkeypatch):
    """A PATH without a compiler, and Triton."""
    check_compiler.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())

    def put(name, text):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    yield put
    check_compiler.cache_clear()


def test_triton_without_a_c_compiler_is_refused_before_a_run_begins(compilers, monkeypatch):
    with pytest.raises(UserError, match=r"compute\.compile: true needs a C compiler on CUDA.*install gcc.*set CC"):
        check_compiler("cuda")
    assert doctor.compilation("cuda")[0] == "?", "a run may do without"
    compilers("clang", "#!/bin/sh\nexit 0\n")
    assert check_compiler("cuda").startswith("Triton, with") and doctor.compilation("cuda")[0] == "ok"


def test_a_compiler_without_pythons_headers_is_refused(compilers, monkeypatch):
    compilers("gcc", "#!/bin/sh\necho '<stdin>:1:10: fatal error: Python.h: No such file or directory' >&2; exit 1\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: "/no/such/folder")
    with pytest.raises(UserError, match=r"gcc does not compile here .*Python\.h.*install Python's headers"):
        check_compiler("cuda")
    monkeypatch.setenv("CC", "/no/such/cc")
    with pytest.raises(UserError, match=r"/no/such/cc does not compile here .*No such file.*set CC to another"):
        check_compiler("cuda")
