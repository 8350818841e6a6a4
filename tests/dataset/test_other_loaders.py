"""Data of ModelScope, MOSS and InternLM's trainer become the same kind of items."""

import itertools
import json
import sys

import numpy as np
import pytest

from xtuner.dataset import MOSSSFTDataset, process_hf_dataset, process_ms_dataset
from xtuner.dataset.intern_repo import (
    build_packed_dataset,
    load_intern_repo_tokenized_dataset,
    load_intern_repo_untokenized_dataset,
)
from xtuner.dataset.map_fns import template_map_fn_factory
from xtuner.dataset.samplers import InternRepoSampler
from xtuner.errors import ConfigError, DataError, NotFoundError


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


class MsLike:
    def __init__(self, rows):
        self.rows = rows

    def to_hf_dataset(self):
        return self.rows


def test_a_modelscope_data_set_gives_the_items_of_its_rows(bos, monkeypatch):
    """As it is, by split, and without the package a clear error."""
    rows = [{"conversation": [{"input": "q", "output": "a"}]}]
    plain = process_hf_dataset(rows, tokenizer=bos, max_length=16)
    for dataset in (MsLike(rows), {"train": MsLike(rows)}):
        assert process_ms_dataset(dataset, tokenizer=bos, max_length=16).key == plain.key
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setitem(sys.modules, "modelscope.msdatasets", None)
    with pytest.raises(
        DataError, match=r"needs the package modelscope .*: .+ -m pip install 'modelscope\[datasets\]>=1.40'"
    ):
        process_ms_dataset("damo/MSAgent-Bench", tokenizer=bos, max_length=16)


def moss_row(*turns):
    chat = {
        f"turn_{number}": {
            "Human": f"<|Human|>: {question}<eoh>\n",
            "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
            "Commands": "<|Commands|>: None<eoc>\n",
            "Tool Responses": f"<|Results|>: {result}<eor>\n",
            "MOSS": f"<|MOSS|>: {answer}<eom>\n",
        }
        for number, (question, result, answer) in enumerate(turns, start=1)
    }
    return {"meta_instruction": "You are MOSS.\n", "chat": chat}


def test_moss_trains_all_but_the_instruction_and_the_results(bos, tmp_path):
    """One bos in front; the marks of a result are supervised, the result is not; MOSS is renamed."""
    path = lines(tmp_path / "moss.jsonl", [moss_row(("q1", "r1", "a1"), ("q2", "r2", "a2"))])
    (item,) = MOSSSFTDataset(path, bos, bot_name="Max")
    trained = item["labels"] != -100
    assert item["input_ids"][0] == bos.bos_token_id
    assert (item["input_ids"] == bos.bos_token_id).sum() == 1
    text = bos.decode(item["input_ids"][1:])
    assert text.startswith("You are Max.\n<|Human|>: q1<eoh>\n<|Inner Thoughts|>")
    assert "MOSS" not in text
    assert bos.decode(item["input_ids"][~trained]) == "<s>You are Max.\n r1 r2"
    assert bos.decode(item["input_ids"][trained]).count("<|Results|>:<eor>\n<|Max|>: a") == 2


def test_moss_keeps_whole_turns_and_counts_the_others(bos, tmp_path):
    """A dialogue ends after the last turn that fits; another max_length is other data; faults are named."""
    rows = [moss_row(("q", "r", "a"), ("q " * 90, "r", "a")), moss_row(("q " * 200, "r", "a"))]
    path = lines(tmp_path / "moss.jsonl", rows)
    whole = MOSSSFTDataset(path, bos)
    cut = MOSSSFTDataset(path, bos, max_length=200)
    assert len(whole) == 2
    assert (len(cut), cut.stats["left_out_turns"]) == (1, 2)
    assert cut.stats["dropped"] == {"no turn that fits into max_length": 1}
    assert cut.stats["dropped_rows"]["no turn that fits into max_length"][0].endswith("moss.jsonl line 2")
    assert cut[0]["input_ids"].tolist() == whole[0]["input_ids"][: len(cut[0]["input_ids"])].tolist()
    bad = lines(tmp_path / "bad.jsonl", [moss_row(("q", "r", "a")), {"meta_instruction": "x", "chat": [1]}])
    with pytest.raises(DataError, match=r"bad\.jsonl line 2: the field 'chat' is not an object"):
        MOSSSFTDataset(bad, bos)
    with pytest.raises(NotFoundError, match="there is no data file"):
        MOSSSFTDataset(tmp_path / "none.jsonl", bos)


