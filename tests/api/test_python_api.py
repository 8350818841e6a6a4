"""`from xtuner import new_config, train, chat, evaluate`: the commands as functions."""

import inspect
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import xtuner
from xtuner.api.training import Asked
from xtuner.engine.hooks import LoggerHook
from xtuner.errors import ConfigError, NotFoundError
from xtuner.tools import chat as chat_command
from xtuner.tools import eval as eval_command
from xtuner.tools import new_cfg as new_cfg_command
from xtuner.tools import train as train_command

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

RECIPE = "internlm2_chat_1_8b_qlora_alpaca_e3"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Rows in a folder in which the test works."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for n in range(12):
            messages = [("user", f"Say {n}"), ("assistant", f"It is {n}.")]
            print(json.dumps({"messages": [dict(role=r, content=c) for r, c in messages]}), file=file)
    return path


@pytest.fixture
def config(llama_dir, data):
    return xtuner.new_config(
        model=llama_dir, data=data, method="lora", template="default", max_epochs=1, max_length=64,
        evaluation_freq=None, custom_hooks=[],
    )  # fmt: skip


def test_importing_xtuner_loads_nothing():
    """Only the functions that are used are imported, and torch by none of them."""
    code = "import sys, xtuner; light = {m for m in sys.modules if m.startswith('xtuner')}; "
    code += "from xtuner import new_config, train, chat, evaluate; "
    code += "import inspect; inspect.signature(chat), inspect.signature(evaluate); "
    code += "sys.exit(str((light, {'torch', 'numpy', 'transformers'} & set(sys.modules))))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr == "({'xtuner'}, set())\n"


@pytest.mark.parametrize("before", ["", "import xtuner.chat.session; "])
def test_chat_is_a_function_and_a_package(before):
    """Whatever was imported first."""
    code = f"{before}from xtuner import chat; from xtuner.chat.settings import Settings; import inspect; "
    code += "assert 'temperature' in inspect.signature(chat).parameters; chat('no/such/folder/x')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "NotFoundError" in run.stderr


def options_of(parse_args, *needed):
    """The options of a command with their defaults."""
    return {
        name: tuple(v) if isinstance(v, list) else v for name, v in vars(parse_args(list(needed))).items()
    }


def test_arguments_are_the_commands_options():
    """Names and defaults; what is of the screen, the files or the launcher of a command is left out."""

    def of(function):
        return {
            n: p.default
            for n, p in inspect.signature(function).parameters.items()
            if p.default is not p.empty
        }

    train = options_of(train_command.parse_args, "c.py")
    assert {**of(xtuner.train), "cfg_options": ()} == {
        k: v for k, v in train.items() if k not in ("config", "local_rank")
    }
    chat = options_of(chat_command.parse_args, "m")
    del chat["model_name_or_path"], chat["no_streamer"]
    assert of(xtuner.chat) == chat
    evaluate = options_of(eval_command.parse_args, "m", "--tasks", "t")
    for name in ("model", "tasks", "launcher", "local_rank"):
        del evaluate[name]
    assert of(xtuner.evaluate) == evaluate
    new = options_of(new_cfg_command.parse_args, "--model", "m", "--data", "d")
    del new["out"], new["force"]
    assert of(xtuner.new_config) == new | {"model": None, "data": None, "lang": None, "name": None}
    assert set(Asked.__dataclass_fields__) == of(xtuner.train).keys() - {"cfg_options", "tracker", "run_name"}


