"""Python imports this at its start if the folder is in PYTHONPATH: worker processes start as START_METHOD says.

So they do in the tests, and in all commands that a test runs. macOS and Windows have "spawn", and Linux has
"forkserver" from Python 3.14 on, which sends its processes what they need in the same way.
"""

import multiprocessing
import os

multiprocessing.set_start_method(os.environ["START_METHOD"])
