"""Further folders of a run, which a project's own ConfigParser made at its start: made when they are asked for."""

import ast
import copy

from scaffold.adopting.ours import bound_names

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_RUN_IDS = {"run_id", "timestamp"}


def folder_property(method: _Function, init: _Function | None) -> tuple[str, set[int]] | None:
    """Return the code of a property for a folder, and the lines of the constructor that it makes superfluous.

    method: of the project's ConfigParser. None unless it is a property that returns an attribute to which the
    constructor assigns a path with the run's id in it. The code takes the id from save_dir, which the framework makes.
    """
    if init is None or [ast.unparse(item) for item in method.decorator_list] != ["property"]:
        return None
    returned = method.body[-1]
    if not isinstance(returned, ast.Return) or not isinstance(returned.value, ast.Attribute):
        return None
    attribute = ast.unparse(returned.value)
    for statement in init.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == attribute:
            inlined = _Inlined(init.body, statement.lineno)
            path = ast.unparse(inlined.visit(copy.deepcopy(statement.value)))
            if not inlined.names_run or inlined.fails:
                return None
            made = {s.lineno for s in init.body if ast.unparse(s).startswith(f"self.{method.name}.mkdir(")}
            lines = [f"path = {path}", "path.mkdir(parents=True, exist_ok=True)", "return path"]
            code = "\n".join(["@property", f"def {method.name}(self):", *(f"    {line}" for line in lines)])
            return code, {statement.lineno, *made, *inlined.lines}
    return None


class _Inlined(ast.NodeTransformer):
    """Puts the values of a constructor's variables in the place of their names, and save_dir.name for the run's id."""

    def __init__(self, body: list[ast.stmt], line: int) -> None:
        self._body, self._line = body, line
        self.lines: set[int] = set()  # of the assignments that were put in
        self.names_run = self.fails = False

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in _RUN_IDS:
            self.names_run = True
            return ast.parse("self.save_dir.name", mode="eval").body
        bound = [s for s in self._body if s.lineno < self._line and node.id in bound_names(ast.Module([s], []))]
        if not bound:
            return node
        if len(bound) > 1 or not isinstance(bound[0], ast.Assign) or not isinstance(bound[0].targets[0], ast.Name):
            self.fails = True
            return node
        self.lines.add(bound[0].lineno)
        return self.visit(copy.deepcopy(bound[0].value))
