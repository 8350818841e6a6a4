import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import moe
from xtuner.errors import CheckpointError, ConfigError
from xtuner.families import FAMILIES
from xtuner.model import SupervisedFinetune, loading, sft
from xtuner.model.base import decoder_and_head
from xtuner.model.loss import head_cross_entropy_sum
from xtuner.model.packed import pack


def test_a_padded_batch_becomes_one_sequence(batch):
    """Padding is removed; boundaries of all rows are joined."""
    packed = pack(batch, torch.device("cpu"))
    assert packed.input_ids.tolist() == batch["input_ids"][0].tolist() + batch["input_ids"][1, :6].tolist()
    assert packed.boundaries == [0, 4, 9, 15]


@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_equal_those_of_samples_run_alone(
    llama, batch, recompute, naive_loss, gradients, relative_error
):
    """Packing, flattening, chosen positions and recomputation do not change the result."""
    reference = copy.deepcopy(llama)
    wanted = naive_loss(reference, batch)
    wanted.backward()
    model = SupervisedFinetune(llama, use_activation_checkpointing=recompute).train()
    loss = model(batch)["loss"]
    loss.backward()
    assert abs(loss.item() - wanted.item()) < 1e-12
    ours, theirs = gradients(model.llm), gradients(reference)
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-9
    assert model.llm.model.gradient_checkpointing is recompute


def test_the_first_token_of_a_sample_is_never_supervised(llama, batch):
    """Its label has no effect on loss and count."""
    model = SupervisedFinetune(llama, use_activation_checkpointing=False)
    before = model(batch)["loss"], model.num_items(batch)
    batch["labels"][0, 4] = 7
    batch["labels"][1, 0] = -100
    assert (model(batch)["loss"], model.num_items(batch)) == before
    assert before[1] == 3 + 2 + 5


def test_num_items_makes_the_mean_that_of_the_whole_update(llama, batch):
    """Two micro-batches divided by their common count have the loss of both together."""
    model = SupervisedFinetune(llama, use_activation_checkpointing=False)
    halves = [{k: v[i : i + 1] for k, v in batch.items() if k not in ("max_seqlen",)} for i in range(2)]
    count = sum(model.num_items(half) for half in halves)
    parts = sum(model(half, num_items=count)["loss"] for half in halves)
    torch.testing.assert_close(parts, model(batch)["loss"], rtol=1e-12, atol=0)


def test_a_batch_without_supervised_tokens_has_loss_zero_and_gradients(llama, batch):
    """Other ranks wait for gradients of every weight, so a graph is needed."""
    batch["labels"][:] = -100
    model = SupervisedFinetune(llama, use_activation_checkpointing=False)
    loss = model(batch)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_head_runs_on_supervised_positions_only(llama, batch, monkeypatch):
    """Ten supervised tokens: the head gets ten rows of hidden states."""
    model, seen = SupervisedFinetune(llama, use_activation_checkpointing=False), []

    def spy(hidden, *args):
        seen.append(len(hidden))
        return head_cross_entropy_sum(hidden, *args)

    monkeypatch.setattr(sft, "head_cross_entropy_sum", spy)
    model(batch)
    assert seen == [10]


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.plain_head])
def test_a_plain_head_is_all_that_comes_after_the_decoder(family, sizes, batch, naive_loss):
    """Decoder, head and loss called separately equal the family's own forward."""
    loading.register_families()
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**sizes, **moe.OWN.get(family, {})})
    # torch's product of groups knows no float64.
    ways = {"attn_implementation": "xtuner", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, **ways)
    assert decoder_and_head(model) is not None
    ours = SupervisedFinetune(model, use_activation_checkpointing=False).train()(batch)["loss"]
    torch.testing.assert_close(ours, naive_loss(model.eval(), batch), rtol=1e-6, atol=0)


def test_predict_gives_logits_row_by_row_and_tensor_the_models_output(llama, batch):
    """Row one of `predict` equals the output for its sample alone."""
    model = SupervisedFinetune(llama, use_activation_checkpointing=False).eval()
    rows = model(batch, mode="predict")
    assert [row["logits"].shape for row in rows] == [(9, 128), (9, 128)]
    alone = llama(batch["input_ids"][1, None, :6]).logits[0]
    torch.testing.assert_close(rows[1]["logits"][:6], alone)
    assert model(batch, mode="tensor").logits.shape == (1, 15, 128)


def test_families_without_positions_for_the_head_train_too(batch, naive_loss):
    """If a model cannot compute logits of single positions, they are selected afterwards."""
    from transformers import BloomConfig, BloomForCausalLM

    model = SupervisedFinetune(
        BloomForCausalLM(BloomConfig(vocab_size=128, hidden_size=32, n_layer=1, n_head=4)),
        use_activation_checkpointing=False,
    )
    assert model(batch)["loss"].item() == pytest.approx(naive_loss(model.llm, batch).item(), rel=1e-5)


def test_other_attributes_are_those_of_the_model(llama):
    """`model.generate`, `model.config` work; a wrong name is an AttributeError."""
    model = SupervisedFinetune(llama)
    assert model.config is llama.config
    with pytest.raises(AttributeError, match="nonsense"):
        model.nonsense  # noqa: B018


def test_a_full_run_saves_everything_and_loads_it_back(llama, batch):
    """Names are the model's under `llm.`."""
    model = SupervisedFinetune(llama, use_activation_checkpointing=False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert state.keys() == {f"llm.{name}" for name in llama.state_dict()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_that_lacks_or_exceeds_the_trained_part_is_refused(llama):
    """The error counts and names them."""
    model = SupervisedFinetune(llama)
    state = dict(model.state_dict())
    del state["llm.lm_head.weight"]
    state["llm.extra"] = torch.zeros(1)
    with pytest.raises(
        CheckpointError, match=r"1 weight is missing, as llm\.lm_head\.weight; 1 weight is unex"
    ):
        model.load_state_dict(state)
    result = model.load_state_dict(state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["llm.lm_head.weight"], ["llm.extra"])
    with pytest.raises(
        CheckpointError,
        match=r"1 of 21 weights have other shapes, such as llm\.lm_head\.weight: \[2, 2\] there",
    ):
        model.load_state_dict({**state, "llm.lm_head.weight": torch.zeros(2, 2)})


def test_a_ready_model_cannot_have_its_context_extended(llama):
    """Rope is scaled before loading."""
    with pytest.raises(ConfigError, match=r"max_position_embeddings needs model\.llm as a dict"):
        SupervisedFinetune(llama, max_position_embeddings=4096)
