"""Plans of new_project.py --task, made in this process, and tables to make them for."""

import argparse
import csv
import io

from scaffold.tasks.choose import add_task_flags, plan_from
from utils.errors import in_one_line


def plan_for(*words):
    parser = in_one_line(argparse.ArgumentParser())
    parser.add_argument("path")
    add_task_flags(parser)
    return plan_from(parser.parse_args(["made", *map(str, words)]))


def write_table(path, rows, header, separator=",", encoding="utf-8"):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows([header, *rows])
    path.write_bytes(text.getvalue().encode(encoding))
    return path
