"""Samples during training: one batch; a failure stops neither the run nor another process."""

import contextlib
import threading
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from xtuner.engine.hooks import EvaluateChatHook
from xtuner.errors import ConfigError
from xtuner.generation.generate import complete

INPUTS = ["who are you", "hello", "def add(a, b):"]


@pytest.fixture
def llama(llama_dir):
    return AutoModelForCausalLM.from_pretrained(llama_dir)


@pytest.fixture
def make_run(llama, tmp_path):
    """The parts of a run that the hook uses: a real model, alone or in one of `size` processes."""

    def make(size=1, largest=int, gathers=False, stop_asked=lambda: 0):
        return SimpleNamespace(
            cfg={},
            seed=7,
            iter=0,
            hooks=[],
            log_dir=tmp_path,
            model=SimpleNamespace(llm=llama, writes_text=True, chat_form=lambda *form: form),
            train_loop=SimpleNamespace(stop_asked=stop_asked),
            world=SimpleNamespace(size=size, all_reduce_max=largest, is_first=True),
            optim_wrapper=SimpleNamespace(autocast=contextlib.nullcontext, show_average=lambda: None),
            backend=SimpleNamespace(gathers_weights=gathers, sample=lambda make: make()),
            visualizer=SimpleNamespace(add_text=lambda *_: None),
        )

    return make


def hook(tokenizer, inputs=INPUTS, **more):
    return EvaluateChatHook(
        tokenizer, inputs, max_new_tokens=12, generation_kwargs={"do_sample": False}, **more
    )


def test_samples_are_one_batch_and_equal_those_generated_alone(llama, tokenizer, make_run):
    """A forward for each prompt, then one for each token of all."""
    llama.generation_config.eos_token_id = llama.config.eos_token_id = 399
    prompts = [tokenizer.encode(f"<s>{text}", add_special_tokens=False) for text in INPUTS]
    calls = []
    llama.register_forward_pre_hook(lambda *_: calls.append(1))
    found = hook(tokenizer)._sample(make_run(), 12)
    assert len(calls) == len(INPUTS) + 11
    for answer, prompt in zip(found, prompts, strict=True):
        alone = complete(llama, tokenizer, prompt, max_new_tokens=12, temperature=0)
        assert answer == tokenizer.decode(prompt) + alone.text


def test_an_input_without_room_does_not_affect_the_others(tokenizer, make_run, caplog):
    """It is logged with the reason; the others are answered."""
    found = hook(tokenizer, ["hello " * 600, "hello"])._sample(make_run(), 12)
    assert len(found) == 1
    assert "DataError: the prompt has" in caplog.text


def test_a_model_that_writes_no_text_has_no_samples(tokenizer, make_run, caplog):
    """One line says so; no sample is tried and no file of answers is written."""
    run = make_run()
    run.model.writes_text, run.saves_at = False, lambda: True
    samples = hook(tokenizer)
    samples.before_train(run)
    samples.after_train_iter(run, 0)
    samples.after_train(run)
    (line,) = caplog.messages
    assert line.endswith("writes no text, so there are no samples: remove the hook")
    assert not list(run.log_dir.rglob("*.txt"))


def test_a_failing_model_loses_only_the_sample(llama, tokenizer, make_run, caplog):
    """If a forward needs no other process the run continues, in the same mode."""
    llama.train()
    llama.lm_head.forward = lambda _: (_ for _ in ()).throw(RuntimeError("out of luck"))
    assert hook(tokenizer)._sample(make_run(size=2), 12) == []
    assert caplog.text.count("RuntimeError: out of luck") == 3
    assert llama.training


def test_a_failure_in_a_collective_forward_stops_the_run(llama, tokenizer, make_run):
    """The other processes wait in that forward and could not continue."""
    llama.lm_head.forward = lambda _: (_ for _ in ()).throw(RuntimeError("out of luck"))
    with pytest.raises(RuntimeError, match="out of luck"):
        hook(tokenizer)._sample(make_run(size=2, gathers=True), 12)


def test_logits_that_are_not_finite_do_not_stop_a_run(llama, tokenizer, make_run, caplog):
    """All processes have the same logits, so all of them skip the sample."""
    llama.lm_head.weight.data.fill_(float("nan"))
    assert hook(tokenizer)._sample(make_run(size=2, gathers=True), 12) == []
    assert caplog.text.count("not finite") == 3


def test_a_failed_process_waits_for_the_others(llama, tokenizer, make_run, llama_dir):
    """Both processes synchronise equally often, though one has nothing to generate."""
    barrier, values, counts, answers = threading.Barrier(2), {}, {0: 0, 1: 0}, {}

    def meet(rank, number):
        counts[rank] += 1
        values[rank] = int(number)
        barrier.wait(20)
        found = max(values.values())
        barrier.wait(20)
        return found

    # Loaded here: while transformers loads a model it changes a class that all threads see.
    models = [AutoModelForCausalLM.from_pretrained(llama_dir) for _ in range(2)]
    models[1].lm_head.forward = lambda _: (_ for _ in ()).throw(RuntimeError("out of luck"))

    def sample(rank):
        run = make_run(size=2, largest=lambda number: meet(rank, number))
        run.model.llm = models[rank]
        run.model.llm.generation_config.eos_token_id = run.model.llm.config.eos_token_id = 399
        answers[rank] = hook(tokenizer)._sample(run, 40)

    threads = [threading.Thread(target=sample, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(answers[rank]) for rank in (0, 1)] == [3, 0]
    assert counts[0] == counts[1] == 4


def test_a_stop_signal_ends_samples_within_a_few_tokens(llama, tokenizer, make_run, caplog):
    """Incomplete answers are not logged; after an earlier signal none is begun."""
    llama.generation_config.eos_token_id = llama.config.eos_token_id = 399
    caplog.set_level("INFO")
    asked = iter([0, 15])
    calls = []
    llama.register_forward_pre_hook(lambda *_: calls.append(1))
    run = make_run(stop_asked=lambda: next(asked, 15))
    assert hook(tokenizer, INPUTS[:2])._sample(run, 100) == []
    assert len(calls) < 20
    assert hook(tokenizer, INPUTS[:2])._sample(run, 100) == []
    assert len(calls) < 20
    assert caplog.text.count("No more samples: the run is asked to stop") == 2


def test_unknown_generation_kwargs_are_named(tokenizer):
    """The error comes before training and suggests a similar name."""
    with pytest.raises(ConfigError, match=r"unknown name 'temperatur'.*Did you mean 'temperature'"):
        EvaluateChatHook(tokenizer, "hello", generation_kwargs={"temperatur": 0.5})
    given = EvaluateChatHook(tokenizer, "hello", generation_kwargs={"max_new_tokens": 3, "top_k": 5})
    assert (given.max_new_tokens, given.generation_kwargs) == (3, {"top_k": 5})
    assert torch.is_grad_enabled()
