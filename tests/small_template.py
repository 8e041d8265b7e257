"""A small template of three versions, for tests of making and updating projects."""

import os
import subprocess

LINES = [f"line_{number} = {number}\n" for number in range(20)]
CORE = "".join(LINES)
PICTURE = b"\x89PNG\0\r\n"
# The template of three versions: {path: content}; None removes a file.
FIRST = {
    "README.md": "# template\n",
    "base/core.py": CORE,
    "base/helper.py": CORE.replace("line", "help"),
    "base/gone.py": "gone = 1\n",
    "base/deep/also_gone.py": "gone = 2\n",
    "docs/README.md": "pages\n[a](jobs.md)\n",
    "docs/picture.png": PICTURE,
    "train.py": CORE.replace("line", "train"),
    "test.py": "test = 1\n",
    "model/model.py": CORE.replace("line", "model"),
    "trainer/trainer.py": CORE.replace("line", "trainer"),
    "config.json": '{\n    "name": "x"\n}\n',
    "project/README.md": "# {name}\n",
    "project/.gitignore": ".venv\nignored.py\n",
    "project/tests/test_project.py": "def test_it():\n    assert 1\n",
}
SECOND = {
    "base/core.py": CORE.replace("line_3 = 3\n", "line_3 = 'theirs'\n"),
    "base/helper.py": None,
    "base/tools.py": CORE.replace("line", "help").replace("help_3 = 3\n", "help_3 = 'theirs'\n"),
    "base/gone.py": None,
    "base/deep/also_gone.py": None,
    "base/new.py": "new = 1\n",
    "docs/README.md": "more pages\n[a](jobs.md)\n",
    "docs/picture.png": PICTURE + b"2",
    "model/model.py": CORE.replace("line_3 = 3\n", "model_3 = 'theirs'\n"),
    "trainer/trainer.py": FIRST["trainer/trainer.py"].replace("trainer_3 = 3\n", "trainer_3 = 'theirs'\n"),
    "config.json": '{\n    "name": "y"\n}\n',
    "project/README.md": "# {name}, again\n",
    "project/tests/test_project.py": "def test_it():\n    assert 2\n",
}
THIRD = {
    "base/core.py": SECOND["base/core.py"].replace("line_16 = 16\n", "line_16 = 'theirs'\n"),
    "trainer/trainer.py": SECOND["trainer/trainer.py"].replace("trainer_16 = 16\n", "trainer_16 = 'theirs'\n"),
}


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def write(folder, files):
    for place, content in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def commit(folder, files):
    write(folder, files)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "changed")


def changed(text, number, to="'mine'"):
    """The text with another value in a numbered line."""
    word = text.partition("_")[0]
    assert text.count(f"{word}_{number} = {number}\n") == 1
    return text.replace(f"{word}_{number} = {number}\n", f"{word}_{number} = {to}\n")


def snapshot(folder):
    """{path: content, or where a link leads} of all that a folder holds, apart from git's."""
    paths = [path for path in folder.rglob("*") if ".git" not in path.parts]
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in paths
    }


def files(folder):
    return {place: content for place, content in snapshot(folder).items() if content is not None}
