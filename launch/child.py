"""The earlier address of `launch.worker.child`, which workers of earlier versions start as `-m launch.child`."""

import os
import sys

from launch.worker.child import main

if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
