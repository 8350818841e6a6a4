"""The first updates of several processes again: by as many, and by one."""

from __future__ import annotations

import importlib.util
import json
import textwrap

import pytest

from xtuner.config import parse_config
from xtuner.engine.replay.compare import Comparison, compare
from xtuner.engine.replay.files import find_record, read_record
from xtuner.engine.replay.rerun import options_of, rerun
from xtuner.engine.replay.updates import Tolerance
from xtuner.recipes.deepspeed_files import deepspeed_file

LORA = {"type": "peft.LoraConfig", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}

CASES: dict[str, dict] = {
    "ddp": {"lora": LORA},
    "fsdp": {"fsdp": True},
    "shared": {"sequence_parallel_size": 2},
}
if importlib.util.find_spec("deepspeed") is not None:
    names = ("zero2", "zero3")
    files = {name: deepspeed_file(f"deepspeed_{name}").read_text() for name in names}
    CASES |= {name: {"deepspeed": json.loads(text)} for name, text in files.items()}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")]


@pytest.fixture(scope="module")
def two_replayed(tmp_path_factory, common, launched):
    """The folder of runs of two processes, which have been replayed by two."""
    folder = tmp_path_factory.mktemp("replayed")
    short = {**common, "max_iters": 4}
    cases = {name: {**short, **case} for name, case in CASES.items()}
    assert launched(cases, folder, 2, "replay_in_world") == 0
    return folder


def by_one(folder, name, common, **options) -> Comparison:
    from tests.parallel.conftest import _train

    record = read_record(find_record(folder / name))
    text = textwrap.dedent(_train().__globals__["CONFIG"])
    config = parse_config(text, "world.py", {**common, "max_iters": 8, **options})
    found = []
    run_options = options_of(record, config)

    def judge(again, _tokenizer):
        found.append(compare(record, again, Tolerance(1e-5)))
        return 0

    rerun(config, run_options, 3, judge)
    return found[0]


@pytest.mark.parametrize("name", CASES)
def test_as_many_processes_give_the_same(name, two_replayed):
    """Each process with itself, whole weights or parts; DeepSpeed divides them after the record."""
    verdict = json.loads((two_replayed / f"{name}.json").read_text())
    assert verdict == "Equal: 3 updates and all that they depend on"
    record = read_record(find_record(two_replayed / name))
    assert [len(update["processes"]) for update in record["updates"]] == [2, 2, 2]
    assert record["initial"][0]["divided"] == str(name == "fsdp")
    assert (record["initial"][0] == record["initial"][1]) == (name != "fsdp")


def test_one_process_with_the_same_rows_in_an_update(two_replayed, common):
    """The samples by their rows, the mean of the losses, the norm."""
    found = by_one(two_replayed, "ddp", common, lora=LORA, accumulative_counts=2)
    assert found.is_equal
    assert found.verdict.startswith("Equal within the tolerance: 3 updates, though the config changed (")
    lines = {line.title: line for line in found.lines}
    assert lines["processes"].detail.startswith("processes: 2 -> 1; accumulative_counts: 1 -> 2")
    assert lines["update 1 rows"].detail.endswith(", in other batches")
    assert {line.state for title, line in lines.items() if title.startswith("update")} == {"equal"}


def test_one_process_with_other_rows_in_an_update(two_replayed, common):
    """What can be compared is; the verdict says that processes are why the rest cannot."""
    found = by_one(two_replayed, "fsdp", common)
    assert not found.is_equal
    assert ": the processes changed (processes: 2 -> 1)" in found.verdict
    lines = {line.title: line for line in found.lines}
    assert lines["update 1 loss"].state == "not compared"
    assert lines["initial weights"].state == "changed"
    assert lines["initial weights"].detail == "divided among other processes: not compared"
    assert lines["update 1 input_ids"].state == "equal"
