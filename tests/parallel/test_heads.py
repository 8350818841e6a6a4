"""Models with a head by two processes have the losses, metrics and weights of one."""

import json

import pytest

from tests.parallel.conftest import LORA, SHARED, SHORT, SHORT_TWICE, WORDS

# peft asks for a property that transformers has renamed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

DATA = "xtuner.dataset.head_dataset.build_{}_dataset"
COLLATE = "xtuner.dataset.collate_fns.head_collate_fns.{}_collate_fn"
KINDS = {
    "classification": {
        "model.type": "xtuner.model.classifier.SequenceClassifier",
        "model.labels": ["a", "b"],
    },
    "stepwise": {"model.type": "xtuner.model.process_reward.ProcessRewardModel"},
    # A high temperature: rounding is divided by it.
    "embedding": {
        "model.type": "xtuner.model.embedding.EmbeddingModel",
        "model.symmetric": True,
        "model.temperature": 0.5,
    },
}
# An even number of packs, for six updates at least.
PACKED = {"classification": 32, "stepwise": 32, "embedding": 56}
CASES = {
    "ddp_classification": SHORT,
    "fsdp_classification": {**SHORT, "fsdp": True, "lora": LORA},
    "fsdp_classification_apart": {**SHORT, "fsdp": True, "mixing": True},
    "shared_classification": {**SHARED, **SHORT_TWICE},
    "ddp_stepwise": {**SHORT, "lora": LORA},
    "fsdp_stepwise": {**SHORT, "fsdp": True},
    "shared_stepwise": {**SHARED, **SHORT_TWICE},
    "ddp_embedding": {**SHORT, "lora": LORA},
    "ddp_embedding_full": {**SHORT, "model.pooling": "mean"},
    "fsdp_embedding": {**SHORT, "fsdp": True},
    "fsdp_embedding_apart": {**SHORT, "fsdp": True, "mixing": True, "model.pooling": "mean"},
}
ROWS = {
    "classification": [{"text": f"{a} {b}", "label": "ab"[len(a) > 4]} for a in WORDS for b in WORDS[:6]],
    "stepwise": [
        {"prompt": a, "completions": [b] * (1 + len(b) % 3), "labels": [len(a) > 4] * (1 + len(b) % 3)}
        for a in WORDS
        for b in WORDS[:6]
    ],
    # Some have hard negatives, and some positives are there twice.
    "embedding": [
        {"anchor": f"{a} {b}", "positive": b, "negatives": WORDS[:n] if b not in WORDS[:n] else []}
        for n, a in enumerate(WORDS)
        for b in WORDS[5:]
    ],
}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, common, saved, in_two_processes):
    """The results of two processes for each case."""
    folder = tmp_path_factory.mktemp("rows")
    for kind, rows in ROWS.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixing = str(saved("bloom", n_layer=2, n_head=4))
    cases = {name: options_of(name, dict(case), folder, common, mixing) for name, case in CASES.items()}
    return in_two_processes(cases, tmp_path_factory.mktemp("two"))


def options_of(name, case, folder, common, mixing):
    kind = name.split("_")[1]
    model = mixing if case.pop("mixing", False) else common["folder"]
    dataset = {
        "type": DATA.format(kind),
        "dataset": {
            "type": "xtuner.dataset.preference_dataset.load_jsonl_dataset",
            "data_files": [str(folder / f"{kind}.jsonl")],
        },
        "tokenizer": {
            "type": "transformers.AutoTokenizer.from_pretrained",
            "pretrained_model_name_or_path": model,
        },
        "max_length": 32,
        "use_varlen_attn": True,
        "max_packed_length": PACKED[kind],
        **({"labels": ["a", "b"]} if kind == "classification" else {}),
    }
    collate = {"type": COLLATE.format(kind)}
    return {
        **common,
        **KINDS[kind],
        **case,
        "folder": model,
        "train_dataloader.dataset": dataset,
        "train_dataloader.collate_fn": collate,
    }


@pytest.mark.parametrize("case", CASES)
def test_heads_by_two_processes_train_as_by_one(case, one, by_two, assert_same):
    """Also the candidates of embeddings, which are those of both; sequence parallel where it is possible."""
    found = by_two[case]
    twice = {} if "shared" in case else {"train_dataloader.batch_size": 2}
    expected = one(**found["options"], **twice)
    assert expected["losses"][-1] != expected["losses"][0]
    assert_same(found, expected)
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-4)
