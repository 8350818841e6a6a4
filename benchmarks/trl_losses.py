"""Losses on preferences beside those of TRL: the same weights and answers, the largest differences.

    python benchmarks/peers.py install trl
    python benchmarks/trl_losses.py                    by the Python of that environment
    python benchmarks/trl_losses.py --python PYTHON    by another one that has TRL

A row holds our loss, and how far TRL's loss and gradient are from ours, relative to ours. Ours runs packed,
theirs padded, both in fp32, so differences are those of rounding.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from results import write_section

HERE = Path(__file__).resolve().parent
VOCABULARY = 128
BETA = 0.3
# (prompt, chosen, rejected): numbers of tokens. All chosen answers have one length, as TRL weighs the
# supervised term by tokens and not by answers.
LENGTHS = [(1, 6, 4), (1, 6, 9), (1, 6, 2), (1, 6, 6)]
DPO_CASES: list[dict[str, Any]] = [
    {"loss_type": "sigmoid"},
    {"loss_type": "hinge"},
    {"loss_type": "ipo"},
    {"loss_type": "exo_pair", "label_smoothing": 0.1},
    {"loss_type": "nca_pair"},
    {"loss_type": "robust", "label_smoothing": 0.1},
    {"loss_type": "sppo_hard"},
    {"loss_type": "aot"},
    {"loss_type": "aot", "label_smoothing": 0.1},
    {"loss_type": "aot_unpaired"},
    {"loss_type": "apo_zero"},
    {"loss_type": "apo_down"},
    {"loss_type": "discopop"},
    {"loss_type": "sigmoid", "length_normalized": True},
    {"loss_type": "sigmoid", "rpo_alpha": 0.7},
    *(
        {"loss_type": loss, "f_divergence_type": divergence}
        for loss in ("sigmoid", "hinge", "ipo", "discopop")
        for divergence in ("forward_kl", "js_divergence", "alpha_divergence")
    ),
]
CPO_CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("CPO", {}, {}),
    ("CPO", {"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
    ("CPO", {"loss_type": "hinge", "sft_weight": 0.5}, {"loss_type": "hinge", "cpo_alpha": 0.5}),
    ("CPO", {"loss_type": "ipo"}, {"loss_type": "ipo"}),
    ("SimPO", {"gamma": 0.5}, {"loss_type": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.0}),
    (
        "SimPO",
        {"gamma": 0.5, "sft_weight": 0.2},
        {"loss_type": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.2},
    ),
]
# Ours, and what TRL has for it, whose upper bound for cispo is epsilon_high and not 1 + epsilon_high.
GRPO_CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *(({"loss_type": name, "epsilon_high": 0.28},) * 2 for name in ("dapo", "grpo", "dr_grpo")),
    ({"loss_type": "grpo", "beta": 0.04},) * 2,
    ({"loss_type": "dapo", "beta": 0.04},) * 2,
    (
        {"loss_type": "gspo", "epsilon": 3e-2, "epsilon_high": 4e-2},
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": 3e-2,
            "epsilon_high": 4e-2,
        },
    ),
    ({"loss_type": "cispo", "epsilon_high": 0.28}, {"loss_type": "cispo", "epsilon_high": 1.28}),
    ({"loss_type": "dapo", "temperature": 0.7},) * 2,
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", help="the Python of an environment with TRL")
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="the folder of peers.py")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    args = parser.parse_args()
    if importlib.util.find_spec("trl") is not None:
        compare(args.write)
        return
    from peers import python_of

    python = args.python or python_of("trl", args.peers)
    if python is None:
        sys.exit("TRL is not installed: python benchmarks/peers.py install trl, or name a --python")
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [python, __file__, *(["--write"] if args.write else [])]
    sys.exit(subprocess.run(command, env=environment).returncode)


def compare(write: bool) -> None:
    """Print the table; `write`: and put it into RESULTS.md."""
    import datasets
    import torch
    import transformers
    import trl

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    versions = f"TRL {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    print(versions)
    print(f"{'method':58} {'loss':>12} {'of loss':>9} {'of gradient':>12}")
    lines = ["| method | loss | difference | of the gradient |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        methods = (dpo, orpo, cpo, kto, reward, grpo)
        for name, ours, theirs in (row for method in methods for row in method(folder)):
            (loss, grads), (their_loss, their_grads) = ours, theirs
            of_loss = abs(loss - their_loss) / abs(loss)
            of_grads = max((grads[n] - g).norm() / grads[n].norm() for n, g in their_grads.items())
            print(f"{name:58} {loss:12.7f} {of_loss:9.1e} {of_grads:12.1e}")
            lines.append(f"| {name} | {loss:.7f} | {of_loss:.1e} | {of_grads:.1e} |")
    if write:
        write_section(
            "Losses beside TRL's", "\n".join([*lines, "", f"Relative differences in fp32; {versions}."])
        )


def models() -> tuple[Any, Any]:
    """The trained model and its reference: random, in fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)
    torch.manual_seed(0)
    found = []
    for _ in range(2):
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
        found.append(model)
    return found[0], found[1]


