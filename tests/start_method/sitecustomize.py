"""Python imports this at its start if the folder is in PYTHONPATH: worker processes start as START_METHOD says.

So they do in the tests, and in all commands that a test runs. Windows and macOS spawn processes, and so does Linux from
Python 3.14 on, all but in name.
"""

import multiprocessing
import os

multiprocessing.set_start_method(os.environ["START_METHOD"])
