import logging

from logger import setup_logging


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