def tokenizer() -> Any:
    """Words w0, w1, ...; only there because the trainers want one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w3"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="w0", bos_token="w1", eos_token="w2")


def answers() -> list[dict[str, list[int]]]:
    """Token ids of the pairs."""
    import torch

    generator = torch.Generator().manual_seed(1)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {
            name: torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()
            for name, count in zip(names, lengths, strict=True)
        }
        for lengths in LENGTHS
    ]


def rows() -> Any:
    """Rows of text, for the trainers' constructors."""
    from datasets import Dataset

    return Dataset.from_list([{"prompt": "w5", "chosen": " w6 w7", "rejected": " w8"}] * 4)


def packed() -> dict[str, Any]:
    """The pairs in one pack, as a batch of ours."""
    pairs = answers()
    chosen, rejected = ([pair[f"{side}_ids"] for pair in pairs] for side in ("chosen", "rejected"))
    data = interleaved([pair["prompt_ids"] for pair in pairs], chosen, rejected)
    return {**data, "num_pairs": len(pairs)}


def measured(loss: Any, model: Any) -> tuple[float, dict[str, Any]]:
    """The loss and the gradients by name."""
    model.zero_grad()
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def ours(method: Any, model: Any, **settings: Any) -> tuple[float, dict[str, Any]]:
    """Of a method of ours on a copy of `model`."""
    trained = method(copy.deepcopy(model), **settings).train()
    return measured(trained(packed())["loss"], trained.llm)


def arguments(kind: Any, folder: str, **settings: Any) -> Any:
    """Arguments of a trainer of TRL on a CPU."""
    usual = {"output_dir": folder, "report_to": [], "use_cpu": True, "bf16": False, "beta": BETA}
    return kind(**usual, gradient_checkpointing=False, per_device_train_batch_size=4, **settings)


def dpo(folder: str) -> Any:
    from trl import DPOConfig, DPOTrainer

    from xtuner.model.dpo import DPO

    for case in DPO_CASES:
        model, reference = models()
        own = ours(DPO, model, ref_llm=copy.deepcopy(reference), beta=BETA, **case)
        asked = {k: v for k, v in case.items() if k not in ("rpo_alpha", "length_normalized")}
        if case.get("length_normalized"):
            asked["loss_type"] = "sigmoid_norm"
        if "rpo_alpha" in case:
            asked |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, case["rpo_alpha"]]}
        trainer = DPOTrainer(
            model,
            ref_model=reference,
            args=arguments(DPOConfig, folder, **asked),
            train_dataset=rows(),
            processing_class=tokenizer(),
        )
        batch = trainer.data_collator(answers())
        theirs = measured(trainer.compute_loss(trainer.model.train(), batch), trainer.model)
        yield f"DPO {' '.join(f'{k}={v}' for k, v in case.items())}", own, theirs


def of_pairs(trainer: Any) -> tuple[float, dict[str, Any]]:
    """Of a trainer that takes padded chosen and rejected answers with labels."""
    pairs, batch = answers(), {}
    for side in ("chosen", "rejected"):
        found = padded([p["prompt_ids"] for p in pairs], [p[f"{side}_ids"] for p in pairs], f"{side}_")
        answer = found.pop(f"{side}_completion_mask")
        batch |= {**found, f"{side}_labels": found[f"{side}_input_ids"].masked_fill(answer == 0, -100)}
    loss, _ = trainer.get_batch_loss_metrics(trainer.model.train(), batch)
    return measured(loss, trainer.model)


