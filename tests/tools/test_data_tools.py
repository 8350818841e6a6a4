"""The commands check-custom-dataset, log-dataset and preprocess."""

import json
from pathlib import Path

import pytest

from xtuner.cli import main

TOKENIZER = Path(__file__).parents[1] / "data" / "tokenizer_bos"
CONFIG = """
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.map_fns import template_map_fn_factory
from xtuner.dataset.reading.load import load_dataset
from xtuner.utils import PROMPT_TEMPLATE

data_path = {path!r}
prompt_template = PROMPT_TEMPLATE.internlm2_chat
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path={tokenizer!r})
# What is not data stays unbuilt: this model does not exist.
model = dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path='/no/such/model')
optim_wrapper = dict(optimizer=dict(type=AdamW))
train_cfg = dict(max_epochs=1)
train_dataloader = dict(
    dataset=dict(
        type=process_hf_dataset,
        dataset=dict(type=load_dataset, path=data_path),
        tokenizer=tokenizer,
        max_length=64,
        template_map_fn=dict(type=template_map_fn_factory, template=prompt_template)))
"""
TEXT = "<s><|im_start|>user↵\nhi<|im_end|>↵\n<|im_start|>assistant↵\n⟦hello<|im_end|>⟧↵"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A function from rows (or lines) to the path of a config that reads them."""
    monkeypatch.setenv("XTUNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")

    def make(*rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "d.jsonl").write_text("\n".join(lines))
        text = CONFIG.format(path=str(tmp_path / "d.jsonl"), tokenizer=str(TOKENIZER))
        (tmp_path / "c.py").write_text(text)
        return str(tmp_path / "c.py")

    return make


ROW = {"conversation": [{"input": "hi", "output": "hello"}]}


def test_check_shows_every_stage_and_the_counts(config, capsys):
    assert main(["check-custom-dataset", config(ROW, ROW)]) == 0
    out = capsys.readouterr().out
    titles = [line[3:] for line in out.splitlines() if line.startswith("── ")]
    names = [title.split("  ")[0] for title in titles]
    stages = ["row", "after dataset_map_fn", "after the template", "input_ids", "labels", "text"]
    packed = next(name for name in names if name.startswith("packed, item 0"))
    assert names == [*stages, *stages, packed, "Counts", "Tokens per sample", "Warnings"]
    assert TEXT in out
    assert "No warnings." in out


def test_check_ends_with_1_if_training_would_fail(config, capsys):
    """The faulty row is shown up to the stage that failed."""
    path = config(ROW, {"conversation": [{"input": 1, "output": ["x"]}]})
    assert main(["check-custom-dataset", path]) == 1
    said = capsys.readouterr()
    assert "d.jsonl line 2 (row 1)" in said.out
    assert "! stops here: template_map_fn: the field 'output' is of type list" in said.out
    assert said.err.count("\n") == 1
    assert "d.jsonl line 2: template_map_fn" in said.err


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "the data is empty"), (["{broken"], "line 1"), ([{"q": 1}], "no field 'conversation'")],
)
def test_check_as_json_has_the_error(config, capsys, rows, message):
    assert main(["check-custom-dataset", config(*rows), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["data"]) == (False, [])
    assert message in told["error"]


def test_the_page_and_json(config, capsys, tmp_path):
    words = ["check-custom-dataset", config(ROW), "--html", str(tmp_path / "p" / "d.html"), "--lang", "zh"]
    assert main([*words, "--json"]) == 0
    (data,) = json.loads(capsys.readouterr().out)["data"]
    assert data["counts"]["rows"] == 1
    assert data["path"] == "train_dataloader.dataset"
    page = (tmp_path / "p" / "d.html").read_text("utf-8")
    assert "<mark>hello&lt;|im_end|&gt;</mark>" in page
    assert "没有警告" in page


def test_log_dataset_shows_an_item(config, capsys):
    assert main(["log-dataset", config(ROW, ROW)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{'#' * 20}   text   {'#' * 20}\n⟦trained⟧ not trained\n{TEXT}\n{TEXT}\n")
    assert "trained tokens" in out
    assert main(["log-dataset", config(ROW), "--show", "labels"]) == 0
    assert capsys.readouterr().out.startswith(f"{'#' * 20}   labels   {'#' * 20}\n[-100, -100, ")
    assert main(["log-dataset", config(ROW), "--index", "3"]) == 1
    assert "there is no item 3: the data has 1" in capsys.readouterr().err


def test_options_change_what_is_read(config, capsys):
    options = ["--cfg-options", "prompt_template=vicuna"]
    assert main(["log-dataset", config(ROW), *options]) == 0
    assert "USER: hi ASSISTANT:⟦hello</s>⟧" in capsys.readouterr().out


def test_tokenize_prints_the_folder_of_the_tokens(config, capsys, tmp_path):
    """A later run reads them there."""
    path = config(ROW)
    assert main(["preprocess", "tokenize", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    key = lines[1].split()[1]
    assert lines[0] == "train_dataloader.dataset"
    assert lines[2].split()[1] == str(tmp_path / "cache" / "tokens" / key)
    assert (tmp_path / "cache" / "tokens" / key / "ids.bin").is_file()
    assert lines[3].startswith("  data: 1 row;")


@pytest.mark.parametrize("command", ["check-custom-dataset", "log-dataset", "preprocess tokenize"])
def test_strict_makes_a_row_that_cannot_be_read_an_error(config, capsys, command):
    """Without it the row is left out and named."""
    path = config(*[ROW] * 30, "{broken", *[ROW] * 30)
    assert main([*command.split(), path]) == 0
    said = capsys.readouterr()
    assert "d.jsonl line 31" in said.out
    assert "d.jsonl line 31 column 2: broken JSON" in said.err
    assert main([*command.split(), path, "--strict"]) == 1
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_empty_answers_are_reported(config, capsys):
    path = config(ROW, {"conversation": [{"input": "hi", "output": ""}]})
    assert main(["check-custom-dataset", path, "--json"]) == 0
    (data,) = json.loads(capsys.readouterr().out)["data"]
    assert data["counts"]["empty_answers"] == 1
    (found,) = [finding for finding in data["findings"] if finding["kind"] == "empty_answers"]
    assert "1 row has an empty answer" in found["message"]
    assert "d.jsonl line 2" in found["message"]


def test_the_first_buffer_of_a_stream_is_shown(config, capsys):
    """A stream cannot be tokenised before training."""
    streaming = ["--cfg-options", "train_dataloader.dataset.streaming=True"]
    assert main(["check-custom-dataset", config(ROW, ROW), *streaming]) == 0
    said = capsys.readouterr()
    assert TEXT in said.out
    assert "the data is streamed: only its first rows are shown" in said.err
    assert main(["preprocess", "tokenize", config(ROW), *streaming]) == 1
    assert "has streaming = True, which tokenises nothing ahead" in capsys.readouterr().err


def test_a_table_becomes_data_that_trains(config, capsys, tmp_path, monkeypatch):
    """A sheet of questions and answers is converted, split and checked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "medqa.csv").write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(10)))
    table = ["preprocess", "table", "medqa.csv", "d.jsonl", "--input", "question", "--output", "answer"]
    assert main([*table, "--system", "You are a doctor."]) == 0
    assert capsys.readouterr().out == "Save to d.jsonl\n10 conversations\n"
    assert main(["preprocess", "split", "d.jsonl", "--ratio", "7:3", "--seed", "1"]) == 0
    assert capsys.readouterr().out == "train.jsonl: 7 rows\ntest.jsonl: 3 rows\n"
    path = config(ROW)
    assert main(["log-dataset", path, "--cfg-options", "data_path=train.jsonl", "--json"]) == 0
    (data,) = json.loads(capsys.readouterr().out)["data"]
    assert data["counts"]["rows"] == 7
    assert data["rows"][0]["mapped"][0]["system"] == "You are a doctor."


def test_arxiv_and_refcoco_print_their_output(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paper = {"categories": "cs.AI", "update_date": "2021-01-01"}
    Path("src.json").write_text(json.dumps(paper) + "\n{broken\n")
    words = ["preprocess", "arxiv", "src.json", "dst.json", "--start-date", "2020-01-01"]
    assert main([*words, "--categories", "cs.AI"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Save to dst.json",
        "1 item",
        "of 2 papers",
        "left out 1: not valid JSON (src.json line 2)",
    ]
    assert main(["preprocess", "refcoco", "--ann-path", "none"]) == 1
    assert "none has none of the folders refcoco" in capsys.readouterr().err
