"""Vision-language models by two processes as by one, also where only one of them has an image."""

import copy
import json

import pytest

from tests import internvl, vision
from tests.llava import picture_file
from tests.parallel.conftest import LORA, SAMPLING, SHORT, WORDS
from xtuner.recipes.deepspeed_files import deepspeed_file

# peft asks for a property that transformers has renamed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

# Its updates are as large as gradients, and those of nothing but rounding stay small.
SGD = {"type": "torch.optim.SGD", "lr": 0.01}
FSDP = {"fsdp": True}
ALL = {"freeze_vision": False}
BESIDE = {"lora": LORA, "freeze_projector": False}
# The family, options of the run, and what is trained. Samples of Qwen3.5, MiniCPM-V and Gemma 3 run alone.
CASES = {
    "ddp_projector": ("qwen3_vl", {}, {"freeze_llm": True}),
    "ddp_all": ("qwen3_vl", {}, ALL),
    "fsdp_projector": ("qwen3_vl", FSDP, {"freeze_llm": True}),
    "fsdp_all": ("qwen3_vl", FSDP, ALL),
    "fsdp_lora": ("qwen3_vl", FSDP, {"lora": LORA}),
    "ddp_layers_behind": ("llava", {}, ALL),
    "fsdp_layers_behind": ("llava", FSDP, ALL),
    "ddp_apart": ("qwen3_5", {}, ALL),
    "fsdp_apart": ("qwen3_5", FSDP, ALL),
    "ddp_numbered": ("minicpmv4_6", {}, ALL),
    "ddp_both_ways": ("gemma3", {}, {"lora": LORA}),
    "fsdp_both_ways": ("gemma3", FSDP, ALL),
    "ddp_own_form": ("internvl_chat", {}, {}),
    "ddp_own_form_beside_lora": ("internvl_chat", {}, BESIDE),
    "fsdp_own_form": ("internvl_chat", FSDP, ALL),
    "fsdp_own_form_beside_lora": ("internvl_chat", FSDP, BESIDE),
    "fsdp_own_form_loras": ("internvl_chat", FSDP, {**BESIDE, "vision_lora": LORA}),
}
# With ZeRO, by its stage.
ZERO = {"ddp_all": "zero2", **{name: "zero3" for name, (_, options, _) in CASES.items() if options == FSDP}}


def _save(family, folder, tokenizer):
    if family != "internvl_chat":
        return vision.save(family, folder, tokenizer)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = vision.TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>")
    return internvl.save(folder, "internlm2", tokenizer)


@pytest.fixture(scope="module")
def cases(tmp_path_factory, tokenizer):
    """The options of each case; every other row is text, and rows come in order."""
    folder = tmp_path_factory.mktemp("seen")
    rows = []
    for number, word in enumerate(WORDS):
        size = (48 + 14 * (number % 3), 60)
        picture_file(folder / f"{number}.png", (25 * number, 200 - 20 * number, 60), size)
        talk = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": word}]
        rows.append({"image": f"{number}.png", "conversations": talk})
        rows.append({"conversations": [{"from": "human", "value": word}, {"from": "gpt", "value": "yes"}]})
    (folder / "rows.json").write_text(json.dumps(rows))
    models = {family: str(_save(family, folder / family, tokenizer)) for family, *_ in CASES.values()}
    loaded = "transformers.AutoModelForCausalLM.from_pretrained"

    def sampling(model):
        tokenizer = {**SAMPLING["tokenizer"], "pretrained_model_name_or_path": model}
        return {**SAMPLING, "tokenizer": tokenizer, "evaluation_images": str(folder / "0.png")}

    def case(family, options, trained):
        path = {"pretrained_model_name_or_path": models[family]}
        dataset = {
            "type": "xtuner.dataset.VisionLanguageDataset",
            "dataset": str(folder / "rows.json"),
            "processor": path,
            "image_folder": str(folder),
            "pack_to_max_length": False,
        }
        model = {
            "type": "xtuner.model.VisionLanguageFinetune",
            "llm": {"type": loaded, "torch_dtype": "torch.float32", **path},
        }
        return {
            **SHORT,
            **options,
            "optimizer": SGD,
            "folder": models[family],
            **({"custom_hooks": [sampling(models[family])]} if options == FSDP and trained == ALL else {}),
            "train_dataloader.dataset": dataset,
            "train_dataloader.sampler.shuffle": False,
            "model": {**model, **trained},
        }

    return {name: case(*one) for name, one in CASES.items()}


@pytest.fixture(scope="module")
def by_two(cases, in_two_processes, tmp_path_factory):
    return in_two_processes(cases, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def by_zero(cases, in_two_processes, tmp_path_factory):
    """The results of two processes with ZeRO."""
    pytest.importorskip("deepspeed")
    files = {stage: json.loads(deepspeed_file(f"deepspeed_{stage}").read_text()) for stage in ZERO.values()}
    chosen = {name: {**cases[name], "fsdp": False, "deepspeed": files[ZERO[name]]} for name in ZERO}
    return in_two_processes(chosen, tmp_path_factory.mktemp("zero"))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, cases, one, by_two, assert_same):
    """A process without an image runs encoder and projector on a blank one, whose gradient is zero."""
    found = by_two[case]
    assert "error" not in found, found["error"]
    expected = one(**found["options"], **{"train_dataloader.batch_size": 2})
    assert "error" not in expected, expected["error"]
    assert expected["losses"][-1] != expected["losses"][0]
    assert_same(found, expected)
    assert found["norms"] == pytest.approx(expected["norms"], rel=3e-6)
    samples = "custom_hooks" in cases[case]
    assert bool(found["samples"]) == samples
    assert all("Say red." in text and "image" in text.lower() for text in found["samples"])


@pytest.mark.parametrize("case", ZERO)
def test_zero_trains_as_one(case, one, by_zero, assert_same):
    """The same for ZeRO, whose stage 3 gathers the weights of each module as it runs."""
    found = by_zero[case]
    assert "error" not in found, found["error"]
    expected = one(**found["options"], **{"train_dataloader.batch_size": 2})
    assert_same(found, expected)
