"""`xtuner check` reads and maps the first rows as training will."""

import json

import pytest

from xtuner import cli

GOOD = {"instruction": "a", "input": "", "output": "b"}


@pytest.fixture
def check(here, capsys):
    """Function of rows and options: what check says of them on stderr, and what it leaves to training."""

    def run(rows, *options, name="d.json"):
        (here / name).write_text(rows if isinstance(rows, str) else json.dumps(rows))
        code = cli.main(["check", "c.py", "--cfg-options", f"data_path={name}", *options])
        said = capsys.readouterr()
        assert code == bool(said.err)
        (unchecked,) = [line for line in said.out.splitlines() if line.startswith("not checked")] or [""]
        return said.err, unchecked

    return run


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD] * 3, ""),
        (
            [{"question": "a", "answer": "b"}] * 3,
            "train_dataloader.dataset: d.json line 1, row 1: alpaca_map_fn: the row has no field 'output'; "
            "its fields are 'question', 'answer'. (3 of the first 3 rows have a fault)",
        ),
        ([GOOD] * 199 + [{}], ""),
        ("[]", "the data is empty: there are no rows in"),
        ('{"data": []}', "the data is empty: there are no rows in"),
        ("[{]", "d.json line 1 column 3: broken JSON"),
    ],
)
def test_rows_that_training_refuses_are_an_error(check, rows, message):
    """A few that it leaves out are none."""
    error, _ = check(rows)
    assert message in error
    assert bool(error) == bool(message)


def test_a_large_file_is_left_to_training(check):
    """Its first row may be in a list that has to be read whole."""
    error, unchecked = check("[" + " " * 21 * 2**20 + "]")
    assert error == ""
    assert unchecked == "not checked here, but by train: the rows of d.json"


def test_what_a_users_own_function_does_is_not_tried(check, here, monkeypatch):
    """Importing it may take as long as training."""
    monkeypatch.syspath_prepend(here)
    text = (here / "c.py").read_text()
    own = text.replace("dataset_map_fn=alpaca_map_fn", "dataset_map_fn=mine.map_fn")
    (here / "c.py").write_text("import mine\n" + own)
    (here / "mine.py").write_text("raise SystemExit(7)\ndef map_fn(row): ...\n")
    assert check([{"question": "a"}])[0] == ""
