"""A vision-language model trained with images by a config: to a folder that plain transformers loads."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests import vision
from xtuner.config import Builder, load_config
from xtuner.dataset.collate_fns import flat_collate_fn
from xtuner.engine.checkpoints.files import load_checkpoint
from xtuner.model.vision.positions import image_types

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # Of GLM's processor, about its own arrays.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

# On all machines.
IN_FP32 = """
import torch
model['llm']['torch_dtype'] = torch.float32
"""


@pytest.mark.parametrize(
    ("family", "method"),
    [("qwen2_5_vl", "full"), ("minicpmv4_7", "full"), *((family, "lora") for family in vision.KINDS)],
)
def test_from_training_to_transformers(family, method, tmp_path, monkeypatch, run, tokenizer):
    """The trained parts have changed, the encoder has not; logits are those of training."""
    base = vision.save(family, tmp_path / "model", tokenizer)
    vision.picture_files(tmp_path)
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a block"}]
    rows = [{"image": f, "conversations": talk} for f in ("a.png", "b.jpg", "c.png", "a.png")]
    (tmp_path / "talks.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    run("new-cfg", "--model", "model", "--data", "talks.json", "--method", method, "--out", "my.py")
    (tmp_path / "my.py").write_text((tmp_path / "my.py").read_text() + IN_FP32)
    run("train", "my.py", "--work-dir", "w", "--cfg-options", "max_epochs=1", "lr=0.01")
    checkpoint = max(tmp_path.glob("w/iter_*.pth"))
    run("convert", "pth_to_hf", "my.py", checkpoint, "result", "--fp32")
    result = "result"
    if method == "lora":
        run("convert", "merge", "model", "result", "merged")
        result = "merged"
    before, plain = (AutoModelForImageTextToText.from_pretrained(f).float().eval() for f in (base, result))
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), plain.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    cfg = load_config(tmp_path / "my.py")
    builder = Builder()
    item = builder.build(cfg.train_dataloader["dataset"], "dataset")[0]
    model = builder.build(cfg.model, "model").eval().float()
    model.load_state_dict(load_checkpoint(checkpoint)["state_dict"])
    trained = {"language model", "projector"} if method == "full" else {"language model"}
    assert {model.part_of(name) for name in changed} == trained
    first = slice(*item["cumulative_len"][:2])
    ids = torch.tensor(item["input_ids"])[None, first].long()
    inputs = {n: v.float() if v.is_floating_point() else v for n, v in item["image_inputs"][0].items()}
    with torch.no_grad():
        (ours,) = model(flat_collate_fn([item])["data"], mode="predict")
        types = image_types(plain, ids == plain.config.image_token_id)
        theirs = plain(input_ids=ids, **types, **inputs).logits[0]
    torch.testing.assert_close(ours["logits"][first], theirs, rtol=1e-3, atol=1e-4)
    assert (tmp_path / result / "preprocessor_config.json").is_file()
