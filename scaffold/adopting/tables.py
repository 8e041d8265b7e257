"""What a MetricTracker of a project's own writes into its table, a DataFrame of pandas, as pandas 3 allows.

There `table["total"][key] += value` changes a copy, and the averages would stay 0 with no more than a warning.
"""

import ast

_TRACKER = "MetricTracker"
_INDEXERS = {"loc", "at", "iloc", "iat"}  # which pandas 3 writes through
_NO_COLUMNS = _INDEXERS | {"index", "columns", "values", "T", "dtypes", "shape"}


def tables_written_through(text: str) -> tuple[str, list[tuple[int, str, str]]]:
    """Return the text of a file of the project's with each MetricTracker in it as written_through returns it.

    Also return (line, before, after) of what was rewritten. Such a file may be the template's utils under another name.
    """
    done: list[tuple[int, str, str]] = []
    if "import pandas as pd" not in text:
        return text, done
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.ClassDef) and node.name == _TRACKER):
            continue
        lines = text.split("\n")
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        code = written_through("\n".join(lines[first:last]))[0].split("\n")
        for number, (before, after) in enumerate(zip(lines[first:last], code, strict=True), first + 1):
            if before != after:
                done.append((number, before.strip(), after.strip()))
        text = "\n".join([*lines[:first], *code, *lines[last:]])
    return text, done


def written_through(text: str, table: str = "self._data") -> tuple[str, list[tuple[int, str]]]:
    """Return the text of a class with `table.loc[key, "total"]` where it writes into a cell of a column of the table.

    Also return (line within the text, code) of each target of an assignment to the table that is not understood.
    """
    edits, left = [], []
    for statement in ast.walk(ast.parse(text)):
        if not isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in (node for one in targets for node in ast.walk(one)):
            if not isinstance(getattr(target, "ctx", None), ast.Store) or isinstance(target, ast.Tuple):
                continue
            column = _column(getattr(target, "value", None), table)
            if isinstance(target, ast.Subscript) and column:
                key = (
                    f"({ast.unparse(target.slice)})"
                    if isinstance(target.slice, ast.Tuple)
                    else ast.unparse(target.slice)
                )
                edits.append((target, f"{table}.loc[{key}, {column}]"))
            elif targets == [target] and (column := _whole_column(target, table)):
                value = f"pd.Series({ast.unparse(statement.value or target)}, index={table}.index, dtype=object)"
                edits.append((statement, f"{table}[{column}] = {value}"))
            elif not _is_written(target, table):
                left.append((statement.lineno, ast.unparse(target)))
    return _edited(text, edits), left


def _column(node, table):
    """The code of the name of a column that is read from the table; None for anything else."""
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == table and node.attr not in _NO_COLUMNS:
        return f'"{node.attr}"'
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == table and not isinstance(node.slice, ast.Slice):
        return ast.unparse(node.slice)
    return None


def _whole_column(target, table):
    """The code of the name of a column all of whose values are written, as table[name].values[:]; None for others."""
    values = getattr(target, "value", None)
    if isinstance(target, ast.Subscript) and ast.unparse(target.slice) == ":" and isinstance(values, ast.Attribute):
        return _column(values.value, table) if values.attr == "values" else None
    return None


def _is_written(target, table):
    """Whether pandas 3 writes into the table there, or nothing is written into the table."""
    if not ast.unparse(target).startswith((f"{table}.", f"{table}[")):
        return True
    holder = ast.unparse(target.value)
    return holder == table or (
        isinstance(target, ast.Subscript) and holder in {f"{table}.{name}" for name in _INDEXERS}
    )


def _edited(text, edits):
    """The text with other code in place of each node."""
    whole = text.encode()
    starts = [0]
    for line in whole.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    for node, code in sorted(edits, key=lambda edit: (edit[0].lineno, edit[0].col_offset), reverse=True):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        whole = whole[:start] + code.encode() + whole[end:]
    return whole.decode()
