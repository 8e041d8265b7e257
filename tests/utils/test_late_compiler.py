import subprocess
import sys

import pytest

from helpers import PROJECT

# Each in a process of its own, since pytest's may have imported the compiler.
HEAD = """
import inspect, sys, threading
import torch
import base

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)

def step():
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()

def is_imported():
    return "torch._dynamo.eval_frame" in sys.modules

step()
schedule.step()
"""


def printed(program):
    result = subprocess.run([sys.executable, "-c", HEAD + program], cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split("\n")[:-1]


def test_a_step_does_not_import_the_compiler_and_neither_does_looking_at_all_modules():
    looks = """
for module in list(sys.modules.values()):
    inspect.getmodule(module)
    hasattr(module, "__wrapped__"), hasattr(module, "__path__")
inspect.stack()
print(is_imported(), inspect.getsourcefile(torch.nn.Linear).endswith("linear.py"), torch._dynamo.__file__[-19:])
"""
    assert printed(looks) == ["False True _dynamo/__init__.py"]


@pytest.mark.parametrize(
    "use",
    [
        "import torch._dynamo.config",
        "from torch._dynamo import is_compiling",
        "from torch._dynamo import *; OptimizedModule",
        "import torch._dynamo.backends.registry as registry; assert registry is torch._dynamo.backends.registry",
        "torch.compiler.disable(step)()",
        "import torch._dynamo as late; late.reset; late.disable(step)(); late.graph_break()",
    ],
)
def test_it_is_imported_when_used(use):
    same = 'print(is_imported(), torch._dynamo is sys.modules["torch._dynamo"], torch._dynamo.__file__[-19:])'
    assert printed(f"{use}\nstep()\n{same}") == ["True True _dynamo/__init__.py"]


def test_what_is_below_it_is_executed_once():
    same = """
print(config is torch._dynamo.config, config is torch._dynamo.convert_frame.config, config.__spec__.loader)
print(torch._dynamo.config is importlib.import_module("torch._dynamo.config"))
try:
    import torch._dynamo.nothing
except ModuleNotFoundError as error:
    print(error)
"""
    lines = printed("import importlib\nimport torch._dynamo.config as config\n" + same)
    assert lines[0].startswith("True True <_frozen_importlib_external.SourceFileLoader")
    assert lines[1:] == ["True", "No module named 'torch._dynamo.nothing'"]


def test_what_is_not_below_it_is_not_found():
    program = """
try:
    import torch._dynamo.nothing
except ModuleNotFoundError as error:
    print(error, torch._dynamo.config.recompile_limit)
"""
    assert printed(program) == ["No module named 'torch._dynamo.nothing' 8"]


def test_what_is_set_on_it_is_set_on_the_compiler():
    program = """
from unittest.mock import patch
import torch._dynamo as late

with patch("torch._dynamo.is_compiling", lambda: 5):
    print(torch._dynamo.is_compiling(), sys.modules["torch._dynamo"].is_compiling())
print(late.is_compiling(), torch._dynamo.is_compiling())
late.our_own = 6
print(sys.modules["torch._dynamo"].our_own, "our_own" in dir(late))
del late.our_own
print(hasattr(torch._dynamo, "our_own"))
"""
    assert printed(program) == ["5 5", "False False", "6 True", "False"]


def test_an_import_that_fails_says_why_and_is_tried_again():
    program = """
import importlib.abc
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch._dynamo.convert_frame":
            raise ImportError("broken")
broken = Broken()
sys.meta_path.insert(0, broken)
for _ in range(2):
    try:
        torch.compile(step)()
    except ImportError as error:
        print(error)
sys.meta_path.remove(broken)
torch._dynamo.reset()
step()
"""
    assert printed(program) == ["broken", "broken"]


def test_threads_that_use_it_first_at_once_get_it_whole():
    program = """
failed = []
def use():
    try:
        torch._dynamo.config.recompile_limit, torch._dynamo.optimize, torch.compile(step)
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=use) for _ in range(16)]
sys.setswitchinterval(1e-6)
for thread in threads: thread.start()
for thread in threads: thread.join()
print(failed, is_imported())
"""
    assert printed(program) == ["[] True"]


def test_a_function_that_torch_leaves_uncompiled_stays_so_if_it_ran_before_the_import():
    program = """
@torch._disable_dynamo
def left_out(values):
    return values.cos()

@torch._disable_dynamo(recursive=False)
def left_out_alone(values):
    return values.tan()

both = lambda values: left_out_alone(left_out(values))
BEFORE
print(is_imported())
graphs = []
def backend(graph, inputs):
    graphs.append([str(node.target) for node in graph.graph.nodes if node.op.startswith("call")])
    return graph.forward

torch.compile(lambda values: both(values.sin()) + 1, backend=backend)(torch.ones(2))
print(is_imported(), graphs)
graphs.clear()
torch.compile(lambda values: both(values) + 1, backend=backend)(torch.ones(2))
print(graphs)
print(torch._dynamo.utils.counters["frames"]["total"])
"""
    late = printed(program.replace("BEFORE", "both(torch.ones(2))"))
    assert late[0] == "False" and "sin" in late[1] and "cos" not in late[1]
    assert late[1:] == printed(program.replace("BEFORE", "import torch._dynamo.config"))[1:]


def test_it_is_not_deferred_if_it_is_there_already():
    program = "import torch._dynamo as there; there.reset; base.defer_compiler(); print(torch._dynamo is there)"
    lines = printed("import torch._dynamo.config\n" + program)
    assert lines == ["True"]
