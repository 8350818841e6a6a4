"""Stored log-probabilities of a reference in place of a living one, for the model alone."""

import copy

import pytest
import torch
from peft import LoraConfig

from tests.model.conftest import pack_of
from tests.model.test_kto import batch_of
from tests.model.test_reference import of_folder, other
from xtuner.dataset.collate_fns.preference_collate_fn import preference_collate_fn
from xtuner.errors import ConfigError
from xtuner.model.dpo import DPO
from xtuner.model.kto import KTO

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
SIDES = ("chosen", "rejected")
LORA = {"r": 4, "lora_dropout": 0.5, "init_lora_weights": False}


def built(kind, llama, **more):
    torch.manual_seed(0)
    return kind(copy.deepcopy(llama), **more).train()


@pytest.mark.parametrize("way", ["adapter", "full", "given"])
@pytest.mark.parametrize("kind", [DPO, KTO])
def test_losses_and_gradients_are_those_of_a_living_reference(
    kind, way, llama, items, gradients, relative_error
):
    """With mismatched answers too; dropout and the adapter are off while they are computed."""
    more = {"adapter": {"lora": LoraConfig(**LORA)}, "full": {}, "given": {"ref_llm": other(llama)}}[way]
    data = preference_collate_fn(items)["data"] | batch_of(items, [True, False, True])
    living = built(kind, llama, **more)
    stored = built(kind, llama, **more, stored_reference=True)
    source, stored.reference = stored.reference or stored, None
    found = source(data, mode="reference")
    assert not found.requires_grad
    assert set(stored.parts()) == {"llm"}
    if way == "full":
        changed = other(llama).state_dict()
        living.llm.load_state_dict(changed)
        stored.llm.load_state_dict(changed)
    outputs = []
    for model, batch in ((living, data), (stored, {**data, "reference_logprobs": found.double().numpy()})):
        torch.manual_seed(1)
        outputs.append(model(batch))
        outputs[-1]["loss"].backward()
    first, second = outputs
    assert second["loss"].dtype == first["loss"].dtype
    if kind is DPO:
        kl, bound = first["sums"].pop("kl"), second["sums"].pop("kl_lower_bound")
        assert (0 <= bound <= kl) if way == "adapter" else (0 < bound < kl)
    torch.testing.assert_close(second, first, rtol=1e-10, atol=1e-12)
    ours, theirs = gradients(stored.llm), gradients(living.llm)
    assert ours.keys() == theirs.keys()
    assert max(relative_error(ours[n], theirs[n]) for n in ours) < 1e-9


@pytest.mark.parametrize(("lengths", "is_exact"), [((7, 5), False), ((3, 3), True)])
def test_the_kl_of_a_stored_reference_is_a_lower_bound(lengths, is_exact, llama):
    """By the mean log-ratio of each answer; that of a single token is the log-ratio itself."""
    data = preference_collate_fn([pack_of(lengths, torch.Generator().manual_seed(0))])["data"]
    living, stored = (built(DPO, llama, beta=1.0, stored_reference=is_so) for is_so in (False, True))
    found = living(data, mode="reference")
    for model in (living, stored):
        model.llm.load_state_dict(other(llama).state_dict())
    wanted = living(data)["sums"]
    sums = stored({**data, "reference_logprobs": found.double().numpy()})["sums"]
    assert tuple(sums) == stored.metrics
    halves = sum(wanted[f"{side}_rewards"] ** 2 / wanted[f"{side}_length"] / 2 for side in SIDES)
    bound = halves / sum(wanted[f"{side}_length"] for side in SIDES)
    torch.testing.assert_close(sums["kl_lower_bound"], bound, rtol=1e-10, atol=1e-12)
    assert (bound.item() == pytest.approx(wanted["kl"].item(), rel=1e-10)) == is_exact


def test_a_batch_without_stored_numbers_is_named(llama, items):
    """As a collate function of the user's own would make it."""
    message = "model.stored_reference: the batch has no reference_logprobs"
    with pytest.raises(ConfigError, match=message):
        built(DPO, llama, stored_reference=True)(preference_collate_fn(items)["data"])


def test_the_key_is_that_of_the_weights(llama, llama_dir):
    """But for the adapter: in memory or from a folder; another after a change or in another precision."""
    key = built(DPO, llama, stored_reference=True).reference_key()
    assert built(DPO, llama, stored_reference=True).reference_key() == key
    assert built(DPO, other(llama), stored_reference=True).reference_key() != key
    given = built(DPO, llama, ref_llm=other(llama), stored_reference=True).reference_key()
    assert given == built(DPO, other(llama), stored_reference=True).reference_key()
    first, second = (
        built(DPO, llama, lora=LoraConfig(r=rank), stored_reference=True).reference_key() for rank in (2, 4)
    )
    assert first == second
    folder = DPO(of_folder(llama_dir), stored_reference=True)
    half = DPO(
        of_folder(llama_dir), ref_llm=of_folder(llama_dir, torch_dtype=torch.float64), stored_reference=True
    )
    assert folder.reference_key() != half.reference_key()
