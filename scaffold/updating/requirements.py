"""What the framework requires that a requirements.txt of the user's does not name."""

import re
from pathlib import Path

from scaffold import template
from scaffold.updating import history

REQUIREMENTS = "requirements.txt"


def missing_requirements(project: Path, commit: str | None) -> list[str]:
    """Return the template's requirements that the project lacks, and those changed since the commit, sorted."""
    path = project / REQUIREMENTS
    own = _by_name(path.read_bytes() if path.is_file() else b"")
    before = _by_name(history.content_at(commit, REQUIREMENTS) or b"") if commit else None
    needed = _by_name((template.TEMPLATE / REQUIREMENTS).read_bytes())
    return sorted(
        line
        for name, line in needed.items()
        if name not in own or (own[name] != line and before is not None and before.get(name) != line)
    )


def _by_name(content):
    """{normalized name: line} of the packages that a requirements.txt asks for."""
    lines = (line.partition("#")[0].strip() for line in content.decode("utf-8", "replace").splitlines())
    named = ((re.match(r"[A-Za-z0-9][\w.-]*", line), line) for line in lines)
    return {re.sub(r"[-_.]+", "-", found[0]).lower(): line for found, line in named if found and "://" not in line}
