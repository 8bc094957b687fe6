"""Checks that torch.compile has what it needs, a compiler and Python's headers, before a run spends any time."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sysconfig

from tensloradist.errors import UserError

_REMEDY = "or leave compute.compile out"
_PROGRAM = "#include <Python.h>\n"  # as Triton's launchers and Inductor's kernels begin
_SECONDS = 60.0


@functools.cache  # a run asks before its data is read, and again where it compiles
def check_compiler(device_type: str) -> str:
    """Name the compiler that torch.compile uses on this device, after trying it.

    On CUDA this is Triton, which builds each kernel's launcher with a C compiler; on the CPU it is a C++ compiler.

    Args:
        device_type: cpu or cuda.

    Raises:
        UserError: there is no such compiler, or it does not compile.
    """
    if device_type == "cpu":
        compiler = _cpp_compiler()
        _check_headers(compiler, "c++")
        return compiler
    if importlib.util.find_spec("triton") is None:
        raise UserError(f"compute.compile: true needs Triton, which is not installed here; install it, {_REMEDY}")
    compiler = _c_compiler()
    _check_headers(compiler, "c")
    return f"Triton, with {compiler}"


def _cpp_compiler() -> str:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError(
            f"compute.compile: true needs a C++ compiler on the CPU, and none is found; install g++, set CXX, {_REMEDY}"
        ) from None


def _c_compiler() -> str:
    """The C compiler that Triton would choose. Raises UserError if there is none."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise UserError(
            "compute.compile: true needs a C compiler on CUDA, and none is found (neither gcc nor clang, and CC is not "
            f"set); install gcc, load its module in the profile's setup, set CC, {_REMEDY}"
        )
    return compiler


def _check_headers(compiler: str, language: str) -> None:
    """Raise UserError if the compiler does not accept a program that includes Python's headers."""
    folders = {sysconfig.get_path("include"), sysconfig.get_path("include", "posix_prefix")}
    command = [compiler, "-x", language, "-fsyntax-only", *(f"-I{folder}" for folder in sorted(folders)), "-"]
    try:
        done = subprocess.run(
            command, input=_PROGRAM, capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
        output, failed = done.stderr, done.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        output, failed = str(error), True
    if not failed:
        return
    missing = "Python.h" in output and not any(os.path.exists(f"{folder}/Python.h") for folder in folders)
    lines = output.splitlines() or ["no message"]
    reason = next((line for line in lines if "error" in line), lines[-1])
    remedy = (
        "install Python's headers (python3-dev)"
        if missing
        else "set CC to another"
        if language == "c"
        else "set CXX to another"
    )
    raise UserError(f"compute.compile: true: {compiler} does not compile here ({reason.strip()}); {remedy}, {_REMEDY}")
