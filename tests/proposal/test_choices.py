"""The choices of new-cfg: from facts to settings, each with a reason."""

import copy
import dataclasses
import json

import pytest

from xtuner.config import parse_config
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.map_fns import template_map_fn_factory
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import DataError, ModelError
from xtuner.estimate.configured import read_training
from xtuner.estimate.machine import Machine
from xtuner.estimate.memory import estimate
from xtuner.estimate.shape import read_shape
from xtuner.proposal.choices import choose
from xtuner.proposal.config import write_config
from xtuner.proposal.data import DataFacts, look_at_data
from xtuner.proposal.model import ModelFacts, look_at_model
from xtuner.recipes.sizes import SIZES

SHAPE = read_shape({**SIZES["llama3_8b"], "max_position_embeddings": 8192})
MODEL = ModelFacts("m", "llama", 8192, SHAPE, "llama3_chat", "why", None)


def card(gb):
    return Machine("cuda", "GPU", int(gb * 1e9), int(gb * 1e9))


def data(lengths, num_rows=None, *, is_text=False):
    rows = len(lengths) if num_rows is None else num_rows
    return DataFacts("d", rows, "alpaca", "why", "alpaca_map_fn", is_text, sorted(lengths), [], [])


@pytest.mark.parametrize(
    ("gb", "method", "recompute"),
    [(80, "lora", False), (24, "qlora", False), (28, "lora", False), (26, "lora", True), (12, "qlora", True)],
)
def test_the_method_follows_the_memory(gb, method, recompute):
    """LoRA in 16 bits where it fits; activations are kept where they fit."""
    plan = choose(MODEL, data([200] * 1000), card(gb))
    assert plan.value("method") == method
    assert plan.value("use_activation_checkpointing") == recompute
    assert plan.memory_bytes < gb * 1e9


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
@pytest.mark.parametrize("gb", [200, 24, 8])
def test_the_memory_is_that_of_the_config_which_is_written(gb, method):
    """Whatever is recomputed, and of the batches and updates that were chosen."""
    facts = data([300] * 50, 100_000)
    plan = choose(MODEL, facts, card(gb), method)
    config = parse_config(write_config("my", MODEL, facts, plan), "my.py")
    assert plan.memory_bytes == estimate(SHAPE, read_training(config, SHAPE, card(gb))).total


@pytest.mark.parametrize(("gb", "is_stored", "copies"), [(400, False, 1), (180, True, 0), (100, True, 0)])
def test_dpo_of_all_weights_holds_a_copy_where_it_fits(gb, is_stored, copies):
    """The copy counts; the config that is written needs what was estimated."""
    facts = dataclasses.replace(data([200] * 1000), map_fn=None, is_pairs=True)
    plan = choose(MODEL, facts, card(gb), "dpo_full")
    assert plan.value("stored_reference") == is_stored
    assert "lr" not in {choice.name for choice in plan.choices}
    config = parse_config(write_config("my", MODEL, facts, plan), "my.py")
    assert config.model.get("stored_reference", False) == is_stored
    assert config.optim_wrapper.optimizer.lr == 5e-7
    run = read_training(config, SHAPE, card(gb))
    assert run.copies == copies
    assert plan.memory_bytes == estimate(SHAPE, run).total


def test_dpo_of_all_weights_of_an_unknown_size_needs_no_copy():
    facts = dataclasses.replace(data([200]), map_fn=None, is_pairs=True)
    plan = choose(dataclasses.replace(MODEL, shape=None), facts, card(24), "dpo_full")
    assert plan.value("stored_reference")


def test_a_method_that_is_asked_for_is_taken():
    assert choose(MODEL, data([200]), card(24), "full").value("method") == "full"


@pytest.mark.parametrize(
    ("lengths", "num_rows", "expected"),
    [
        ([100] * 50, 50, 256),
        ([300] * 50, 50, 512),
        ([300] * 50, 100_000, 2048),
        ([3000] * 50, 100_000, 4096),
        ([300] * 199 + [5000], 200, 512),
        ([20_000] * 5, 5, 8192),
    ],
)
def test_the_length_follows_the_rows(lengths, num_rows, expected):
    """A power of two for 99 of 100 rows, no more than the model's positions; short rows share 2048 tokens."""
    assert choose(MODEL, data(lengths, num_rows), card(80)).value("max_length") == expected


def test_rows_that_are_cut_are_counted_in_the_reason():
    choices = choose(MODEL, data([20_000, 10]), card(80)).choices
    (why,) = [c.why for c in choices if c.name == "max_length"]
    assert why.endswith("the model has no more positions; 1 of 2 measured are cut")


