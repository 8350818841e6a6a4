"""DPO by two processes has the losses, metrics and weights of one."""

import json

import pytest

from tests.parallel.conftest import LORA, SHARED, SHORT, SHORT_TWICE, WORDS, in_two_processes

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
CASES = {
    "ddp": SHORT,
    "fsdp": {**SHORT, "fsdp": True},
    "fsdp_apart": {**SHORT, "fsdp": True, "mixing": True},
    "shared": {**SHARED, **SHORT_TWICE},
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory, common, saved):
    """Options of each case: pairs of short answers, some packed with others."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w") as file:
        for number, word in enumerate(WORDS * 4):
            prompt = [{"role": "user", "content": f"Say {word}."}]
            answers = word, "no " * (number % 4 + 1)
            chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in answers)
            file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")
    mixing = str(saved("bloom", n_layer=2, n_head=4))
    return {name: options_of(dict(case), str(path), common["folder"], mixing) for name, case in CASES.items()}


def options_of(case, path, folder, mixing):
    folder = mixing if case.pop("mixing", False) else folder
    tokenizer = {
        "type": "transformers.AutoTokenizer.from_pretrained",
        "pretrained_model_name_or_path": folder,
        "chat_template": TEMPLATE,
    }
    dataset = {
        "type": "xtuner.dataset.preference_dataset.build_preference_dataset",
        "dataset": {"type": "xtuner.dataset.preference_dataset.load_jsonl_dataset", "data_files": [path]},
        "tokenizer": tokenizer,
        "max_length": 64,
        "use_varlen_attn": True,
        "max_packed_length": 128,
    }
    collate = "xtuner.dataset.collate_fns.preference_collate_fn.preference_collate_fn"
    return {
        **case,
        "folder": folder,
        "lora": LORA,
        "model.type": "xtuner.model.dpo.DPO",
        "train_dataloader.dataset": dataset,
        "train_dataloader.collate_fn": {"type": collate},
    }


@pytest.fixture(scope="module")
def pairs_by_two(tmp_path_factory, common, cases):
    options = {name: {**common, **case} for name, case in cases.items()}
    return in_two_processes(options, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("case", CASES)
def test_pairs_by_two_processes_train_as_by_one(case, one, pairs_by_two, assert_same):
    """Log-probabilities are of whole answers; the reference gathers weights as the model does."""
    found = pairs_by_two[case]
    twice = {} if case == "shared" else {"train_dataloader.batch_size": 2}
    expected = one(**found["options"], **twice)
    assert expected["losses"][-1] < expected["losses"][0]
    assert_same(found, expected)
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-4)
