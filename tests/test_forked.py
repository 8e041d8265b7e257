"""Processes that tests fork are as those that python starts: what they find, what they print, and how they end."""

import multiprocessing
import os
import signal
import subprocess

import pytest
from forked import kill_all, run_forked, start_forked

from helpers import run

pytestmark = pytest.mark.slow  # they start processes

FINDS = """
import atexit, gc, logging, os, signal, subprocess, sys, tempfile, threading
import numpy, torch
from importlib import util

atexit.register(print, "last")
numbers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
print([str(handler) for handler in numbers if handler is not signal.default_int_handler])
print(sys.argv, sys.path[0] in ("", os.getcwd()), __name__, os.getcwd(), sorted(os.environ), tempfile.gettempdir())
print([(text.encoding, text.errors, text.line_buffering) for text in (sys.stdout, sys.stderr)], sys.flags.utf8_mode)
print(torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.manual_seed(1).initial_seed())
print(torch.rand(2), logging.root.handlers, logging.root.level, logging.root.manager.disable, threading.active_count())
print(gc.isenabled(), [util.find_spec(name) for name in ("helpers", "worlds", "parse_config")])
print([name for name in ("base", "helpers", "parse_config", "worlds") if name in sys.modules])
print("told", file=sys.stderr)
if "again" in sys.argv:
    sys.stdout.write("before it\\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, print)
    logging.disable()
    logging.basicConfig()
    sys.exit(subprocess.call([sys.executable, "-c", PROGRAM, "once"], start_new_session=True))
sys.exit(7)
"""


def test_it_finds_what_a_new_process_finds(tmp_path):
    """Also in a process that it starts itself."""
    program = f"PROGRAM = {FINDS!r}\n{FINDS}"
    found = [start("-c", program, "again", cwd=tmp_path, status=7) for start in (run, run_forked)]
    assert found[0].stdout == found[1].stdout and "once" in found[0].stdout
    assert found[0].stderr == found[1].stderr == "told\ntold\n"


ENDS = {
    "pass": 0,
    "import sys; sys.exit(3)": 3,
    "import atexit, sys; atexit.register(print, 'after it', file=sys.stderr); raise SystemExit('a text')": 1,
    "1 / 0": 1,
    "print('written'); raise KeyboardInterrupt": -signal.SIGINT,
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "import os; print('never written', end=''); os._exit(5)": 5,
}


@pytest.mark.parametrize("program", ENDS)
def test_it_ends_as_a_new_process_does(program):
    around = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {program!r}]) % 256)"
    real = run("-c", around, status=ENDS[program] % 256)
    for done in (run_forked("-c", program, status=ENDS[program]), run_forked("-c", around, status=ENDS[program] % 256)):
        assert (done.stdout, done.stderr.splitlines()[-1:]) == (real.stdout, real.stderr.splitlines()[-1:])


AT_EXIT = """
import atexit, os, subprocess, sys, tempfile, threading, weakref

weakref.finalize(threading.current_thread(), print, "finalized")
atexit.register(print, "last")
kept = tempfile.TemporaryDirectory(dir=os.getcwd())


def work():
    threading.main_thread().join()
    print("the thread's work", os.path.isdir(kept.name))


threading.Thread(target=work).start()
if "again" in sys.argv:
    subprocess.run([sys.executable, "-c", PROGRAM, "once"])
    print(len(os.listdir()), "folder left")
"""


def test_it_ends_its_threads_and_then_what_is_to_be_done_at_its_end(tmp_path):
    """Also a process that it starts itself, which leaves alone what its parent has to do then."""
    program = f"PROGRAM = {AT_EXIT!r}\n{AT_EXIT}"
    real, forked = (start("-c", program, "again", cwd=tmp_path).stdout for start in (run, run_forked))
    assert sorted(real.splitlines()) == sorted(forked.splitlines()) and "1 folder left" in real
    for printed in (real, forked):
        places = [printed.rindex(text) for text in ("folder left", "the thread's work True", "last", "finalized")]
        assert places == sorted(places)
    assert not os.listdir(tmp_path)


SIGNALS = """
import os, signal, subprocess, sys

WAITS = "import sys, time\\ntry:\\n print('up', flush=True)\\n time.sleep(60)\\nexcept KeyboardInterrupt: sys.exit(9)"
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
    child = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True, start_new_session=True)
    print(child.stdout.readline(), os.getsid(child.pid) == child.pid, child.poll())
    os.killpg(child.pid, number)
    print(child.wait(), child.stdout.read())
"""


def test_signals_end_what_it_has_started():
    assert run_forked("-c", SIGNALS).stdout == run("-c", SIGNALS).stdout


def test_each_draws_random_numbers_of_its_own():
    program = (
        "import numpy, random, torch; print(torch.rand(1).item(), numpy.random.rand(), random.random(), sep='\\n')"
    )
    drawn = [number for _ in range(2) for number in run_forked("-c", program).stdout.split()]
    assert len(set(drawn)) == 6


LATE = "import time\nprint('up', flush=True)\ntime.sleep(30)\nprint('late', flush=True)"
STARTS = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {LATE!r}], start_new_session=True)
"""


def test_what_it_has_started_is_killed_with_it(tmp_path):
    reading, writing = os.pipe()
    with open(reading) as told:
        with open(writing, "w") as file:
            process = start_forked("-c", STARTS, cwd=tmp_path, output=file, errors=file)
        assert told.readline() == "up\n"
        kill_all(process)
        assert told.read() == ""  # at the end of the last process that could write


def test_what_takes_too_long_is_left_to_nobody():
    with pytest.raises(subprocess.TimeoutExpired):
        run_forked("-c", LATE, timeout=0.01)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "command", [["-X", "importtime", "-c", "pass"], ["-u", "-X", "importtime", "-c", "pass"], ["-c"], ["-h"], []]
)
def test_what_only_python_itself_can_do_is_left_to_it(command):
    program = f"import subprocess, sys; subprocess.run([sys.executable, *{command}], stdin=subprocess.DEVNULL)"
    real, forked = run("-c", program), run_forked("-c", program)
    assert real.stdout == forked.stdout and ("import time:" in real.stderr) == ("import time:" in forked.stderr)


GIVES = """
import os, subprocess, sys

reading, writing = os.pipe()
subprocess.run([sys.executable, "-c", f"import os; os.write({writing}, b'by a descriptor')"], pass_fds=[writing])
os.close(writing)
print(os.read(reading, 99), flush=True)
subprocess.run([sys.executable, "-c", "print(input())"], input="read", text=True)
settings = {"PYTHONHASHSEED": "1", "PYTHONWARNINGS": "error", "PYTHONPATH": os.getcwd()}
found = "import sys; print(hash('a'), sys.warnoptions, sys.path[1])"
subprocess.run([sys.executable, "-c", found], env={**os.environ, **settings})
found = "import sys; print(sys.dont_write_bytecode)"
subprocess.run([sys.executable, "-c", found], env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
"""


def test_what_is_given_to_it_reaches_it(tmp_path, monkeypatch):
    real, forked = (start("-c", GIVES, cwd=tmp_path) for start in (run, run_forked))
    assert real.stdout == forked.stdout and real.stderr == forked.stderr == ""
    assert "by a descriptor" in real.stdout and "read" in real.stdout
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    real, forked = (start("-c", "print(hash('a'))") for start in (run, run_forked))
    assert real.stdout == forked.stdout
