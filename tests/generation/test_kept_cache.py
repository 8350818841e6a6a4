"""With kept keys and values an answer is the same as without, and kept tokens are not read again."""

import pytest
from transformers import AutoModelForCausalLM

from xtuner.generation.generate import complete
from xtuner.generation.kept_cache import KeptCache
from xtuner.model.loading import load_for_chat

# peft asks for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
A, B, C = list(range(10, 40)), list(range(40, 60)), list(range(60, 75))
# The prompts of a dialogue: it goes on, the last turn is undone, it starts anew, it says the same again.
PROMPTS = [A, [*A, *B], [*A, *C], [*A, *C, *B], C, C, A[:5], [*A[:5], *B]]


def answers(model, tokenizer, cache):
    """(tokens of the answer, tokens of the prompt that were not read) for each prompt."""
    found = []
    for prompt in PROMPTS:
        done = complete(model, tokenizer, prompt, max_new_tokens=6, temperature=0, cache=cache)
        found.append((done.ids, done.reused))
    return found


def compare(model, tokenizer):
    """The number of reused tokens for each prompt; the answers are compared first."""
    kept = answers(model, tokenizer, KeptCache())
    assert [ids for ids, _ in kept] == [ids for ids, _ in answers(model, tokenizer, None)]
    return [reused for _, reused in kept]


EXPECTED = [0, 30, 30, 45, 0, 14, 0, 5]


def test_the_common_prefix_is_kept(llama_dir, tokenizer):
    """A next turn, an undone turn and a reset reuse the common prefix; the last token is read again."""
    model = AutoModelForCausalLM.from_pretrained(llama_dir)
    assert compare(model, tokenizer) == EXPECTED


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("ignore")
def test_quantised(llama_dir, bits):
    """A model of 4 or 8 bits reuses the same tokens."""
    model, tokenizer = load_for_chat(llama_dir, dtype="fp32", bits=bits)
    assert compare(model, tokenizer) == EXPECTED


def test_with_an_adapter(llama_dir, tokenizer):
    """A model with an adapter reuses the same tokens."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_dir), config)
    assert compare(model, tokenizer) == EXPECTED


def test_a_window_that_has_moved_starts_again(saved, tokenizer):
    """Keys that a sliding window has lost are read again; a next turn needs none of them."""
    model = AutoModelForCausalLM.from_pretrained(saved("mistral", sliding_window=16))
    assert compare(model, tokenizer) == [0, 0, 0, 0, 0, 0, 0, 5]
    cache = KeptCache()
    first = complete(model, tokenizer, A, max_new_tokens=6, temperature=0, cache=cache)
    longer = [*A, *first.ids, *B]
    kept = complete(model, tokenizer, longer, max_new_tokens=6, temperature=0, cache=cache)
    assert kept.reused == len(A) + 5
    assert kept.ids == complete(model, tokenizer, longer, max_new_tokens=6, temperature=0).ids


def test_an_interrupted_forward_leaves_nothing(llama_dir, tokenizer):
    """After Ctrl-C in the middle of a layer the next answer is still correct."""
    model = AutoModelForCausalLM.from_pretrained(llama_dir)
    cache = KeptCache()
    complete(model, tokenizer, A, max_new_tokens=6, temperature=0, cache=cache)

    def interrupt(*_):
        raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        complete(model, tokenizer, [*A, *B], max_new_tokens=6, temperature=0, cache=cache)
    hook.remove()
    assert len(cache) == 0
    assert compare(model, tokenizer) == EXPECTED


def test_positions_that_change_with_the_length_start_again():
    """If rotary positions change at a length, a prompt that crosses it is read as a whole."""
    cache, values = KeptCache(), object()
    cache.keep(list(range(8)), values)
    assert cache.take(list(range(12)), same_until=16) == (values, 8)
    cache.keep(list(range(8)), values)
    assert cache.take(list(range(20)), same_until=16) == (None, 0)
    assert len(cache) == 0


def test_an_answer_can_be_cancelled(llama_dir, tokenizer):
    """`cancelled` ends an answer after a token; the text so far is returned."""
    model = AutoModelForCausalLM.from_pretrained(llama_dir)
    pieces = []
    done = complete(
        model, tokenizer, A, max_new_tokens=50, on_text=pieces.append, cancelled=lambda: len(pieces) >= 3
    )
    assert done.finish == "cancelled"
    assert 3 <= len(done.ids) < 10
    assert done.text == "".join(pieces)
    assert 0 < done.first_seconds <= done.seconds
