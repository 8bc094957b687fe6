"""The command, as `python tests/benchmarks/gpu_check`: from any folder, installed or not."""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).parents[place]) for place in (1, 3)]

from gpu_check.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
