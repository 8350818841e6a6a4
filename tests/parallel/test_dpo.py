"""Methods on pairs by two processes have the losses, metrics and weights of one."""

import importlib.util
import json
import runpy
from pathlib import Path

import pytest
import torch

from tests.parallel.conftest import LORA, SHARED, SHORT, SHORT_TWICE, WORDS
from xtuner.parallel.world import World
from xtuner.recipes.deepspeed_files import deepspeed_file

# peft asks for a property that transformers has renamed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

LOAD = "transformers.AutoModelForCausalLM.from_pretrained"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
# The reference is a frozen copy, or a model of its own in other folders.
FULL = {"lora": None}
ORPO = {"model.type": "xtuner.model.orpo.ORPO"}
REWARD = {"model.type": "xtuner.model.reward.RewardModel"}
CASES = {
    "ddp": SHORT,
    "fsdp": {**SHORT, "fsdp": True},
    "fsdp_apart": {**SHORT, "fsdp": True, "mixing": True},
    "shared": {**SHARED, **SHORT_TWICE},
    "ddp_full": {**SHORT, **FULL},
    "fsdp_full": {**SHORT, **FULL, "fsdp": True},
    "fsdp_given": {**SHORT, **FULL, "fsdp": True, "other": True},
    "shared_full": {**SHARED, **SHORT_TWICE, **FULL},
    "fsdp_orpo": {**SHORT, **FULL, **ORPO, "fsdp": True},
    "ddp_reward": {**SHORT, **REWARD},
    "fsdp_reward": {**SHORT, **FULL, **REWARD, "fsdp": True},
    "fsdp_reward_lora": {**SHORT, **REWARD, "fsdp": True},
    "fsdp_reward_apart": {**SHORT, **REWARD, "fsdp": True, "mixing": True},
    "shared_reward": {**SHARED, **SHORT_TWICE, **FULL, **REWARD},
}
# Each has a token store of its own, so that two processes compute what is stored in it.
STORED_CASES = {
    "ddp": SHORT,
    "fsdp": {**SHORT, "fsdp": True},
    "fsdp_apart": {**SHORT, "fsdp": True, "mixing": True},
    "fsdp_full": {**SHORT, **FULL, "fsdp": True},
    "fsdp_given": {**SHORT, **FULL, "fsdp": True, "other": True},
    "ddp_given": {**SHORT, "other": True},
    "shared_full": {**SHARED, **SHORT_TWICE, **FULL},
}
STORED = "model.stored_reference"
ZERO_CASES = {
    "zero2_full": SHORT,
    "zero3_full": SHORT,
    "zero3_given": {**SHORT, "other": True},
    "zero3_stored": {**SHORT, STORED: True},
    "zero3_reward": {**SHORT, **REWARD},
    "zero3_reward_lora": {**SHORT, **REWARD, "lora": LORA},
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
    mixing = str(saved("nemotron"))
    other = str(saved("qwen3"))

    def options(cases):
        return {n: options_of(dict(case), str(path), common["folder"], mixing, other) for n, case in cases}

    return options


def options_of(case, path, folder, mixing, other):
    folder = mixing if case.pop("mixing", False) else folder
    if case.pop("other", False):
        case["model.ref_llm"] = {"type": LOAD, "pretrained_model_name_or_path": other}
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
        "lora": LORA,
        "model.type": "xtuner.model.dpo.DPO",
        **case,
        "folder": folder,
        "train_dataloader.dataset": dataset,
        "train_dataloader.collate_fn": {"type": collate},
    }


@pytest.fixture(scope="module")
def pairs_by_two(tmp_path_factory, common, cases, in_two_processes):
    options = {name: {**common, **case} for name, case in cases(CASES.items()).items()}
    return in_two_processes(options, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def stored_by_two(tmp_path_factory, common, cases, in_two_processes):
    options = {name: {**common, **case} for name, case in cases(STORED_CASES.items()).items()}
    for number, case in enumerate(options.values()):
        dataset = case["train_dataloader.dataset"]
        case |= {STORED: True, "train_dataloader.dataset": {**dataset, "max_length": 63 - number}}
    return in_two_processes(options, tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="module")
def pairs_by_zero(tmp_path_factory, common, cases, in_two_processes):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs the package deepspeed")
    options = {
        name: {**common, **case, "deepspeed": json.loads(deepspeed_file(f"deepspeed_{name[:5]}").read_text())}
        for name, case in cases((n, {**FULL, **case}) for n, case in ZERO_CASES.items()).items()
    }
    return in_two_processes(options, tmp_path_factory.mktemp("zero"))


@pytest.mark.parametrize("case", CASES)
def test_pairs_by_two_processes_train_as_by_one(case, one, pairs_by_two, assert_same):
    """Log-probabilities are of whole answers; the reference gathers weights as the model does."""
    found = pairs_by_two[case]
    twice = {} if "shared" in case else {"train_dataloader.batch_size": 2}
    expected = one(**found["options"], **twice)
    assert expected["losses"][-1] < expected["losses"][0]
    assert_same(found, expected)
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-4)


@pytest.mark.parametrize("case", STORED_CASES)
def test_a_reference_stored_by_two_processes_is_the_living_one(case, one, stored_by_two, assert_same):
    """Each computes some of the samples and reads those of both; a given model is divided by itself."""
    found = stored_by_two[case]
    assert found["options"].pop(STORED)
    expected = one(**found["options"], **({} if "shared" in case else {"train_dataloader.batch_size": 2}))
    assert_same(found, expected)
    # Only sums over tokens are stored, so there is a lower bound of kl.
    wanted = expected["metrics"]
    kls = {name: wanted.pop(name) for name in [*wanted] if name.startswith("kl ")}
    for name, kl in kls.items():
        bound = found["metrics"].pop(name.replace("kl ", "kl_lower_bound "))
        assert 0 <= bound <= kl + 1e-4
    assert found["metrics"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("case", ZERO_CASES)
def test_pairs_by_zero_train_as_by_one(case, one, pairs_by_zero, assert_same):
    """The weights of the reference are divided as those of the model."""
    found = pairs_by_zero[case]
    assert_same(found, one(**found["options"], **{"train_dataloader.batch_size": 2}))


def test_the_kl_of_kto_is_that_of_all_processes(tmp_path, launched):
    """One answer here and two there: loss, metrics and gradient are those of one process with all three."""
    script = Path(__file__).with_name("kto_in_world.py")
    assert launched({}, tmp_path, 2, script.stem) == 0
    found = torch.load(tmp_path / "kto.pt")
    expected = runpy.run_path(str(script))["report"](World(), [0, 1])
    assert expected["kl"] > 0.01
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
