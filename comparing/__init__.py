"""How compare.py shows many runs: rows, groups, tables, pages and curves; and how two runs differ."""
