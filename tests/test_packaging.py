"""The wheel: built from the sources alone, it works in another folder, with its shipped sweeps."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("tensloradist", "launch", "analysis", "sweeps", "slurm"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder / "out", source], check=True)
    wheel = next((folder / "out").glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def run(installed, tmp_path, *arguments):
    env = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)


def test_the_wheel_is_what_runs(installed, tmp_path):
    where = run(installed, tmp_path, "-c", "import tensloradist, launch, analysis; print(tensloradist.__file__)")
    assert where.stdout.startswith(str(installed))


def test_the_commands_of_all_packages_and_a_shipped_sweep(installed, tmp_path):
    shown = run(installed, tmp_path, "-m", "tensloradist.cli", "plan", "demo")
    assert shown.returncode == 0, shown.stderr
    assert "90 runs" in shown.stdout and "att_qkv_depth" in shown.stdout
    assert list(tmp_path.iterdir()) == [], "planning writes nothing"
    named = run(installed, tmp_path, "-c", "from tensloradist.shipped import *; print(shipped_names('sweeps'))")
    assert "paper/vision" in named.stdout and "head_layout_dtd10" in named.stdout
    assert "report" in run(installed, tmp_path, "-m", "tensloradist.cli", "--help").stdout


def test_the_report_has_its_template_style_and_script(installed):
    for path in (ROOT / "analysis" / "report").iterdir():
        assert (installed / "analysis" / "report" / path.name).exists() or path.name == "__pycache__"


def test_imports_go_in_one_direction():
    """tensloradist imports neither; launch and analysis import each other in one place: `explain` shows runs, too."""
    for package, forbidden in {
        "tensloradist": ("launch", "analysis"),
        "launch": ("analysis",),
        "analysis": ("launch",),
    }.items():
        for path in (ROOT / package).rglob("*.py"):
            if path.is_relative_to(ROOT / "analysis" / "cli"):
                continue
            for line in path.read_text().splitlines():
                words = line.split()
                if words[:1] in (["import"], ["from"]):
                    assert words[1].split(".")[0] not in forbidden, f"{path}: {line}"


def test_the_adapters_need_no_more_than_torch_safetensors_and_pydantic():
    code = (
        "import sys\n"
        "for name in 'transformers timm datasets accelerate pandas typer rich ruamel scipy'.split():\n"
        "    sys.modules[name] = None\n"
        "import torch\n"
        "from tensloradist import Adapter, AdapterSpec, AttentionShape\n"
        "print(Adapter(AdapterSpec(grouping='att'), AttentionShape(8, 8, 2, 2)).num_parameters)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr


def test_importing_the_package_imports_no_torch():
    code = (
        "import sys, tensloradist, tensloradist.budget, tensloradist.results.publish; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
