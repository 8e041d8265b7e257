"""The template's earlier versions, as far as its git history holds them."""

import re
from collections.abc import Iterator

from scaffold import template
from scaffold.git import run_git
from scaffold.updating.line_endings import has_checksum


def commit_of(version: str | None) -> str | None:
    """Return the commit of a version that a manifest names; None if the history does not hold it."""
    if not has_history() or not re.fullmatch(r"\w[\w./+-]*", version or ""):
        return None
    name = f"{version}".removesuffix("-dirty")
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") or None


def has_history() -> bool:
    """Whether the template is a git repository with commits."""
    return template.template_version() is not None


def is_shallow() -> bool:
    """Whether the history was cloned in part."""
    return _git("rev-parse", "--is-shallow-repository") == "true"


def is_newer(commit: str) -> bool:
    """Whether a commit builds on the template's present one."""
    if commit == _git("rev-parse", "HEAD"):
        return False
    return run_git(template.TEMPLATE, "merge-base", "--is-ancestor", "HEAD", commit).returncode == 0


def renames_since(commit: str) -> dict[str, str]:
    """Return {old path: new path} of the framework's files that have been renamed, as git judges by their content."""
    flags = ("-M", "--no-color", "--name-status", "--diff-filter=R", "-z")
    words = iter(_git("diff", *flags, commit, "--", *template.FRAMEWORK).split("\0"))
    return {old: new for _, old, new in zip(words, words, words, strict=False)}  # R and a similarity, old, new


def changed_since(commit: str, paths: list[str]) -> list[str]:
    """Return which of the template's files at these paths, or in these folders, differ from those of the commit."""
    return [name for name in _git("diff", "--name-only", "-z", commit, "--", *paths).split("\0") if name]


def files_at(commit: str, folder: str) -> list[str]:
    """Return the paths of the files that a folder of the template held at a commit."""
    return [name for name in _git("ls-tree", "-r", "-z", "--name-only", commit, "--", folder).split("\0") if name]


def content_at(commit: str, path: str) -> bytes | None:
    """Return what a file of the template held at a commit; None if it did not exist."""
    return _blob(f"{commit}:{path}")


def content_with(checksum: str, place: str, commit: str | None) -> bytes | None:
    """Return the content of a project's file of the framework that has a SHA-256, from the commit or any other.

    None if the history does not hold it.
    """
    for content in _versions(template.source_of(place), commit):
        for candidate in (content, template.as_copied(place, content)):
            if has_checksum(candidate, checksum):
                return candidate
    return None


def _versions(path: str, commit: str | None) -> Iterator[bytes]:
    """The contents of a file of the template: that of the commit, then all of its history, newest first."""
    if commit and (content := content_at(commit, path)) is not None:
        yield content
    listing = ("log", "--full-history", "-m", "--no-renames", "--format=", "--raw", "--no-abbrev", "HEAD", "--", path)
    names = {line.split()[3]: None for line in _git(*listing).splitlines()} if has_history() else {}
    yield from (content for name in names if (content := _blob(name)) is not None)


def _blob(name: str) -> bytes | None:
    done = run_git(template.TEMPLATE, "cat-file", "blob", name, text=False)
    return None if done.returncode else done.stdout


def _git(*arguments: str) -> str:
    """What a git command says of the template; nothing if it fails."""
    done = run_git(template.TEMPLATE, *arguments)
    return "" if done.returncode else done.stdout.strip()
