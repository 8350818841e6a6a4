"""For every family a batch trains as its samples one by one through stock code."""

import copy
import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING

from tests.families.configs import OF_TEXT, make
from xtuner import log
from xtuner.families import FAMILIES
from xtuner.model import SupervisedFinetune, passes
from xtuner.model.packed import pack


def rows():
    """Two rows: samples of 10 and 7 tokens; one of 7 and padding."""
    flat = torch.randint(3, 64, (24,), generator=torch.Generator().manual_seed(2))
    ids = torch.stack([flat[:17], torch.cat([flat[17:], torch.zeros(10, dtype=torch.long)])])
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 7:] = False
    labels = ids.masked_fill(~mask, -100)
    labels[0, 12:14] = -100
    lengths = [torch.tensor([0, 10, 17]), torch.tensor([0, 7])]
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "cumulative_len": lengths}


def samples(data):
    for row, boundaries in enumerate(data["cumulative_len"]):
        for a, b in itertools.pairwise(boundaries.tolist()):
            yield data["input_ids"][row, None, a:b], data["labels"][row, a:b]


def stock_loss(model, data):
    """The mean loss over supervised tokens, each sample run alone."""
    total, count = torch.zeros(()), 0
    for ids, labels in samples(data):
        logits = model(ids, use_cache=False).logits[0, :-1]
        total = total + cross_entropy(logits.float(), labels[1:], reduction="sum")
        count += int((labels[1:] != -100).sum())
    return total / count


def gradient(model):
    """All gradients of a model as one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("family", OF_TEXT)
def test_a_batch_trains_as_its_samples_do_alone(family, relative_error):
    """Loss and gradients; samples are longer than windows and chunks."""
    model = make(family, None)
    reference, data = copy.deepcopy(model), rows()
    wanted = stock_loss(reference, data)
    wanted.backward()
    ours = SupervisedFinetune(model, use_activation_checkpointing=False)
    model.eval()
    loss = ours(data)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert relative_error(gradient(model), gradient(reference)) < 2e-4


def test_every_known_family_is_among_them():
    """Except those that read images too, whose language part is a separate family here."""
    known = {name for name, family in FAMILIES.items() if family.packs is not None} & set(CONFIG_MAPPING)
    of_images = {"qwen3_5", "qwen3_5_moe", "minicpmv4_6", "minicpmv4_7", "minicpm_ocr"}
    assert known - set(OF_TEXT) == of_images


def test_equally_long_samples_run_as_one_batch():
    """Ten tokens alone, twice seven together; no padding, and only tokens with a label count."""
    first, rest = passes.apart(pack(rows(), torch.device("cpu")))
    assert [set(p.inputs) for p in (first, rest)] == [{"input_ids", "use_cache"}] * 2
    assert first.index.tolist() == [list(range(10))]
    assert rest.index.tolist() == [list(range(10, 17)), list(range(17, 24))]
    assert rest.rows.tolist() == [0] * 4 + [1] * 6
    assert rest.columns.tolist() == [0, 3, 4, 5, *range(6)]
    output = torch.arange(14.0).view(2, 7, 1)
    wanted = [0, 3, 4, 5, *range(7, 13)]
    assert rest.with_loss(output).flatten().tolist() == wanted
    columns = rest.columns_with_loss()
    assert columns.tolist() == list(range(6))
    assert rest.with_loss_of(output[:, columns], columns).flatten().tolist() == wanted
    assert rest.with_loss_of(output, columns).flatten().tolist() == wanted


def test_the_head_runs_on_positions_with_a_label_in_any_sample():
    """Two samples with one label each need two columns of logits."""
    data = rows()
    data["labels"].fill_(-100)
    data["labels"][0, 12] = data["labels"][1, 6] = 5
    asked = []
    ours = SupervisedFinetune(make("qwen3_next", None), use_activation_checkpointing=False)
    ours.llm.register_forward_pre_hook(
        lambda _model, _args, kwargs: asked.append(kwargs["logits_to_keep"].tolist()), with_kwargs=True
    )
    ours(data)
    assert asked == [[1, 5]]


@pytest.mark.parametrize("family", ["mamba", "qwen3_next", "lfm2"])
@pytest.mark.parametrize("way", ["selective", "full", "offload"])
def test_recomputation_works_with_several_passes(family, way, relative_error):
    """Each layer is recomputed for every pass."""
    model = make(family, None)
    twin = copy.deepcopy(model)
    for llm, recompute in ((model, "none"), (twin, way)):
        ours = SupervisedFinetune(llm, use_activation_checkpointing=recompute).train()
        ours(rows())["loss"].backward()
    assert relative_error(gradient(twin), gradient(model)) < 1e-6


def test_a_family_that_mixes_samples_is_logged_once(caplog, monkeypatch):
    """With the cost; a batch of one sample logs nothing."""
    monkeypatch.setattr(log, "_said", set())
    ours = SupervisedFinetune(make("rwkv", None), use_activation_checkpointing=False)
    ours({"input_ids": torch.arange(3, 9)[None], "labels": torch.arange(3, 9)[None]})
    assert not caplog.text
    for _ in range(2):
        ours(rows())
    wanted = "Models of the family 'rwkv' mix packed samples, so each sample runs by itself: slower"
    assert caplog.text.count(wanted) == 1


@pytest.mark.parametrize("family", ["lfm2", "llama"])
def test_predict_and_tensor_keep_the_order_of_the_batch(family, relative_error):
    """For any order of the passes."""
    data = rows()
    data["cumulative_len"][0] = torch.tensor([0, 7, 17])
    model = make(family, None)
    with torch.no_grad():
        alone = [model(ids, use_cache=False).logits[0] for ids, _ in samples(data)]
        ours = SupervisedFinetune(model, use_activation_checkpointing=False).eval()
        predicted = ours(data, mode="predict")
        tensor = ours(data, mode="tensor").logits[0]
    assert relative_error(tensor, torch.cat(alone)) < 1e-5
    assert relative_error(predicted[0]["logits"], torch.cat(alone[:2])) < 1e-5
    assert relative_error(predicted[1]["logits"][:7], alone[2]) < 1e-5


def test_samples_without_labels_are_left_out():
    """No forward pass for them; a batch without any has one, for other processes, and a loss of zero."""
    data, calls = rows(), []
    ours = SupervisedFinetune(make("lfm2", None), use_activation_checkpointing=False)
    ours.llm.register_forward_pre_hook(lambda *_: calls.append(1))
    data["labels"][:, :10] = -100
    ours(data)
    assert len(calls) == 1
    data["labels"][:] = -100
    loss = ours(data)["loss"]
    loss.backward()
    assert (loss.item(), len(calls)) == (0, 2)
    assert not gradient(ours.llm).any()
