"""From rows to items: every supervised token is there once, dropped ones are counted, errors name the row."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtuner.dataset import ConcatDataset, process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.encoding.conversations import encode_conversations
from xtuner.dataset.encoding.pipeline import NOTHING_TRAINED, PROMPT_FILLS, Encoding, map_row
from xtuner.dataset.map_fns import alpaca_map_fn, openai_map_fn, pretrain_map_fn, template_map_fn_factory
from xtuner.dataset.reading.files import FileRows
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.selection import take_split
from xtuner.dataset.reading.tables import ParquetFile
from xtuner.errors import ConfigError, DataError

TEXT = st.text("ab你 \n", max_size=15)
ROW = st.fixed_dictionaries(
    {"conversation": st.lists(st.fixed_dictionaries({"input": TEXT, "output": TEXT}))}
)
SHARED = {
    "max_examples": 20,
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}


def turn(question, answer, **more):
    return {"input": question, "output": answer, **more}


def conversations(*pairs):
    return [{"conversation": [turn(*pair)]} for pair in pairs]


def file_of(folder, rows, name="data.jsonl"):
    (folder / name).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return load_dataset(folder / name)


@pytest.fixture
def said(caplog):
    """The logged messages as one text."""
    caplog.set_level("INFO", logger="xtuner")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_one_row_gives_one_item(bos):
    """The smallest data there is, from an alpaca row to its item."""
    dataset = process_hf_dataset(
        [{"instruction": "Add.", "input": "", "output": "3"}],
        tokenizer=bos,
        max_length=64,
        dataset_map_fn=alpaca_map_fn,
        template_map_fn=template_map_fn_factory("default"),
    )
    asked, answer = ids_of(bos, "<|User|>:Add.\n\n<|Bot|>:"), [*ids_of(bos, "3"), bos.eos_token_id]
    ids = [bos.bos_token_id, *asked, *answer, *ids_of(bos, "\n")]
    (item,) = [dataset[i] for i in range(len(dataset))]
    assert item["input_ids"].tolist() == ids
    assert item["labels"].tolist() == [-100] * (1 + len(asked)) + answer + [-100]
    assert item["cumulative_len"] == [0, len(ids)]
    assert (item["input_ids"].dtype, item["labels"].dtype) == (np.int32, np.int64)
    assert (dataset.length.tolist(), dataset.source_rows(0)) == ([len(ids)], [0])
    with pytest.raises(IndexError):
        dataset[1]


@settings(**SHARED)
@given(
    rows=st.lists(ROW, max_size=12), max_length=st.integers(4, 60), shuffle=st.booleans(), pack=st.booleans()
)
def test_items_hold_exactly_what_encoding_gave(bos, rows, max_length, shuffle, pack):
    """No supervised token is lost or added between encoding and items, and no item is too long."""
    encoded = encode_conversations([row["conversation"] for row in rows], bos, max_length)
    wanted = {
        row: tuple(part.tolist() for part in encoded.sample(row))
        for row in range(len(rows))
        if encoded.sample(row)[1].any()
    }
    arguments = {"tokenizer": bos, "max_length": max_length, "pack_to_max_length": pack}
    if not wanted:
        with pytest.raises(DataError, match=r"the data is empty|has anything to train on"):
            process_hf_dataset(rows, shuffle_before_pack=shuffle, **arguments)
        return
    dataset = process_hf_dataset(rows, shuffle_before_pack=shuffle, **arguments)
    got = {}
    for index in range(len(dataset)):
        item = dataset[index]
        boundaries = item["cumulative_len"]
        assert boundaries[0] == 0
        assert (
            boundaries[-1]
            == len(item["input_ids"])
            == len(item["labels"])
            == dataset.length[index]
            <= max_length
        )
        for row, start, end in zip(dataset.source_rows(index), boundaries, boundaries[1:], strict=False):
            assert row not in got
            ids, labels = item["input_ids"][start:end], item["labels"][start:end]
            got[row] = (ids.tolist(), (labels != -100).tolist())
            assert (labels[labels != -100] == ids[labels != -100]).all()
    assert got == wanted
    assert dataset.stats["rows"] == len(rows)
    assert dataset.stats["trained"] == sum(sum(trained) for _, trained in wanted.values())
    assert dataset.stats["tokens"] == sum(len(ids) for ids, _ in wanted.values()) == dataset.length.sum()
    assert sum(dataset.stats["dropped"].values()) == len(rows) - len(wanted)
    if not shuffle or not pack:
        assert [row for i in range(len(dataset)) for row in dataset.source_rows(i)] == sorted(wanted)


@settings(**SHARED)
@given(
    texts=st.lists(st.text("ab你 x", min_size=1, max_size=40), min_size=1, max_size=5),
    max_length=st.integers(3, 9),
)
def test_documents_arrive_whole(bos, texts, max_length):
    """Documents continue in further samples; each token but the first is supervised once."""
    rows = [{"text": f"x{text}x"} for text in texts]
    dataset = process_hf_dataset(
        rows, tokenizer=bos, max_length=max_length, dataset_map_fn=pretrain_map_fn, pack_to_max_length=False
    )
    joined = [[] for _ in rows]
    targets = [[] for _ in rows]
    for index in range(len(dataset)):
        (row,) = dataset.source_rows(index)
        ids, labels = dataset[index]["input_ids"].tolist(), dataset[index]["labels"].tolist()
        goes_on = bool(joined[row])
        assert joined[row][-1:] == ids[: int(goes_on)], "it begins with the last token of the one before"
        joined[row] += ids[int(goes_on) :]
        targets[row] += [label for label in labels[1:] if label != -100]
    whole = [[bos.bos_token_id, *ids_of(bos, row["text"])] for row in rows]
    assert joined == whole
    assert targets == [ids[1:] for ids in whole]
    assert dataset.stats["trained"] == sum(len(ids) - 1 for ids in whole)
    assert dataset.stats["continued"] == sum(len(ids) > max_length for ids in whole)
    assert dataset.stats["cut"] == 0


def test_what_is_dropped_or_cut_is_counted_and_named(bos, tmp_path, said):
    """One line tells what became of the rows, with file and line of those that are gone."""
    rows = [
        *conversations(("q", "a"), ("q " * 50, "a"), ("q", "a " * 50)),
        {"conversation": []},
        {"conversation": [turn("q", "a", output_with_loss=False)]},
    ]
    data = file_of(tmp_path, rows)
    dataset = process_hf_dataset(data, tokenizer=bos, max_length=20)
    line = f"{tmp_path / 'data.jsonl'} line"
    assert dataset.stats["dropped_rows"] == {
        PROMPT_FILLS: [f"{line} 2"],
        NOTHING_TRAINED: [f"{line} 5"],
        "no conversation in them": [f"{line} 4"],
    }
    assert (dataset.stats["cut"], dataset.stats["samples"]) == (1, 2)
    assert "data: 5 rows; 3 dropped: " in said()
    assert f"1 with a prompt that alone fills max_length ({line} 2)" in said()
    assert "1 cut at 20 tokens" in said()
    assert dataset.source_places(0)[0].startswith(line)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the data is empty"),
        (
            [{"conversation": []}],
            "none of the 1 row has anything to train on: 1 with no conversation in them",
        ),
        (
            conversations(("long prompt " * 9, "a")),
            r"1 with a prompt that alone fills max_length \(row 0.*max_length is 8: raise it",
        ),
        ([{"conversation": [turn("q", "a", output_with_loss=False)]}], "1 with nothing to train on"),
        (conversations(("q", "a"), ("q", 3.5), ("q", ["x"])), r"row 2.*'output' is of type list"),
        ([{"conversation": "text"}], r"row 0.*'conversation' is of type str"),
        ([{"conversation": ["text"]}], r"row 0.*conversation\[0\] is of type str"),
        ([{"instruction": "a", "input": "", "output": "b"}], r"no field 'conversation'.*alpaca_map_fn"),
        ([{"a": 1}], r"no field 'conversation'; its fields are 'a'\. Give a dataset_map_fn"),
        ("data.json", "not str; for a file write"),
    ],
)
def test_data_that_cannot_be_used_is_one_clear_line(bos, rows, message):
    """The message says what is wrong, with which row, and what to do."""
    with pytest.raises(DataError, match=message):
        process_hf_dataset(rows, tokenizer=bos, max_length=8)


def test_a_row_without_the_field_of_its_map_function_is_named(bos, tmp_path):
    """File, line, the missing field, the fields there are and the nearest."""
    rows = [
        {"instruction": "a", "input": "", "output": "b"},
        {"instruction": "a", "input": "", "outptu": "b"},
    ]
    with pytest.raises(DataError) as caught:
        process_hf_dataset(file_of(tmp_path, rows), tokenizer=bos, max_length=9, dataset_map_fn=alpaca_map_fn)
    assert str(caught.value) == (
        f"{tmp_path / 'data.jsonl'} line 2: alpaca_map_fn: the row has no field 'output'; its fields are "
        "'instruction', 'input', 'outptu'. Did you mean 'outptu'?"
    )


def test_faults_of_a_users_own_map_function_name_the_row(bos):
    """A missing key, any other exception and a wrong result."""

    def fails(function, message):
        with pytest.raises(DataError, match=message):
            process_hf_dataset([{"q": 1}], tokenizer=bos, max_length=9, dataset_map_fn=function)

    fails(lambda row: row["a"], "row 0.*the row has no field 'a'; its fields are 'q'")
    fails(lambda row: 1 / 0, r"row 0.*ZeroDivisionError: division by zero")
    fails(lambda row: {}["x"]["y"], "row 0.*no field 'x'")
    fails(lambda row: [row], "must return a dict; it returned list")
    fails(lambda row: {"other": 1}, r"A dataset_map_fn must return \{'conversation'")
    rows = conversations(("q", "a"))
    with pytest.raises(DataError, match="in conversation form already: set dataset_map_fn = None"):
        process_hf_dataset(rows, tokenizer=bos, max_length=9, dataset_map_fn="alpaca")


def test_settings_that_cannot_work_are_refused(bos):
    """Before any row is read."""
    rows = conversations(("q", "a"))
    for arguments, message in [
        ({"max_length": 9}, "needs a tokenizer"),
        ({"tokenizer": bos}, "pack_to_max_length needs max_length"),
        ({"tokenizer": bos, "max_length": 0}, "max_length is 0"),
        ({"tokenizer": bos, "max_length": 9, "dataset_map_fn": "alpca"}, "Did you mean 'alpaca'"),
        ({"tokenizer": bos, "max_length": 9, "dataset_map_fn": "json.x"}, "'json.x' cannot be found"),
        ({"tokenizer": bos, "max_length": 9, "template_map_fn": {"type": 1}}, "must be a function"),
    ]:
        with pytest.raises(ConfigError, match=message):
            process_hf_dataset(rows, **arguments)


def test_functions_may_be_names_or_dotted_paths(bos):
    """Written-back configs hold paths."""
    rows = [{"instruction": "Add.", "input": "1", "output": "3"}]
    keys = {
        process_hf_dataset(rows, tokenizer=bos, max_length=9, dataset_map_fn=given).key
        for given in (alpaca_map_fn, "alpaca", "xtuner.dataset.map_fns.alpaca_map_fn")
    }
    assert len(keys) == 1


def test_the_split_is_chosen_or_all_are_taken(bos):
    """`split=None` joins all; a missing one is answered with those there are."""
    splits = {"train": conversations(("q", "a")), "test": conversations(("q", "b"), ("q", "c"))}
    sizes = {
        split: process_hf_dataset(splits, tokenizer=bos, max_length=9, split=split).stats["rows"]
        for split in ("train", "test", None)
    }
    assert sizes == {"train": 1, "test": 2, None: 3}
    with pytest.raises(DataError, match=r"no split 'tset'; it has 'train', 'test'\. Did you mean 'test'"):
        process_hf_dataset(splits, tokenizer=bos, max_length=9, split="tset")


def test_at_most_max_dataset_length_rows_are_used(bos):
    """A seeded choice without doubles; more than there are means all."""
    rows = conversations(*[("q", str(i)) for i in range(50)])
    pick = lambda n, seed=0: process_hf_dataset(  # noqa: E731
        rows, tokenizer=bos, max_length=9, max_dataset_length=n, seed=seed, pack_to_max_length=False
    )
    chosen = [pick(10).source_rows(i)[0] for i in range(10)]
    assert len(pick(10)) == 10
    assert chosen == sorted(set(chosen))
    assert [pick(10, 1).source_rows(i)[0] for i in range(10)] != chosen
    assert len(pick(1000)) == 50


def test_a_second_run_maps_what_the_first_one_wrote(bos, tmp_path, monkeypatch):
    """The same rows, settings and tokenizer are tokenised once; a changed file never uses old tokens."""
    arguments = {"tokenizer": bos, "max_length": 30}
    first = process_hf_dataset(file_of(tmp_path, conversations(("q", "a"))), **arguments)
    other = process_hf_dataset(file_of(tmp_path, conversations(("q", "b"))), **arguments)
    assert first.key != other.key
    monkeypatch.setattr(
        "xtuner.dataset.encoding.pipeline.plan_conversations", lambda *a, **k: pytest.fail("again")
    )
    again = process_hf_dataset(file_of(tmp_path, conversations(("q", "a"))), **arguments)
    assert again.key == first.key
    assert again.stats == first.stats
    assert again[0]["input_ids"].tolist() == first[0]["input_ids"].tolist()


def test_the_key_tells_data_and_plan_apart(bos):
    """Checked on resume: another seed, length or row is another key; the same run has the same."""
    rows = conversations(*[("q" * i, "a") for i in range(30)])

    def make(rows=rows, **more):
        return process_hf_dataset(rows, **{"tokenizer": bos, "max_length": 40, **more}).key

    assert make() == make()
    others = [make(seed=1), make(max_length=41), make(rows=rows[1:]), make(shuffle_before_pack=False)]
    assert len({make(), *others}) == 5


def test_an_arrow_table_gives_the_same_items_as_its_rows(bos):
    """Arrow fills missing keys of a turn with null: such turns are supervised, with their end."""
    datasets = pytest.importorskip("datasets")
    rows = [
        {"conversation": [turn("q", "a"), turn("q", "b", output_with_loss=False, system="S")]},
        {"conversation": [turn("q", "c", need_eos_token=False, sep="\n")]},
    ]
    table = datasets.Dataset.from_list(rows)
    assert table[0]["conversation"][0]["output_with_loss"] is None
    template = template_map_fn_factory("default")
    arguments = {
        "tokenizer": bos,
        "max_length": 64,
        "template_map_fn": template,
        "shuffle_before_pack": False,
    }
    plain, arrow = (
        process_hf_dataset(data, **arguments) for data in (rows, datasets.DatasetDict(train=table))
    )
    assert plain[0]["labels"].tolist() == arrow[0]["labels"].tolist()
    assert plain.key == arrow.key


def test_other_fields_stay_with_an_unpacked_item(bos):
    """Unless they are to be removed; a packed item has none."""
    rows = [{"image": "a.jpg", **conversations(("q", "a"))[0]}]
    fields = lambda **more: set(process_hf_dataset(rows, tokenizer=bos, max_length=9, **more)[0])  # noqa: E731
    own = {"input_ids", "labels", "cumulative_len"}
    assert fields(pack_to_max_length=False) == {*own, "image", "conversation"}
    assert fields(pack_to_max_length=False, remove_unused_columns=True) == fields() == own


def test_fields_can_be_renamed(bos):
    """Old name, new name."""
    rows = [{"dialogue": [turn("q", "a")]}]
    dataset = process_hf_dataset(
        rows, tokenizer=bos, max_length=9, rename_maps=[("dialogue", "conversation")]
    )
    assert dataset.stats["samples"] == 1


def test_rows_that_are_tokens_already_are_taken_as_they_are():
    """An offline preparation: boundaries inside a row are kept, packing can still be done here."""
    rows = [
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "cumulative_len": [0, 2, 3]},
        {"input_ids": [4, 5], "labels": [-100, 5]},
    ]
    done = {"do_dataset_tokenization": False, "split": None}
    dataset = process_hf_dataset(rows, **done, pack_to_max_length=False)
    assert [dataset[i]["input_ids"].tolist() for i in range(2)] == [[1, 2, 3], [4, 5]]
    assert [dataset[i]["cumulative_len"] for i in range(2)] == [[0, 2, 3], [0, 2]]
    assert [dataset[i]["labels"].tolist() for i in range(2)] == [[-100, 2, 3], [-100, 5]]
    packed = process_hf_dataset(rows, **done, max_length=5)
    assert packed.length.tolist() == [5]
    with pytest.raises(DataError, match="2 tokens, more than max_length = 1"):
        process_hf_dataset(rows, **done, max_length=1)
    with pytest.raises(DataError, match=r"row 0.*a label must be its token's id or -100"):
        process_hf_dataset([{"input_ids": [1], "labels": [2]}], **done, pack_to_max_length=False)


def test_without_outputs_unsupervised_items_are_kept(bos):
    """For asking a model there is nothing to train, and nothing is dropped for it."""
    dataset = process_hf_dataset(
        conversations(("q", "a")), tokenizer=bos, input_ids_with_output=False, pack_to_max_length=False
    )
    assert dataset[0]["input_ids"].tolist() == [bos.bos_token_id, *ids_of(bos, "q")]
    assert dataset[0]["labels"].tolist() == [-100, -100]


def test_a_system_text_without_a_template_is_mentioned(bos, said):
    """It would not reach the model, which is logged."""
    process_hf_dataset([{"conversation": [turn("q", "a", system="S")]}], tokenizer=bos, max_length=9)
    assert "without a template_map_fn it does not reach the model" in said()


def test_data_sets_can_be_joined(bos):
    """Items, lengths, counts and rows of all, one data set after the other."""
    one = process_hf_dataset(conversations(("q", "a"), ("q" * 40, "a")), tokenizer=bos, max_length=9)
    two = process_hf_dataset(conversations(("q", "bcd"), ("q" * 40, "e")), tokenizer=bos, max_length=9)
    both = ConcatDataset(datasets=[one, two])
    assert len(both) == len(one) + len(two)
    items = [*(one[i] for i in range(len(one))), *(two[i] for i in range(len(two)))]
    assert [both[i]["input_ids"].tolist() for i in range(len(both))] == [
        i["input_ids"].tolist() for i in items
    ]
    assert both.length.tolist() == [*one.length, *two.length]
    assert both.stats["rows"] == 4
    assert both.stats["dropped"] == {PROMPT_FILLS: 2}
    assert both.stats["dropped_rows"] == {PROMPT_FILLS: ["row 1 (counted from 0)"] * 2}
    assert both.stats["fill"] == pytest.approx(both.length.sum() / (9 * len(both)))
    assert both.stats["trained_share"] == both.stats["trained"] / both.stats["tokens"]
    assert both.source_rows(len(one)) == two.source_rows(0)
    assert both.key != ConcatDataset([two, one]).key
    with pytest.raises(DataError, match="at least one"):
        ConcatDataset([])


def test_worker_processes_open_the_tokens_themselves(bos, tmp_path):
    """A pickled data set is small and reads the same items; a batch comes from them."""
    data = file_of(tmp_path, conversations(*[("q", "a" * i) for i in range(200)]))
    dataset = process_hf_dataset(data, tokenizer=bos, max_length=64)
    sent = pickle.loads(pickle.dumps(dataset))
    assert sent[0]["labels"].tolist() == dataset[0]["labels"].tolist()
    assert sent.source_places(0) == dataset.source_places(0)
    batch = default_collate_fn([sent[0], sent[1]])["data"]
    assert batch["input_ids"].shape == (2, max(dataset.length[:2]))


def test_a_row_is_mapped_and_put_in_its_template(bos):
    """The stage that tools show to the user."""
    settings_of_run = Encoding(bos, 9, alpaca_map_fn, template_map_fn_factory("default"))
    (only,) = map_row({"instruction": "Add.", "input": "1", "output": "3"}, settings_of_run)
    assert only["input"] == "<|User|>:Add.\n1\n<|Bot|>:"


def test_keys_that_arrow_filled_in_are_not_there(bos, tmp_path):
    """Arguments and schemas of one row do not get the keys of another's; a null in JSON stays."""
    import datasets

    def row(**arguments):
        call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
        return {
            "tools": [{"name": "add", "parameters": {key: {"type": "string"} for key in arguments}}],
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
            ],
        }

    rows = [row(city="P"), row(unit="C", round=None)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    table = datasets.Dataset.from_list(json.loads(json.dumps(rows)))
    table.to_parquet(tmp_path / "rows.parquet")
    settings = Encoding(bos, 64, openai_map_fn)
    found = {}
    for name, source in {
        "jsonl": load_dataset(str(tmp_path / "rows.jsonl"), split="train"),
        "parquet": load_dataset(str(tmp_path / "rows.parquet"), split="train"),
        "parquet of ours": FileRows([ParquetFile(tmp_path / "rows.parquet")]),
        "table": table,
    }.items():
        selection = take_split(source, None)
        for read in (selection.row(1), list(selection)[1][1]):
            (turn,) = map_row(read, settings)
            found[name] = turn["tools"], json.loads(turn["output"])["arguments"]
    schema, arguments = found.pop("jsonl")
    assert (schema[0]["parameters"].keys(), arguments) == ({"unit", "round"}, {"unit": "C", "round": None})
    # Of a table it cannot be told that the second row had a null of its own.
    for schema, arguments in found.values():
        assert (schema[0]["parameters"].keys(), arguments) == ({"unit", "round"}, {"unit": "C"})


def test_a_row_has_one_template_whatever_its_messages_hold(tokenizers):
    """A name beside a content is no reason for the tokenizer's own template where another is asked for."""
    tokenizer = copy.deepcopy(tokenizers["qwen"])
    tokenizer.chat_template = "{{ raise_exception('not this one') }}"

    def ids(**more):
        messages = [{"role": "user", "content": "q", **more}, {"role": "assistant", "content": "x"}]
        (item,) = process_hf_dataset(
            [{"messages": messages}],
            tokenizer=tokenizer,
            max_length=64,
            dataset_map_fn="auto",
            template_map_fn=template_map_fn_factory("qwen_chat"),
        )
        return item["input_ids"].tolist()

    assert ids(name="bob") == ids(weight=1) == ids()
