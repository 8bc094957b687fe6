"""Parts for the tests of the check of GPUs: each finds one row, and then does what its name says."""

import ctypes
import subprocess
import sys
import time
from pathlib import Path


def rows(check):
    check.say(f"about to be {check.part}")
    yield check.judged("before", True, "as it should be", number=1)
    print("the last words", flush=True)
    if check.part == "raises":
        raise ValueError("broken on request")
    if check.part == "crashes":
        ctypes.string_at(0)
    if check.part == "exits":
        sys.exit(3)
    if check.part == "absent inside":
        import bitsandbytes  # noqa: F401
    if check.part == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        Path(check.options["pid"]).write_text(str(child.pid))
        time.sleep(600)
    yield check.judged(
        "after", check.part != "falls", "as it should not be" if check.part == "falls" else "still there"
    )