def orpo(folder: str) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from xtuner.model.orpo import ORPO

    model, _ = models()
    own = ours(ORPO, model, beta=BETA)
    args = arguments(ORPOConfig, folder)
    trainer = ORPOTrainer(model, args=args, train_dataset=rows(), processing_class=tokenizer())
    yield "ORPO", own, of_pairs(trainer)


def cpo(folder: str) -> Any:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    from xtuner.model.cpo import CPO
    from xtuner.model.simpo import SimPO

    for name, settings, theirs in CPO_CASES:
        model, _ = models()
        own = ours({"CPO": CPO, "SimPO": SimPO}[name], model, beta=BETA, **settings)
        args = arguments(CPOConfig, folder, **theirs)
        trainer = CPOTrainer(model, args=args, train_dataset=rows(), processing_class=tokenizer())
        yield f"{name} {' '.join(f'{k}={v}' for k, v in settings.items())}", own, of_pairs(trainer)


def kto(folder: str) -> Any:
    """Chosen and rejected answers as good and bad ones; the mismatched of each is that of its neighbour."""
    import torch
    from trl import KTOConfig, KTOTrainer

    from xtuner.model.kto import KTO

    pairs = answers()
    prompts = [pair["prompt_ids"] for pair in pairs for _ in range(2)]
    single = [pair[f"{side}_ids"] for pair in pairs for side in ("chosen", "rejected")]
    mismatched = [single[-1], *single[:-1]]
    good = torch.tensor([True, False] * len(pairs))
    data = {**interleaved(prompts, single, mismatched), "desirable": good}
    batch = {**padded(prompts, single, ""), **padded(prompts, mismatched, "KL_"), "label": good}
    for weights in ({}, {"desirable_weight": 1.2, "undesirable_weight": 0.7}):
        model, reference = models()
        trained = KTO(copy.deepcopy(model), ref_llm=copy.deepcopy(reference), beta=BETA, **weights).train()
        own = measured(trained(data)["loss"], trained.llm)
        trainer = KTOTrainer(
            model,
            ref_model=reference,
            args=arguments(KTOConfig, folder, **weights),
            train_dataset=labelled_rows(),
            processing_class=tokenizer(),
        )
        theirs = measured(trainer.compute_loss(trainer.model.train(), batch), trainer.model)
        yield f"KTO {' '.join(f'{k}={v}' for k, v in weights.items())}", own, theirs


def interleaved(prompts: list[list[int]], *texts: list[list[int]]) -> dict[str, Any]:
    """Each prompt with its text of the first list, of the second, ...: a batch of ours."""
    import numpy as np

    from xtuner.dataset.collate_fns.flat import flat_collate_fn

    ids: list[int] = []
    labels: list[int] = []
    boundaries = [0]
    for prompt, *found in zip(prompts, *texts, strict=True):
        for text in found:
            ids += prompt + text
            labels += [-100] * len(prompt) + text
            boundaries.append(len(ids))
    item = {"input_ids": np.array(ids), "labels": np.array(labels), "cumulative_len": boundaries}
    return flat_collate_fn([item])["data"]


def padded(prompts: list[list[int]], texts: list[list[int]], prefix: str) -> dict[str, Any]:
    """Prompts with their texts as a padded batch of TRL; names begin with `prefix`."""
    import torch

    lengths = [len(prompt) + len(text) for prompt, text in zip(prompts, texts, strict=True)]
    shape = len(prompts), max(lengths)
    found = {
        prefix + name: torch.zeros(shape, dtype=torch.long)
        for name in ("input_ids", "attention_mask", "completion_mask")
    }
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        found[f"{prefix}input_ids"][row, : lengths[row]] = torch.tensor(prompt + text)
        found[f"{prefix}attention_mask"][row, : lengths[row]] = 1
        found[f"{prefix}completion_mask"][row, len(prompt) : lengths[row]] = 1
    return found


