"""Contents of files, compared whatever their line endings, which git on Windows converts."""

import hashlib


def is_text(content: bytes) -> bool:
    """Whether content is text: as for git, what has no zero byte."""
    return b"\0" not in content


def with_unix_lines(content: bytes) -> bytes:
    """Return text whose lines end in a line feed alone; what is not text unchanged."""
    return content.replace(b"\r\n", b"\n") if is_text(content) else content


def with_windows_lines(content: bytes) -> bytes:
    """Return text whose lines end in a carriage return and a line feed; what is not text unchanged."""
    return with_unix_lines(content).replace(b"\n", b"\r\n") if is_text(content) else content


def with_lines_of(other: bytes, content: bytes) -> bytes:
    """Return content with the line endings of another one."""
    return with_windows_lines(content) if b"\r\n" in other else with_unix_lines(content)


def is_equal(content: bytes, other: bytes) -> bool:
    """Whether two contents differ in line endings at most."""
    return with_unix_lines(content) == with_unix_lines(other)


def has_checksum(content: bytes, checksum: str) -> bool:
    """Whether content, with these or other line endings, has the SHA-256."""
    forms = (content, with_unix_lines(content), with_windows_lines(content))
    return checksum in {hashlib.sha256(form).hexdigest() for form in forms}
