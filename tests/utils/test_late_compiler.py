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
inspect.stack()
print(is_imported(), inspect.getsourcefile(torch.nn.Linear).endswith("linear.py"))
"""
    assert printed(looks) == ["False True"]


@pytest.mark.parametrize(
    "use",
    [
        "import torch._dynamo.config",
        "from torch._dynamo import is_compiling",
        "torch.compiler.disable(step)()",
        "import torch._dynamo as late; late.reset; late.disable(step)(); late.graph_break()",
    ],
)
def test_it_is_imported_when_used(use):
    same = 'print(is_imported(), torch._dynamo is sys.modules["torch._dynamo"], torch._dynamo.__file__[-19:])'
    assert printed(f"{use}\nstep()\n{same}") == ["True True _dynamo/__init__.py"]


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

left_out(torch.ones(2))
print(is_imported())
targets = []
def backend(graph, inputs):
    targets.extend(str(node.target) for node in graph.graph.nodes)
    return graph.forward

torch.compile(lambda values: left_out(values.sin()) + 1, backend=backend)(torch.ones(2))
print(is_imported(), "sin" in targets, "cos" in targets)
"""
    assert printed(program) == ["False", "True True False"]


def test_it_is_not_deferred_if_it_is_there_already():
    program = "import torch._dynamo as there; there.reset; base.defer_compiler(); print(torch._dynamo is there)"
    lines = printed("import torch._dynamo.config\n" + program)
    assert lines == ["True"]
