import io
import json
import logging
import os

import pytest

from logger import require_log_files, setup_logging
from utils import UserError
from utils.errors import print_error, shown


def test_early_records_reach_the_file_once_there_is_a_folder(tmp_path, capsys):
    setup_logging()
    log = logging.getLogger("early")
    log.info("before")
    setup_logging(tmp_path)
    log.info("after")
    log.debug("too fine for the file")
    lines = (tmp_path / "info.log").read_text().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["before", "after"]
    assert capsys.readouterr().out.split() == ["before", "after"]


def test_a_second_setup_appends(tmp_path):
    for word in ("one", "two"):
        setup_logging(tmp_path)
        logging.getLogger("x").info(word)
    assert [line.split()[-1] for line in (tmp_path / "info.log").read_text().splitlines()] == ["one", "two"]


def test_another_config_can_be_given(tmp_path):
    config = tmp_path / "mine.json"
    config.write_text(
        '{"version": 1, "handlers": {"f": {"class": "logging.FileHandler", "filename": "mine.log"}},'
        ' "root": {"level": "INFO", "handlers": ["f"]}}'
    )
    setup_logging(tmp_path, log_config=config)
    logging.getLogger("x").info("word")
    assert (tmp_path / "mine.log").read_text() == "word\n"


def test_records_of_a_command_that_had_no_folder_reach_no_later_run(tmp_path):
    setup_logging()
    logging.getLogger("x").info("of the first command")
    setup_logging()
    logging.getLogger("x").info("of the second")
    setup_logging(tmp_path)
    assert [line.rpartition(": ")[2] for line in (tmp_path / "info.log").read_text().splitlines()] == ["of the second"]


@pytest.mark.parametrize(
    "entry",
    [
        {"class": "os.system", "command": "touch made"},
        {"class": "logging.os.system", "command": "touch made"},
        {"class": "logging.handlers.os.system", "command": "touch made"},
        {"class": "subprocess.Popen", "args": ["touch", "made"]},
        {"()": "os.system", "command": "touch made"},
        {"()": "logging.StreamHandler"},
        {"class": "logger.logger.os.system", "command": "touch made"},
        {"class": "logging.StreamHandler", "stream": "ext://os.environ"},
        {"class": "logger.logger.open_to_append", "path": "made"},
        {"class": "logger.csv_log.write_whole", "content": "x", "path": "made"},
        {"class": "logging.handlers.QueueHandler", "queue": {"()": "posix.system", "command": "touch made"}},
        {"class": "logging.StreamHandler", "stream": ["ext://os.environ"]},
    ],
)
@pytest.mark.parametrize("section", ["handlers", "formatters", "filters"])
def test_a_logging_config_can_have_nothing_else_called(tmp_path, monkeypatch, section, entry):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps({"version": 1, section: {"a": entry}, "root": {"handlers": []}}))
    with pytest.raises(UserError, match=r"mine.json: .*only "):
        setup_logging(log_config=tmp_path / "mine.json")
    assert not (tmp_path / "made").exists()


def test_the_old_template_s_logging_config_is_taken(tmp_path, capsys):
    console = {"class": "logging.StreamHandler", "level": "DEBUG", "formatter": "simple", "stream": "ext://sys.stdout"}
    file = {"class": "logging.handlers.RotatingFileHandler", "filename": "info.log", "maxBytes": 1000, "backupCount": 2}
    handlers = {"console": console, "info_file_handler": file}
    config = {"version": 1, "formatters": {"simple": {"format": "%(message)s"}}, "handlers": handlers}
    config["root"] = {"level": "INFO", "handlers": list(handlers)}
    (tmp_path / "old.json").write_text(json.dumps(config))
    setup_logging(tmp_path, log_config=tmp_path / "old.json")
    logging.getLogger("x").info("word")
    assert (tmp_path / "info.log").read_text() == "word\n" and capsys.readouterr().out == "word\n"


HOSTILE = "a\x1b]0;title\x07 \x9b31m \u202e \x00"


def test_control_characters_reach_neither_the_console_nor_the_log(tmp_path, capsys):
    setup_logging(tmp_path)
    logging.getLogger("x").info("%s\n\tnext line", HOSTILE)
    print_error(f"one: {HOSTILE}\ntwo")
    streams = capsys.readouterr()
    for text in (streams.out, streams.err, (tmp_path / "info.log").read_text()):
        assert all(letter.isprintable() or letter in "\n\t" for letter in text) and r"\x1b]0;title" in text
    assert streams.out.endswith("\n\tnext line\n") and streams.err.splitlines()[1] == "error: two"


def test_shown_is_one_line_of_printable_text():
    assert shown("a\nb\tc\x1b\u2028é") == r"a\nb\tc\x1b\u2028é"


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_a_log_is_not_written_through_a_planted_link(tmp_path, plant):
    (tmp_path / "victim").write_text("mine\n")
    (tmp_path / "log").mkdir()
    plant(tmp_path / "victim", tmp_path / "log" / "info.log")
    if plant is os.symlink:
        with pytest.raises(UserError, match=r"info.log: is a link"):
            setup_logging(tmp_path / "log")
    else:
        setup_logging(tmp_path / "log")
        logging.getLogger("x").info("word")
    assert (tmp_path / "victim").read_text() == "mine\n"


def test_a_log_without_errors_is_not_complained_of(tmp_path):
    setup_logging(tmp_path)
    logging.getLogger("x").info("word")
    require_log_files("all is safe")


def test_a_letter_that_the_console_cannot_encode_is_escaped_and_all_else_printed(tmp_path, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", console)
    setup_logging(tmp_path)
    logging.getLogger("x").info("a \u2192 b")
    logging.getLogger("x").info("next")
    assert console.buffer.getvalue().decode().splitlines() == [r"a \u2192 b", "next"]
    assert "a \u2192 b" in (tmp_path / "info.log").read_text(encoding="utf-8")