def test_a_built_in_config_takes_model_data_and_settings():
    """As copy-cfg does; names that depend on them follow, also later."""
    config = xtuner.new_config(
        RECIPE,
        model="./base",
        data="rows.json",
        template="default",
        lr=1e-4,
        **{"train_dataloader.num_workers": 0},
    )
    assert config.pretrained_model_name_or_path == "./base"
    assert config.train_dataloader.dataset.dataset.path == "rows.json"
    assert (config.optim_wrapper.optimizer.lr, config.train_dataloader.num_workers) == (1e-4, 0)
    config.lr = 3e-4
    assert config.optim_wrapper.optimizer.lr == 3e-4
    assert "lr = 0.0003" in config.text
    assert config.filename == f"{RECIPE}.py"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "new_config needs the name of a config, or model and data"),
        (("internlm2_chat_1_8b_qlora_alpaca_e",), {}, "Did you mean"),
        ((RECIPE,), {"lrr": 1}, "Did you mean 'lr'"),
        ((RECIPE,), {"method": "lora"}, "method is for a config that is not there yet"),
        (
            (),
            {"model": "m", "data": "d", "method": "lorra"},
            "there is no method 'lorra'. Did you mean 'lora' or 'qlora'?",
        ),
    ],
)
def test_mistakes_are_errors_in_one_line(arguments, options, message):
    with pytest.raises((ConfigError, NotFoundError)) as error:
        xtuner.new_config(*arguments, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_training_gives_its_files_and_numbers(config, llama_dir, capfd):
    """Twice in one process: the same losses by the same seed, each line logged once."""
    config.randomness = dict(seed=1)
    config.default_hooks.logger.interval = 1
    first = xtuner.train(config, work_dir="one")
    capfd.readouterr()
    second = xtuner.train(config, work_dir="two", cfg_options={"lr": config.lr})
    lines = capfd.readouterr().err.split("\n")
    assert sum("Iter(train) [1/" in line.replace("[ ", "[") for line in lines) == 1
    assert first.losses == second.losses
    assert len(first.losses) == len(first.scalars["lr"]) > 0
    assert first.last_checkpoint.parent.name == "one"
    assert (first.work_dir / "my_config.py").read_text() == config.text
    folder = first.pth_to_hf()
    assert (folder / "adapter_config.json").is_file()
    session = xtuner.chat(llama_dir, adapter=folder, torch_dtype="fp32", max_new_tokens=4, temperature=0)
    assert session.ask("Say 1") == session.messages[-1]["content"]


@pytest.mark.slow
def test_it_trains_in_processes_of_its_own(config, monkeypatch):
    """NPROC_PER_NODE, as of the command; also a config that is built on another file, with settings."""
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    Path("base_of_mine.py").write_text(config.text)
    text = "from xtuner.config import read_base\n\nwith read_base():\n    from .base_of_mine import *\n"
    Path("mine.py").write_text(text)
    options = {"lr": 1e-3, "max_epochs": 1, "default_hooks.logger.interval": 1}
    run = xtuner.train("mine.py", work_dir="two", seed=1, cfg_options=options)
    assert run.last_checkpoint.parent.name == "two"
    assert run.losses
    (record,) = Path("two").glob("*/replay.json")
    assert len(json.loads(record.read_text())["initial"]) == 2


def test_what_a_notebook_defines_is_refused_before_processes_start(config, monkeypatch):
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    mine = type("Mine", (LoggerHook,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", mine, raising=False)
    config.custom_hooks = [dict(type=mine)]
    with pytest.raises(ConfigError) as error:
        xtuner.train(config, work_dir="three")
    assert str(error.value) == (
        "custom_hooks.0.type is Mine of this notebook or script, which the processes of NPROC_PER_NODE "
        "cannot import: put it in a file and import it from there"
    )


def test_global_state_is_as_before(config):
    """Random numbers go on as if there had been no training; so do threads and settings of torch."""
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = (torch.rand(2).tolist(), random.random(), np.random.rand())
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    config.randomness = dict(seed=1, deterministic=True)
    threads, environment = torch.get_num_threads(), dict(os.environ)
    xtuner.train(config, work_dir="one")
    assert (torch.rand(2).tolist(), random.random(), np.random.rand()) == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), dict(os.environ)) == (threads, environment)


def test_a_training_in_a_thread_needs_no_signals(config):
    found = []
    thread = threading.Thread(target=lambda: found.append(xtuner.train(config, work_dir="one")))
    thread.start()
    thread.join()
    assert found[0].last_checkpoint is not None


def test_an_interrupt_saves_and_raises_what_notebooks_expect(config, monkeypatch):
    """Not SystemExit, which would end the kernel."""
    with monkeypatch.context() as patched:
        patched.setattr(LoggerHook, "after_train_iter", lambda *a, **k: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            xtuner.train(config, work_dir="one")
    assert xtuner.train(config, work_dir="one", resume=True).last_checkpoint is not None


def test_a_config_of_something_else_is_an_error():
    for value in (3, {"model": 1}):
        with pytest.raises(ConfigError, match="is no config: give a file"):
            xtuner.train(value)
    with pytest.raises(ConfigError, match="this is a part of a config"):
        xtuner.train(xtuner.new_config(RECIPE).model)
    with pytest.raises(NotFoundError, match="there is no config file 'no"):
        xtuner.train("no.py")


def test_a_session_streams_and_shows_nothing(llama_dir, capfd):
    """The pieces are the answer; what was not asked for is not printed."""
    options = dict(torch_dtype="fp32", temperature=0, prompt_template="default", system="Be kind.")
    with xtuner.chat(llama_dir, max_new_tokens=8, **options) as session:
        whole = session.ask("hello")
        session.reset()
        assert "".join(session.stream("hello")) == whole
        assert session.messages == [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": whole},
        ]
        assert session.undo()
        assert len(session.messages) == 1
        with pytest.raises(ConfigError, match="reads no images: name a vision-language model"):
            session.ask("what is it?", image="cat.png")
    out = capfd.readouterr()
    assert (out.out, [line for line in out.err.split("\n") if "INFO" in line]) == ("", [])


def test_an_answer_that_is_no_longer_asked_for_ends(llama_dir):
    """What was generated until then is in the history."""
    with xtuner.chat(llama_dir, max_new_tokens=800, torch_dtype="fp32", prompt_template="default") as session:
        for _ in session.stream("hello"):
            break
        assert session.last.finish == "cancelled"
        assert len(session.last.ids) < 800
        assert session.messages[-1] == {"role": "assistant", "content": session.last.text}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: xtuner.chat(m, temprature=0),
            "chat has no option 'temprature'. Did you mean 'temperature'?",
        ),
        (lambda m: xtuner.chat(m, temperature=-1), "--temperature is -1: write 0"),
        (lambda m: xtuner.evaluate(m, "t", shot=1), "evaluate has no option 'shot'. Did you mean 'shots'?"),
        (lambda m: xtuner.evaluate(m, "t", include_path="d"), "--include-path is for --harness"),
    ],
)
def test_options_that_are_wrong_are_one_line(llama_dir, call, message):
    with pytest.raises(ConfigError) as error:
        call(llama_dir)
    assert message in str(error.value)


