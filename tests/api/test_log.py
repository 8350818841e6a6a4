"""The log of the program: the console and the file of a run."""

from pathlib import Path

import pytest

from xtuner.log import logger, start_console, start_file, stop_file


@pytest.fixture
def said(tmp_path):
    """A function that writes the file of a run while a line is said, and returns the messages in it."""

    def write(name, *lines):
        file = start_file(tmp_path / name)
        for line in lines:
            logger.info(*line)
        stop_file(file)
        return [line.partition(" - INFO - ")[2] for line in (tmp_path / name).read_text("utf-8").splitlines()]

    return write


def test_the_file_begins_with_what_was_said_before_it(said):
    """Once: the next file has what came after the first one; another command begins anew."""
    start_console()
    logger.info("the data has %d rows", 8)
    assert said("one", ("it trains",)) == ["the data has 8 rows", "it trains"]
    logger.info("done")
    assert said("two", ("another",)) == ["done", "another"]
    logger.info("of this command")
    start_console()
    assert said("three", ("of the next",)) == ["of the next"]


def test_values_of_earlier_lines_are_those_of_their_time(said):
    """A list that changes later is written as it was."""
    start_console()
    rows = [1]
    logger.info("rows: %s", rows)
    rows.append(2)
    assert said("one") == ["rows: [1]"]


def test_a_full_disk_is_said_once(capsys):
    """The lines that cannot be written are no fault of the run, which goes on."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    start_console()
    for number in range(3):
        logger.info("row %d", number)
    stop_file(start_file(full))
    assert capsys.readouterr().err.count("cannot be written: No space left on device") == 1
