"""Make a small bilingual base model in place: a tokenizer, a Llama of four layers, a minute of training.

documents   statements and dialogues of `xtuner.demo.corpus`, asked in other words in every epoch
samples     <s>熊猫吃竹子。</s>
            <s><|im_start|>user\\n你是谁<|im_end|>\\n<|im_start|>assistant\\n...<|im_end|>\\n</s>
batches     samples of similar length, padded, about 1024 tokens
folder      config.json, model.safetensors, tokenizer.json, ..., made_by_xtuner_demo.json
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from xtuner import dist
from xtuner.demo.corpus import Document, all_strings, load_documents
from xtuner.demo.made import OnStep, Result, Trained, keep_or_make, mean_of_last, plan_key
from xtuner.demo.muon import make_optimizers, set_rates
from xtuner.model.loading import compute_dtype

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Sample = tuple[list[int], list[float]]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
ASK, ANSWER, END = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "{}<|im_end|>", "\n"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Pretraining:
    """Sizes of the model and of its training; `steps` decides how long it takes."""

    seed: int = 0
    vocab_size: int = 3072
    hidden_size: int = 256
    intermediate_size: int = 704
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    steps: int = 440
    tokens_per_step: int = 1024
    question_weight: float = 0.2
    lr: float = 0.015
    embedding_lr: float = 3e-3
    warmup: int = 20


def make_base_model(
    folder: str | Path, plan: Pretraining | None = None, progress: OnStep | None = None
) -> Result:
    """Write a complete model folder to `folder`; one made before with the same plan is kept.

    `progress` is called after every training step.
    """
    plan = plan or Pretraining()

    def make() -> Trained:
        tokenizer = train_tokenizer(plan.vocab_size)
        model = build_model(plan, tokenizer)
        return Trained(model, tokenizer, *pretrain(model, tokenizer, plan, progress))

    return keep_or_make(Path(folder), plan_key(plan, load_documents()), make)


def train_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the corpus; decoding restores every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        # four Chinese characters or a long English word: a token must not hold a whole answer
        max_token_length=12,
        show_progress=False,
    )
    core.train_from_iterator(all_strings(load_documents()), trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )


def build_model(plan: Pretraining, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights, the same for the same seed; stops at `</s>` and `<|im_end|>`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=plan.vocab_size,
        hidden_size=plan.hidden_size,
        intermediate_size=plan.intermediate_size,
        num_hidden_layers=plan.num_layers,
        num_attention_heads=plan.num_heads,
        num_key_value_heads=plan.num_kv_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        # for samples this short, plain matrix products are faster than the fused attention of a CPU
        model = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    return model


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    plan: Pretraining,
    progress: OnStep | None = None,
) -> tuple[float, int]:
    """Train; returns the mean loss of the last tenth of the steps and the number of tokens read."""
    device = dist.device()
    model.train()
    module: torch.nn.Module = model
    module.to(device)
    low = compute_dtype(None, device)
    optimizers = make_optimizers(model, model.model.layers, plan.lr, plan.embedding_lr, low)
    batches = iterate_batches(tokenizer, plan)
    losses, num_tokens = [], 0
    for step in range(plan.steps):
        input_ids, weights = (t.to(device) for t in next(batches))
        set_rates(optimizers, step, plan.steps, plan.warmup)
        with torch.autocast(device.type, low) if low != torch.float32 else nullcontext():
            # Padding is at the end, so causal attention needs no mask for it.
            logits = model(input_ids=input_ids, use_cache=False, logits_to_keep=slice(0, -1)).logits
            each = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none"
            )
        loss = each @ weights / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        num_tokens += int((weights > 0).sum())
        if progress:
            progress(step + 1, plan.steps, losses[-1])
    module.to("cpu").eval()
    return mean_of_last(losses), num_tokens


def iterate_batches(
    tokenizer: PreTrainedTokenizerFast, plan: Pretraining
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless `(input_ids [B, T], weights [B * (T - 1)])`: loss weights of next tokens, 0 for padding."""
    rng = random.Random(plan.seed)
    while True:
        samples = [encode_document(d, tokenizer, rng, plan.question_weight) for d in load_documents()]
        rng.shuffle(samples)
        samples.sort(key=lambda sample: len(sample[0]) // 4)
        batches = cut_batches(samples, plan.tokens_per_step)
        rng.shuffle(batches)
        for batch in batches:
            width = max(len(ids) for ids, _ in batch)
            input_ids = [ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in batch]
            weights = [w[1:] + [0.0] * (width - len(w)) for _, w in batch]
            yield torch.tensor(input_ids), torch.tensor(weights).flatten()


def cut_batches(samples: list[Sample], num_tokens: int) -> list[list[Sample]]:
    """Batches of consecutive samples, of up to `num_tokens` with padding."""
    batches: list[list[Sample]] = [[]]
    width = 0
    for sample in samples:
        width = max(width, len(sample[0]))
        if width * (len(batches[-1]) + 1) > num_tokens and batches[-1]:
            batches.append([])
            width = len(sample[0])
        batches[-1].append(sample)
    return batches


def encode_document(
    document: Document, tokenizer: PreTrainedTokenizerFast, rng: random.Random, question_weight: float
) -> Sample:
    """Token ids and their loss weights; each question is worded in one of its ways."""
    pieces = [(document.text, 1.0)] if document.text else []
    for questions, answer in document.turns:
        question = as_typed(rng.choice(questions), rng)
        pieces += [
            (ASK.format(question), question_weight),
            (ANSWER.format(answer), 1.0),
            (END, question_weight),
        ]
    encoded = tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
    ids, weights = [tokenizer.bos_token_id], [0.0]
    for piece, (_, weight) in zip(encoded, pieces, strict=True):
        ids += piece
        weights += [weight] * len(piece)
    return [*ids, tokenizer.eos_token_id], [*weights, 1.0]


def as_typed(question: str, rng: random.Random) -> str:
    """`question` as people type it: sometimes without its last mark, or with a line break."""
    if rng.random() < 0.3:
        question = question.rstrip("？?。.！!")
    return question + "\n" if rng.random() < 0.15 else question
