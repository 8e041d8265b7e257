"""Move a project in that was made from the old template: python new_project.py --adopt ../old_project."""

import ast
import re
import shlex
from pathlib import Path

from scaffold.adopting import reading
from scaffold.adopting.checking import checked, work_in
from scaffold.adopting.imports import Names, Rewritten, rewrite
from scaffold.adopting.installing import Installed, install, to_be_moved
from scaffold.adopting.keeping import Kept
from scaffold.adopting.kept_classes import Work
from scaffold.adopting.loading import load_bare_weights
from scaffold.adopting.reading import Source
from scaffold.adopting.tables import tables_written_through
from scaffold.adopting.tree import Tree, copied
from scaffold.git import run_git, uncommitted
from scaffold.template import MANIFEST, TEMPLATE, template_version
from utils.errors import UserError, quantity

_MAX_SHOWN = 12  # lines of a list
_ROOM = "own"  # of what a project had changed in the template's files


def adopt(project: str | Path, dry_run: bool = False) -> None:
    """Replace the old template's files in a project by the framework's, and report what was done and what is left.

    project: a folder in a git repository without uncommitted changes. What the project had changed is kept in files of
    its own, or listed as work. The move is one commit. dry_run: report alone.

    Raises UserError, and then changes nothing.
    """
    project = Path(project).resolve()
    require_adoptable(project)
    before = run_git(project, "rev-parse", "--short", "HEAD").stdout.strip()
    with copied(project) as tree:
        report, work = move(tree, dry_run)
        print("\n".join(report))
        if dry_run:
            print("\nnothing was changed (--dry-run)")
            return
        commit = tree.commit(_message(work, before))
    here = shlex.join(["git", "-C", str(project)])
    print(f"\ncommitted as {commit}; line numbers refer to commit {before}, as in")
    print(f"  {here} show {before}:./base/base_trainer.py")
    print(f"undo: {here} reset --hard {before}, or, to keep later commits, {here} revert {commit}")


def require_adoptable(project: Path) -> None:
    """Raise UserError for a folder that cannot be moved in as it is."""
    if not project.is_dir():
        raise UserError(f"--adopt {project}: no such folder")
    if project.is_relative_to(TEMPLATE):
        raise UserError(f"--adopt {project}: lies inside the template; give a project outside {TEMPLATE}")
    if (project / MANIFEST).exists():
        raise UserError(f"--adopt {project}: has a {MANIFEST}, so it has this framework already; use --update")
    if run_git(project, "rev-parse", "--show-toplevel").returncode:
        raise UserError(f"--adopt {project}: is not in a git repository; run git init, git add -A and git commit first")
    if run_git(project, "rev-parse", "-q", "--verify", "HEAD").returncode:
        raise UserError(f"--adopt {project}: its repository has no commit yet; git add -A and git commit first")
    if why := uncommitted(Path(run_git(project, "rev-parse", "--show-toplevel").stdout.rstrip("\n"))):
        raise UserError(f"--adopt {project}: {why}; commit, stash or ignore it first")
    if run_git(project, "var", "GIT_COMMITTER_IDENT").returncode:
        raise UserError(f"--adopt {project}: git does not know you; set user.name and user.email")


def move(tree: Tree, dry_run: bool = False) -> tuple[list[str], list[Work]]:
    """Make the move in the copy. Returns the lines of the report, and the work that is left.

    dry_run: do not run the project's script to check its configs.
    """
    sources, unread = reading.read_sources(tree)
    framework = require_family(tree, sources, unread)
    room = next(name for name in (_ROOM, *(f"{_ROOM}{i}" for i in range(2, 100))) if not tree.exists(name))
    age, evidence = reading.age_of(sources)
    changes = {place: found for place, source in framework.items() if (found := reading.changes_in(source))}
    kept = Kept(sources, framework, room)
    names = Names(sources, framework, kept, to_be_moved(sources, framework, room))
    moved = {names.source(module).place for module in names.moved}
    installed = install(tree, framework, moved, room)
    own = {place: source for place, source in sources.items() if place not in framework}
    rewritten, missing = _rewrite_imports(tree, own, names)
    _export(tree, kept)
    tree.require_only_tracked_changes()
    told, errors = checked(tree, own, dry_run, "ConfigParser" in kept.whole)
    work = [Work(place, f"{why}; it {_fate(place, installed)}") for place, why in unread.items()]
    read = installed.aside.keys() - {place.partition(":")[0] for place in unread}
    work += [Work(place, f"the project's own {_fate(place, installed)}") for place in sorted(read)]
    work += [*kept.work, *missing, *work_in(own), *_notebooks(tree), *errors]
    head = f"{tree.project}: the template's age: {age} ({evidence})"
    return [head, *_report(changes, kept, names, installed, rewritten, told, work)], work


def _fate(place, installed):
    """What became of a file that was not rewritten; place: its path, and a line or none."""
    place = place.partition(":")[0]
    if new := installed.aside.get(place):
        return f"is now {new}, as the framework's is at its place; take from it what you need"
    return "was left as it is"