def tokens_folder(folder):
    lines(folder / "b" / "two.bin", [{"tokens": [-5, 6]}, {"tokens": [7]}])
    lines(folder / "a" / "one.bin", [{"tokens": list(range(-1, 9))}])
    return folder


def test_tokens_of_the_other_trainer(tmp_path):
    """Positive ids are supervised, 0 is not; files by name or in data_order.txt; short ones are dropped."""
    folder = tokens_folder(tmp_path / "data")
    dataset = load_intern_repo_tokenized_dataset(folder)
    assert [item["input_ids"].tolist() for item in dataset] == [[1, *range(9)], [5, 6], [7]]
    assert dataset[0]["labels"].tolist() == [-100, -100, *range(1, 9)]
    assert dataset[1]["labels"].tolist() == [-100, 6]
    assert dataset.source_places(1)[0].endswith("two.bin line 1")
    order = tmp_path / "data_order.txt"
    order.write_text("b/two.bin\n")
    assert len(load_intern_repo_tokenized_dataset(folder, min_length=2, data_order_path=order)) == 1
    order.write_text("b/three.bin\n")
    with pytest.raises(NotFoundError, match=r"names b/three\.bin, which is not in"):
        load_intern_repo_tokenized_dataset(folder, data_order_path=order)
    lines(folder / "c.bin", [{"tokens": "12"}])
    with pytest.raises(DataError, match=r"c\.bin line 1: a row must be"):
        load_intern_repo_tokenized_dataset(folder)


def test_packed_they_lose_no_token(tmp_path):
    """Packs of at most packed_length tokens; longer samples continue in another pack."""
    packed = build_packed_dataset(
        load_intern_repo_tokenized_dataset(tokens_folder(tmp_path)), packed_length=4
    )
    parts = []
    for item in packed:
        assert len(item["input_ids"]) <= 4
        boundaries = item["cumulative_len"]
        parts += [item["input_ids"][a:b].tolist() for a, b in itertools.pairwise(boundaries)]
    assert sorted(parts) == sorted([[1, 0, 1, 2], [2, 3, 4, 5], [5, 6, 7, 8], [5, 6], [7]])
    assert packed.stats["tokens"] == 15
    assert packed.stats["packs"] == len(packed) == 4
    with pytest.raises(ConfigError, match="it got list"):
        build_packed_dataset([1])


def test_messages_of_the_other_trainer(bos, tmp_path):
    """One list of messages a line, under any template."""
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines(tmp_path / "data" / "x.json", [messages, messages])
    template = template_map_fn_factory("internlm2_chat")
    arguments = dict(tokenizer=bos, max_length=64, template_map_fn=template)
    dataset = load_intern_repo_untokenized_dataset(folder=tmp_path / "data", **arguments)
    plain = process_hf_dataset(
        [{"messages": messages}] * 2, dataset_map_fn="openai", pack_to_max_length=False, **arguments
    )
    assert len(dataset) == 2
    assert np.array_equal(dataset[0]["input_ids"], plain[0]["input_ids"])
    assert len(build_packed_dataset(dataset, packed_length=64)) == 1
    with pytest.raises(ConfigError, match="needs folder="):
        load_intern_repo_untokenized_dataset(**arguments)


def test_the_sampler_leaves_the_rest_unread(monkeypatch):
    """Every process reads equally many items, none of them twice."""
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        sampler = InternRepoSampler(range(8))
        sampler.rank, sampler.world_size = rank, 3
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1]) == 2
    assert len({item for share in shares for item in share}) == 6
