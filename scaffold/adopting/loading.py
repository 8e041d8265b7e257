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
            before, model, weights = (ast.get_source_segment(text, part) or "" for part in (node, of, node.args[0]))
            after = f"load_weights({model}, {weights})"
            if _is_wrapped(function, ast.unparse(of), node.lineno) and before in lines[node.lineno - 1]:
                lines[node.lineno - 1] = lines[node.lineno - 1].replace(before, after)
                done.append(Rewritten(f"{place}:{node.lineno}", before, after))
    if done:
        lines.insert(_end_of_imports(tree, min(int(one.place.rpartition(":")[2]) for one in done)), _IMPORT)
    return "\n".join(lines), done


def _end_of_imports(tree, line):
    """The last line of the imports above a line, or that before the first statement; what is below runs too late."""
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)) and node.lineno < line]
    if imports:
        return imports[-1].end_lineno or 0
    first = tree.body[0]
    return (first.end_lineno or 0) if ast.get_docstring(tree) is not None else first.lineno - 1


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
