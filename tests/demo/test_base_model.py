from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from xtuner.demo.base_model import make_base_model
from xtuner.demo.made import STAMP
from xtuner.demo.muon import Muon, orthogonalize
from xtuner.errors import ConfigError


def test_the_same_plan_gives_the_same_weights(tmp_path, tiny):
    """Two builds are equal bit by bit; another seed gives other weights; losses are reported step by step."""
    steps = []
    first = make_base_model(tmp_path / "a", tiny, lambda *args: steps.append(args))
    second = make_base_model(tmp_path / "b", tiny)
    other = make_base_model(tmp_path / "c", replace(tiny, seed=1))
    weights = [load_file(r.folder / "model.safetensors") for r in (first, second, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert [(done, total) for done, total, _ in steps] == [(1, 3), (2, 3), (3, 3)]
    assert steps[-1][2] < steps[0][2]
    assert first.loss == round(steps[-1][2], 4)


def test_a_folder_made_before_is_kept(tmp_path, tiny):
    """The second call reads the stamp; another plan makes the folder anew."""
    made = make_base_model(tmp_path / "base", tiny)
    again = make_base_model(tmp_path / "base", tiny, lambda *_: pytest.fail("trained again"))
    assert again == replace(made, reused=True)
    assert not make_base_model(tmp_path / "base", replace(tiny, steps=1)).reused
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


def test_an_interrupted_build_leaves_nothing(tmp_path, tiny):
    """The folder is complete or absent."""

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_base_model(tmp_path / "base", tiny, stop)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, tiny):
    """A folder without the stamp is not overwritten."""
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(
        ConfigError, match=f"was not made by `xtuner demo` .it has no {STAMP}.: choose another"
    ):
        make_base_model(tmp_path, tiny)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_folder_loads_with_transformers_and_stops_at_the_end_of_an_answer(tmp_path, tiny):
    """Model, tokenizer, chat template and stop tokens are all in the folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_base_model(tmp_path / "base", tiny).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer("你是谁")["input_ids"][0] == tokenizer.bos_token_id == model.config.bos_token_id
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == ["</s>", "<|im_end|>"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert json.loads((folder / STAMP).read_text())["num_parameters"] == model.num_parameters()


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 3, 6), (1, 4, 4)])
def test_muon_evens_out_singular_values(shape):
    """The update keeps the singular directions and brings the singular values near one."""
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.mT @ orthogonalize(matrix) @ v.mT
    values = inner.diagonal(dim1=-2, dim2=-1)
    assert (inner - torch.diag_embed(values)).abs().max() < 1e-9
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_muon_minimises():
    """On a least-squares problem the loss falls to a small part."""
    torch.manual_seed(0)
    target, weight = torch.randn(8, 8), torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    losses = []
    for _ in range(60):
        loss = (weight - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
