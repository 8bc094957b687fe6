"""Make an environment's torchvision importable for every program, even if it was built for another torch.

`python -m tensloradist.fit_torchvision` copies `_torchvision.py` into the environment's packages, with a .pth file that
imports the copy at every start of Python.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from tensloradist import _torchvision

COPY = "_torchvision_without_cuda"  # the name of the copy among the environment's packages


def fit(packages: Path) -> None:
    """Write the copy and the .pth file into a folder of packages. Raises OSError if that is not writable."""
    source = Path(_torchvision.__file__).read_text(encoding="utf-8")
    (packages / f"{COPY}.py").write_text(source, encoding="utf-8")
    (packages / f"{COPY}.pth").write_text(f"import {COPY}\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        fit(Path(sysconfig.get_path("purelib")))
    except OSError as error:
        sys.exit(f"error: {error}; run this as the owner of the environment")