def require_family(tree: Tree, sources: dict[str, Source], unread: dict[str, str]) -> dict[str, Source]:
    """Return the old template's files among the sources. Raises UserError if there are none.

    unread: why some files cannot be read, by place.
    """
    if reading.base_trainer_of(sources) is not None:
        return reading.framework_of(sources)
    broken = [f"{place} {why}" for place, why in unread.items() if place.startswith("base/")]
    if place := reading.nested_base(sources):
        reason = (
            f"its base/ lies in {Path(place).parent.parent.as_posix()}/, and only projects with base/ at their top "
        )
        reason += "can be moved in by this command; move that one in by hand, as MIGRATING.md says"
    elif broken:
        reason = f"{broken[0]}; correct that first"
    else:
        reason = "has no base/ with a BaseTrainer, so it was not made from victoresque/pytorch-template"
    raise UserError(f"--adopt {tree.project}: {reason}")


def _rewrite_imports(tree, own, names):
    """Rewrite the imports of the project's code and of what is kept, and move files that are in the way."""
    rewritten, missing = [], []
    kept = names.kept.files
    new = {place: Source(place, ast.parse(text), text.split("\n")) for place, text in kept.items()}
    for place, source in {**own, **new}.items():
        text, done, work = rewrite(source, names)
        if place in own:
            text, loads = load_bare_weights(source.place, text)
            text, cells = tables_written_through(text)
            done += loads + [Rewritten(f"{place}:{line}", before, after) for line, before, after in cells]
        if source.module in names.moved:
            if place not in tree.changed:  # else it has the framework's file already
                tree.remove(place)
            tree.write(f"{names.moved[source.module].replace('.', '/')}.py", text)
        elif place in kept or text != "\n".join(source.lines):
            tree.write(place, text)
        rewritten += done if place in own else []
        missing += work
    if kept or names.moved:
        lines = ['"""What this project had changed in its template."""\n']
        lines += [f"\nimport {package}  # noqa: F401 (it imports from here)" for package in sorted(names.kept.exports)]
        tree.write(f"{names.kept.room}/__init__.py", "".join(lines) + ("\n" if lines[1:] else ""))
    return rewritten, missing


def _export(tree, kept):
    """Let the framework's packages export the project's own names, in one line for each module."""
    for package, homes in kept.exports.items():
        lines = []
        for module in sorted(set(homes.values())):
            found = ", ".join(sorted(name for name, home in homes.items() if home == module))
            lines.append(f"from {module} import {found}  # noqa: E402, F401, I001 (this project's own)\n")
        place = f"{package}/__init__.py"
        tree.write(place, f"{tree.read(place)}\n{''.join(lines)}")


def _notebooks(tree):
    """The notebooks that import something which is somewhere else now, as work."""
    old = re.compile(r"from (utils\.util|utils|base\.\w+|logger\.\w+) import (\*|\w+)")
    for place in tree.tracked:
        if place.endswith(".ipynb"):
            found = old.search((tree.project / place).read_text(encoding="utf-8", errors="replace"))
            if found:
                yield Work(
                    place, f"a notebook is not rewritten; {found[0]!r} may have to become 'from utils import ...'"
                )


def _report(changes, kept, names, installed: Installed, rewritten: list[Rewritten], told, work):
    """The lines of the report after its first."""
    lines = []
    for place, found in changes.items():
        lines += ["", f"{place} has {len(found)} changes in the template's functions:"]
        lines += _cut([f"  {line:>5}  {where}: {text}" for line, where, text in found])
    lines += ["", *kept.told] if kept.told else []
    lines += [f"moved to make room for the framework's: {old} -> {new}" for old, new in names.moved.items()]
    rooms = sorted({place.split("/")[0] + ("/" if "/" in place else "") for place in installed.files})
    lines += ["", f"installed {quantity(len(installed.files), 'file')}: {', '.join(rooms)}"]
    for why in sorted(set(installed.left.values())):
        lines.append(f"left out, {why}: {', '.join(sorted(p for p in installed.left if installed.left[p] == why))}")
    lines += _cut([f"requirements.txt: {line}" for line in installed.requirements])
    imports = [f"{item.place}: {item.before}  ->  {item.after}" for item in rewritten]
    lines += ["", *_cut(imports)] if imports else []
    lines += ["", *told, "", f"left to do by hand: {len(work)}" if work else "nothing is left to do by hand"]
    return lines + [f"  {i}. {item.place}: {item.reason}" for i, item in enumerate(work, 1)]


def _cut(lines):
    more = len(lines) - _MAX_SHOWN
    return lines if more <= 0 else [*lines[:_MAX_SHOWN], f"  and {more} more"]


def _message(work, before):
    version = template_version()
    head = f"Replace the template's files by the framework{f' of {version}' if version else ''}"
    if not work:
        return head
    listed = [f"- {place}: {reason}" for place, reason in work]
    return "\n".join([head, "", f"Left to do by hand (line numbers refer to commit {before}):", *listed])
