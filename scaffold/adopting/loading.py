"""Weights that a script loads into a model after DataParallel, as the template's test.py does with several GPUs.

The framework's checkpoints hold the weights of the bare model.
"""

import ast

from scaffold.adopting.imports import Rewritten

_IMPORT = "from utils.runs.weights import load_weights"


def load_bare_weights(place: str, text: str) -> tuple[str, list[Rewritten]]:
    """Return the text of a file with load_weights(model, weights) for such model.load_state_dict(weights).

    place: of the file, for what was rewritten. load_weights takes the weights of a bare model and of a wrapped one.
    """
    lines, done = text.split("\n"), []
    tree = ast.parse(text)
    for function in ast.walk(tree):
        if not isinstance(function, (ast.Module, ast.FunctionDef)):
            continue
        for node, of in _loads(function):
            model, weights = ast.unparse(of), ast.unparse(node.args[0])
            before, after = ast.unparse(node), f"load_weights({model}, {weights})"
            if _is_wrapped(function, model, node.lineno) and before in lines[node.lineno - 1]:
                lines[node.lineno - 1] = lines[node.lineno - 1].replace(before, after)
                done.append(Rewritten(f"{place}:{node.lineno}", before, after))
    if done:
        imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        lines.insert(max((node.end_lineno or 0 for node in imports), default=0), _IMPORT)
    return "\n".join(lines), done


def _loads(function):
    """(call, what it is called on) of load_state_dict with one argument among a function's own statements."""
    calls = [item.value for item in function.body if isinstance(item, ast.Expr) and isinstance(item.value, ast.Call)]
    for call in calls:
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "load_state_dict":
            continue
        if len(call.args) == 1 and not call.keywords:
            yield call, call.func.value


def _is_wrapped(function, model, line):
    """Whether a function assigns a DataParallel to the model before a line."""
    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign) and node.lineno < line]
    values = [node.value for node in assigned if ast.unparse(node.targets[0]) == model]
    return any(isinstance(value, ast.Call) and ast.unparse(value.func).endswith("DataParallel") for value in values)
