"""torchvision beside a torch that its operators were not built for: it is imported by any program, in any order."""

import subprocess
import sys
from pathlib import Path

import torch

from tensloradist._torchvision import TorchvisionFinder
from tensloradist.fit_torchvision import fit


def python(*lines):
    return subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)


def test_a_fitted_environment_imports_torchvision_and_nothing_of_ours(tmp_path):
    """That timm and transformers then import is what `doctor` checks."""
    fit(tmp_path)
    shown = python(
        "import site, sys",
        f"site.addsitedir({str(tmp_path)!r})",
        "assert 'torch' not in sys.modules, 'the hook costs nothing where torchvision is not imported'",
        "import torchvision.transforms",
        "print([name for name in sys.modules if name.split('.')[0] == 'tensloradist'])",
    )
    assert shown.stdout == "[]\n", shown.stderr


def test_nothing_is_declared_where_torchvision_s_own_library_loads(monkeypatch):
    """A library that loads is stood in for; the operators of another torch are not declared over it."""
    loaded, declared = [], []
    monkeypatch.setattr("tensloradist._torchvision._DECLARED", declared)
    monkeypatch.setattr(torch, "ops", Operators(loaded))
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    assert [Path(path).stem for path in loaded] == ["_C"] and not declared


class Operators:
    """torch.ops before torchvision's operators are loaded."""

    def __init__(self, loaded):
        self.torchvision = object()
        self.load_library = loaded.append


def test_other_modules_are_left_to_python():
    assert TorchvisionFinder.find_spec("timm") is None
    assert TorchvisionFinder.find_spec("torchvision.ops", ["somewhere"]) is None