def test_small_data_has_small_updates():
    """A hundred updates where the data gives them, 32768 tokens in each where it is large."""
    few = choose(MODEL, data([100] * 50), card(80))
    many = choose(MODEL, data([300] * 50, 100_000), card(80))
    assert few.value("accumulative_counts") == 1
    assert many.value("accumulative_counts") * many.value("batch_size") * 2048 == 32768


def test_one_update_is_no_updates():
    choices = choose(MODEL, data([10] * 5), card(80)).choices
    (choice,) = [c for c in choices if c.name == "accumulative_counts"]
    assert choice.why.startswith("about 1 update of ")


def test_text_is_read_once():
    assert choose(MODEL, data([100], is_text=True), card(80)).value("max_epochs") == 1


def test_a_folder_says_its_family_template_and_sizes(llama_dir):
    found = look_at_model(str(llama_dir))
    assert (found.family, found.context, found.template, found.row) == ("llama", 512, "qwen_chat", None)
    assert look_at_model(str(llama_dir), "default").template == "default"


def test_a_hub_name_is_answered_with_what_to_do(monkeypatch):
    monkeypatch.setattr("xtuner.hub.is_reachable", lambda: True)
    with pytest.raises(ModelError, match="fetch it first and give the folder"):
        look_at_model("someone/something")


def test_rows_say_their_format_and_length(tmp_path, tokenizer):
    file = tmp_path / "d.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a" * n}]}
        for n in (9, 90)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = look_at_data(str(file), tokenizer, "default")
    assert (found.num_rows, found.format_name, found.map_fn, found.is_text) == (
        2,
        "openai",
        "openai_map_fn",
        False,
    )
    assert found.questions == ["Hi"]
    assert found.lengths[0] < found.lengths[1]


ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize(
    ("row", "map_fn"),
    [
        (ALPACA, "alpaca_map_fn"),
        ({**ALPACA, "input": ""}, "alpaca_map_fn"),
        ({**ALPACA, "system": "Be brief."}, "auto"),
        ({"instruction": "Add 1 and 2.", "output": "3"}, "auto"),
        ({"conversation": [{"input": "Hi", "output": "Hello"}]}, None),
        (
            {"conversations": SHAREGPT},
            "sharegpt_map_fn",
        ),
        ({"question": "Hi", "answer": "Hello"}, "auto"),
        ({"Question": "Hi", "Answer": "Hello"}, "auto"),
        ({"text": "Once."}, "pretrain_map_fn"),
    ],
)
def test_the_map_function_is_named_where_it_makes_the_same_of_every_row(tmp_path, tokenizer, row, map_fn):
    """None for rows that are conversations already; 'auto' for rows that no single named function reads."""
    file = tmp_path / "d.json"
    file.write_text(json.dumps([row, row]))
    assert look_at_data(str(file), tokenizer, "default").map_fn == map_fn


TOOLS = [
    {"type": "function", "function": {"name": f"tool_{n}", "description": "What it does."}} for n in range(9)
]
WRITES_TOOLS = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", ["auto", "qwen_chat"])
def test_rows_are_as_long_as_training_makes_them(tmp_path, tokenizer, template):
    """With the text of their tools, where the template writes it; broken rows are left out."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = WRITES_TOOLS
    asked, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    rows = [{"messages": [asked, answer] * n, "tools": TOOLS[: 9 * (n % 2)]} for n in range(1, 30)]
    file = tmp_path / "d.jsonl"
    file.write_text("\n".join([*map(json.dumps, rows), '{"messages": [']))
    found = look_at_data(str(file), tokenizer, template)
    trained = process_hf_dataset(
        load_dataset(str(file)),
        tokenizer=tokenizer,
        max_length=None,
        dataset_map_fn="auto",
        template_map_fn=template_map_fn_factory(template),
        pack_to_max_length=False,
    )
    assert found.lengths == sorted(map(len, (item["input_ids"] for item in trained)))
    assert found.prompts == sorted(
        next(n for n, label in enumerate(item["labels"]) if label != -100) for item in trained
    )


def test_rows_without_room_for_an_answer_are_told():
    """Where the model has no positions for more than their prompt."""
    long = DataFacts("d", 3, "openai", "why", "openai_map_fn", False, [10, 9000, 9001], [], [5, 80, 8192])
    (why,) = [c.why for c in choose(MODEL, long, card(80)).choices if c.name == "max_length"]
    assert why.endswith("2 of 3 measured are cut, 1 of them before their first answer")
    none = DataFacts("d", 1, "openai", "why", "openai_map_fn", False, [9000], [], [8999])
    with pytest.raises(
        DataError, match="d: no row has room for an answer in the 8192 positions of the model"
    ):
        choose(MODEL, none, card(80))