def labelled_rows() -> Any:
    from datasets import Dataset

    good = {"prompt": "w5", "completion": " w6 w7", "label": True}
    bad = {"prompt": "w8", "completion": " w9", "label": False}
    return Dataset.from_list([good, bad] * 2)


def reward(folder: str) -> Any:
    import torch
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from xtuner.model.reward import RewardModel

    base, _ = models()
    base.config.num_labels = 1
    model = LlamaForSequenceClassification(base.config)
    model.model.load_state_dict(base.model.state_dict())
    torch.nn.init.normal_(model.score.weight, std=0.1)
    own = ours(RewardModel, model, penalty_type="none")
    usual = {"output_dir": folder, "report_to": [], "use_cpu": True, "bf16": False}
    trainer = RewardTrainer(
        model,
        args=RewardConfig(**usual, gradient_checkpointing=False, per_device_train_batch_size=4),
        train_dataset=rows(),
        processing_class=tokenizer(),
    )
    pairs = [
        {f"{side}_ids": pair["prompt_ids"] + pair[f"{side}_ids"] for side in ("chosen", "rejected")}
        for pair in answers()
    ]
    batch = trainer.data_collator(pairs)
    theirs = measured(trainer.compute_loss(trainer.model.train(), batch), trainer.model)
    yield "RewardModel loss_type=ranking penalty_type=none", own, theirs


def grpo(folder: str) -> Any:
    """Four answers with advantages, whose log-probabilities have changed since they were sampled."""
    import torch
    from trl import GRPOConfig, GRPOTrainer

    from xtuner.model.grpo import GRPO

    pairs = answers()
    prompts, texts = [pair["prompt_ids"] for pair in pairs], [pair["rejected_ids"] for pair in pairs]
    batch = padded(prompts, texts, "")
    prompt = len(prompts[0])
    batch["prompt_ids"], batch["completion_ids"] = batch["input_ids"].split([prompt, max(map(len, texts))], 1)
    batch["prompt_mask"] = batch["attention_mask"][:, :prompt]
    batch["completion_mask"] = mask = batch["completion_mask"][:, prompt:]
    advantages = torch.tensor([1.3, -0.4, 0.6, -0.2])
    common = {"advantages": advantages, "num_items_in_batch": mask.sum()}
    for own_settings, settings in GRPO_CASES:
        model, reference = models()
        temperature = settings.get("temperature", 1.0)
        old, before = (token_logprobs(m, batch, prompt, temperature) for m in (model, reference))
        torch.manual_seed(2)
        old = old + 0.3 * torch.randn(old.shape)
        data = interleaved(prompts, texts) | {"advantages": advantages, "max_new_tokens": 16}
        data |= {"old_logprobs": old[mask.bool()], "temperature": temperature}
        own_settings = {k: v for k, v in own_settings.items() if k != "temperature"}
        given = {"ref_llm": copy.deepcopy(reference)} if "beta" in own_settings else {}
        trained = GRPO(copy.deepcopy(model), **own_settings, **given).train()
        own = measured(trained(data)["loss"], trained.llm)
        args = GRPOConfig(
            output_dir=folder,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=16,
            **{k: v for k, v in settings.items() if k != "beta"},
        )
        trainer = GRPOTrainer(
            model, reward_funcs=len, args=args, train_dataset=rows(), processing_class=tokenizer()
        )
        # With beta in its arguments the trainer would load a reference by its name.
        trainer.beta, trainer.current_gradient_accumulation_steps = settings.get("beta", 0.0), 1
        inputs = {**batch, **common, "old_per_token_logps": old, "ref_per_token_logps": before}
        theirs = measured(trainer._compute_loss(trainer.model.train(), inputs), trainer.model)
        yield f"GRPO {' '.join(f'{k}={v}' for k, v in settings.items())}", own, theirs


def token_logprobs(model: Any, batch: Any, prompt: int, temperature: float) -> Any:
    """The log-probability of each token of the answers, `[answers, longest]`."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits = logits[:, prompt - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(2, batch["completion_ids"][..., None])[..., 0]


if __name__ == "__main__":
    main()