def test_scores_are_those_of_the_command(llama_dir, data, capfd):
    """By task and metric; the files are there too."""
    (data.parent / "choices.jsonl").write_text(
        "".join(
            json.dumps({"question": f"{n}?", "A": "one", "B": "two", "answer": "A"}) + "\n" for n in range(4)
        )
    )
    scores = xtuner.evaluate(
        llama_dir,
        ["choices.jsonl", "rows.jsonl"],
        limit=4,
        max_new_tokens=3,
        torch_dtype="fp32",
        metrics="exact",
        work_dir="out",
    )
    assert scores.keys() == {"choices", "rows"}
    assert scores["rows"] == {"exact": 0.0}
    assert 0 <= scores["choices"]["acc"] <= 1
    assert scores.standard_errors["rows"] == {"exact": 0.0}
    assert "out" in scores.notes[-1]
    words = ["choices.jsonl", "rows.jsonl", "--limit", "4", "--max-new-tokens", "3", "--torch-dtype", "fp32"]
    assert (
        eval_command.main([str(llama_dir), "--tasks", *words, "--metrics", "exact", "--work-dir", "again"])
        == 0
    )
    results = json.loads(next((data.parent / "again").rglob("results.json")).read_text())
    assert f"{scores['choices']['acc']:.4f}" in capfd.readouterr().out
    assert "choices" in json.dumps(results)


def test_nothing_is_logged_twice(llama_dir, capfd):
    """After any number of calls the log has one handler on the console."""
    for _ in range(2):
        xtuner.chat(llama_dir, torch_dtype="fp32")
    logging.getLogger("xtuner").warning("once")
    assert capfd.readouterr().err.count("once") == 1
