"""The command, as `python tests/benchmarks/gpu_check`: from any folder, installed or not."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from gpu_check.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
