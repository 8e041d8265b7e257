"""--adopt loses nothing that a project had changed in the template's files: it is kept, or listed as work."""

import ast

import pytest
from old_ages import AFTER, MIDDLE, files_of, repository, stock  # noqa: F401 (a fixture)

from helpers import PROJECT
from scaffold.adopt import adopt
from scaffold.adopting.reading import Source
from scaffold.adopting.stock import lines_of_gaps
from scaffold.adopting.trainer_init import init_override
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("stock", "unchecked")


def adopted(tmp_path, capsys, files, dry_run=False):
    """(the project, the report) of a move."""
    project = repository(tmp_path / "old", files)
    adopt(project, dry_run=dry_run)
    return project, capsys.readouterr().out


def line_of(text, part):
    """The number of the first line that has a part."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def test_a_split_without_the_templates_shuffle_is_kept_as_a_whole(tmp_path, capsys):
    files = files_of(AFTER)
    loader = files["base/base_data_loader.py"].replace("        np.random.shuffle(order)\n", "")
    project, report = adopted(tmp_path, capsys, files | {"base/base_data_loader.py": loader})
    assert "of base/base_data_loader.py: BaseDataLoader as a whole" in report
    line = line_of(loader, "return order")
    assert f"{line}  BaseDataLoader._split_sampler: statements of the template are missing before this line" in report
    assert loader.split("class ")[1] in (project / "own/base_data_loader.py").read_text()


def test_statements_that_are_missing_or_in_another_order_are_work(tmp_path, capsys):
    files = files_of(MIDDLE)
    text = files["base/base_trainer.py"].replace("        torch.save(state, 'x.pth')\n", "")
    _, report = adopted(tmp_path, capsys, files | {"base/base_trainer.py": text}, dry_run=True)
    line = line_of(text, "        }")
    place = f"base/base_trainer.py:{line}: statements of the template are missing before line {line} of BaseTrainer."
    assert f"{place}_save_checkpoint: the framework saves" in report


def test_a_statement_that_was_replaced_is_the_projects_and_not_missing(tmp_path):
    (node,) = ast.parse(files_of(AFTER)["base/base_data_loader.py"]).body[-1:]
    function = next(item for item in node.body if item.name == "_split_sampler")
    assert lines_of_gaps("BaseDataLoader._split_sampler", function) == []
    seed, shuffle = function.body[1:3]
    function.body[1:3] = [shuffle, seed]
    assert lines_of_gaps("BaseDataLoader._split_sampler", function)
    function.body[1:3] = [seed, ast.parse("order.sort()").body[0]]
    assert lines_of_gaps("BaseDataLoader._split_sampler", function) == []


def test_a_file_with_a_name_of_the_frameworks_is_put_aside_and_the_report_says_where(tmp_path, capsys):
    theirs = {
        "logger/logger_config.json": '{"version": 1, "mine": true}',
        "utils/seed.py": "print 'Python 2'\n",
        "utils/broken.py": "print 'Python 2'\n",
    }
    project, report = adopted(tmp_path, capsys, files_of(AFTER) | theirs)
    for place in ("logger/logger_config.json", "utils/seed.py"):
        assert (project / "own/old" / place).read_text() == theirs[place]
        assert (project / place).read_bytes() == (PROJECT / place).read_bytes()
    taken = "as the framework's is at its place; take from it what you need"
    assert f"logger/logger_config.json: the project's own is now own/old/logger/logger_config.json, {taken}\n" in report
    old = "is not code of today's Python; it"
    assert f"utils/seed.py:1: {old} is now own/old/utils/seed.py, {taken}\n" in report
    assert f"utils/broken.py:1: {old} was left as it is\n" in report
    assert (project / "utils/broken.py").read_text() == theirs["utils/broken.py"]


def test_work_that_is_not_committed_elsewhere_in_the_repository_is_refused(tmp_path):
    repository(tmp_path, {f"old/{place}": text for place, text in files_of(AFTER).items()})
    (tmp_path / "beside.txt").write_text("mine")
    with pytest.raises(UserError, match=r"uncommitted work, such as beside\.txt"):
        adopt(tmp_path / "old")


def test_a_second_project_in_a_folder_keeps_its_parser(tmp_path, capsys):
    files = files_of(AFTER)
    files |= {f"legacy/{name}": files[name] for name in ("parse_config.py", "train.py")}
    project, report = adopted(tmp_path, capsys, files)
    for place in ("legacy/parse_config.py", "legacy/train.py"):
        assert (project / place).read_text() == files[place]
    assert not (project / "own").exists() and "nothing is left to do by hand" in report


def test_a_parser_in_a_folder_is_the_templates_if_code_elsewhere_imports_it(tmp_path, capsys):
    files = files_of(AFTER)
    files["tools/parse_config.py"] = files.pop("parse_config.py")
    files["train.py"] = files["train.py"].replace("from parse_config", "from tools.parse_config")
    project, _ = adopted(tmp_path, capsys, files)
    assert not (project / "tools/parse_config.py").exists()
    assert "from parse_config import ConfigParser\n" in (project / "train.py").read_text()


@pytest.mark.parametrize("first", ["", "from utils.util import (\n    inf_loop,\n    read_json,\n)\n"])
def test_attributes_of_modules_are_rewritten_where_they_are(first, tmp_path, capsys):
    look = f"import utils.util\n{first}\nx = 1\nutils.util.ensure_dir('x')"
    project, report = adopted(tmp_path, capsys, files_of(AFTER) | {"look.py": look})
    expected = f"import utils\n{first and 'from utils import inf_loop, read_json'}\n\nx = 1\nutils.ensure_dir('x')"
    assert (project / "look.py").read_text() == (expected if first else expected.replace("\n\n", "\n", 1))
    assert "nothing is left to do by hand" in report


def test_relative_imports_of_a_file_that_moves_become_absolute(tmp_path, capsys):
    files = files_of(AFTER) | {"utils/helpers.py": "def f():\n    return 1\n", "utils/tools.py": "g = 2\n"}
    files["utils/seed.py"] = "from .helpers import f as h\nfrom . import tools\nfrom .util import read_json\n"
    files["utils/seed.py"] += "from .tools import *\nfrom .seed_of import s\n"
    files["utils/seed_of.py"] = "s = 1\n"
    project, _ = adopted(tmp_path, capsys, files)
    lines = (project / "own/utils_seed.py").read_text().splitlines()
    assert lines == [
        "from utils.helpers import f as h",
        "from utils import tools",
        "from utils import read_json",
        "from utils.tools import *",
        "from utils.seed_of import s",
    ]


def test_what_a_file_did_when_it_was_imported_is_work(tmp_path, capsys):
    files = files_of(AFTER)
    acts = "torch.backends.cudnn.deterministic = True\nif torch.cuda.is_available():\n    torch.manual_seed(7)\n"
    files["base/base_trainer.py"] = "import torch\n" + acts + files["base/base_trainer.py"]
    files["logger/logger.py"] += "\n\nlogging.captureWarnings(True)\nHANDLERS = []\n"
    files["utils/util.py"] += "try:\n    import tqdm\nexcept ImportError:\n    tqdm = None\n"
    _, report = adopted(tmp_path, capsys, files, dry_run=True)
    found = [
        line.split(". ", 1)[1].split(" is not kept; it ran")[0]
        for line in report.splitlines()
        if " is not kept" in line
    ]
    assert sorted(found) == [
        "base/base_trainer.py:2: `torch.backends.cudnn.deterministic = True`",
        "base/base_trainer.py:3: `if torch.cuda.is_available():`",
        f"logger/logger.py:{line_of(files['logger/logger.py'], 'capture')}: `logging.captureWarnings(True)`",
    ]
    assert "left to do by hand: 3\n" in report


def test_what_the_body_of_a_class_has_besides_methods_is_kept_or_work(tmp_path, capsys):
    files = files_of(AFTER)
    body = "    rate: float = 0.1\n\n    class Inner:\n        pass\n\n    async def wait(self):\n        return 1\n\n"
    body += "    for _ in range(3):\n        print(_)\n\n"
    text = files["base/base_trainer.py"].replace("class BaseTrainer:\n", f"class BaseTrainer(Mixin):\n{body}")
    loader = files["base/base_data_loader.py"].replace("(DataLoader):", "(DataLoader, Mixin):")
    files |= {"base/base_trainer.py": text, "base/base_data_loader.py": loader}
    project, report = adopted(tmp_path, capsys, files)
    kept = (project / "own/base_trainer.py").read_text()
    for part in ("    rate: float = 0.1\n", "    class Inner:\n        pass\n", "    async def wait(self):\n"):
        assert part in kept
    assert f"base/base_trainer.py:{line_of(text, 'Mixin')}: BaseTrainer loses Mixin: add it to a class" in report
    assert f"base/base_trainer.py:{line_of(text, 'for _')}: BaseTrainer loses `for _ in range(3):`: add" in report
    assert "of base/base_data_loader.py: BaseDataLoader as a whole" in report


def test_a_constructor_of_2018_still_hands_over_the_checkpoint_to_resume():
    text = """
class BaseTrainer:
    def __init__(self, model, loss, metrics, optimizer, resume, config, train_logger=None, rank=0):
        self.rank = rank
"""
    tree = ast.parse(text)
    source = Source("base/base_trainer.py", tree, text.splitlines())
    override, left = init_override(source, tree.body[0].body[0])
    assert "super().__init__(model, loss, metrics, optimizer, resume, config, train_logger)\n" in override
    assert "self.rank = rank" in override and left == []
