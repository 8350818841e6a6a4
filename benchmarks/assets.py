"""The model and the rows that every training of `train_speed.py` starts from.

    python benchmarks/assets.py                        those of a GPU: 5.7 GB, and what they took

<place>/model/          a Llama of random weights, on a GPU of 4 bits, and a tokenizer that knows the texts
<place>/messages.jsonl  {"messages": [user, assistant]}              rows that fit into the length
<place>/prompts.jsonl   {"prompt": [user], "completion": [assistant]}   the same rows for TRL
<place>/pairs.jsonl     {"prompt": [user], "chosen": [assistant], "rejected": [assistant]}
<place>/dataset_info.json                                               where LLaMA-Factory finds them
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

from texts import alpaca_rows, make_tokenizer, write_rows

VOCABULARY = 32_000
# 56 million weights, 23.6 of them in the layers, which take about 177 MFLOP a token to train with LoRA r=64.
SMALL = dict(
    vocab_size=VOCABULARY,
    hidden_size=512,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    intermediate_size=1408,
    max_position_embeddings=4096,
)
# As large as Llama 3.1 8B.
LARGE = dict(
    vocab_size=128_256,
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    max_position_embeddings=8192,
)
# In its place where a CPU stands in.
TINY = dict(SMALL, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
STANDS_IN = bool(os.environ.get("XTUNER_STAND_IN"))
# Of a GPU, or of the CPU that stands in: the model, how many rows, and their longest in tokens.
GPU_SHAPE, GPU_ROWS, GPU_LENGTH = (TINY, 2_000, 256) if STANDS_IN else (LARGE, 20_000, 2048)
WORK = Path(__file__).parent / ".work"


def make_gpu_assets(work: Path) -> Path:
    """The folder of the assets of a GPU, or of the CPU that stands in."""
    place = work / ("stand-in" if STANDS_IN else "gpu")
    make_assets(place, GPU_SHAPE, GPU_ROWS, GPU_LENGTH, bits=4)
    return place


def make_assets(place: Path, shape: dict[str, int], rows: int, length: int, bits: int = 16) -> None:
    """Write everything, unless it exists already."""
    made = {"shape": shape, "rows": rows, "length": length, "bits": bits}
    wanted = json.dumps(made, sort_keys=True)
    done = place / "made"
    if done.is_file() and done.read_text("utf-8") == wanted:
        return
    place.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    tokenizer = make_tokenizer(VOCABULARY)
    tokenizer.save_pretrained(place / "model")
    (make_model_of_4_bits if bits == 4 else make_model)(place / "model", shape, tokenizer)
    write_data(place, tokenizer, rows, length)
    done.write_text(wanted, "utf-8")


def llama_config(shape: dict[str, int], tokenizer: Any, **more: Any) -> Any:
    """The config of a Llama of that shape."""
    from transformers import LlamaConfig

    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return LlamaConfig(**shape, **ids, tie_word_embeddings=False, **more)


def make_model(folder: Path, shape: dict[str, int], tokenizer: Any) -> None:
    """Save a Llama of random weights."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(llama_config(shape, tokenizer)).save_pretrained(folder)


def make_model_of_4_bits(folder: Path, shape: dict[str, int], tokenizer: Any) -> None:
    """Save a Llama of random nf4 weights as transformers would, a file for each layer.

    A third of the bytes of 16 bits, and no training has to quantise them.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BitsAndBytesConfig, LlamaForCausalLM

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head"],
    )
    config = llama_config(shape, tokenizer, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    config.quantization_config = quantization.to_dict()
    config.save_pretrained(folder)
    with torch.device("meta"):
        sizes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    files: dict[str, dict[str, Any]] = {}
    for name in sizes:
        layer = name.split(".layers.")[-1].split(".")[0] if ".layers." in name else "others"
        files.setdefault(f"model-{layer}.safetensors", {})[name] = sizes[name]
    torch.manual_seed(0)
    index, total = {}, 0
    for file, names in files.items():
        tensors = {}
        for name, size in names.items():
            tensors |= random_weight(name, size)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    torch.cuda.empty_cache()  # the trainings that follow are other processes
    whole = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(whole), "utf-8")


def random_weight(name: str, size: Any) -> dict[str, Any]:
    """A weight by name; of a layer's matrix the nf4 codes, and what gives its values."""
    import torch
    from bitsandbytes.functional import quantize_4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if len(size) == 1:
        return {name: torch.ones(size, dtype=torch.bfloat16)}
    weight = torch.randn(size, dtype=torch.bfloat16, device=device) * 0.02
    if ".layers." not in name:
        return {name: weight.cpu()}
    codes, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    more = {f"{name}.{key}": value.cpu() for key, value in state.as_dict(packed=True).items()}
    return {name: codes.cpu(), **more}


def write_data(place: Path, tokenizer, rows: int, length: int) -> None:
    """Write the rows that are shorter than `length`, so that no program cuts or drops one."""
    kept = []
    for row in alpaca_rows(rows):
        question = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        chat = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": row["output"]},
        ]
        # 16 less: programs add different texts around a chat.
        if len(tokenizer.apply_chat_template(chat, return_dict=False)) <= length - 16:
            kept.append(chat)
    write_rows([{"messages": chat} for chat in kept], place / "messages.jsonl")
    write_rows([{"prompt": chat[:1], "completion": chat[1:]} for chat in kept], place / "prompts.jsonl")
    # A row's answer, and the next row's that is no answer to it.
    pairs = [
        {"prompt": a[:1], "chosen": a[1:], "rejected": b[1:]}
        for a, b in itertools.pairwise(kept)
        if len(tokenizer.apply_chat_template([a[0], b[1]], return_dict=False)) <= length - 16
    ]
    write_rows(pairs, place / "pairs.jsonl")
    texts = [{name: messages[0]["content"] for name, messages in pair.items()} for pair in pairs]
    write_rows(texts, place / "pairs_of_texts.jsonl")
    compared = {
        "file_name": "pairs_of_texts.jsonl",
        "ranking": True,
        "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    }
    info = {
        "file_name": "messages.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    (place / "dataset_info.json").write_text(json.dumps({"rows": info, "pairs": compared}, indent=1), "utf-8")


def main() -> None:
    begun = time.perf_counter()
    place = make_gpu_assets(WORK)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    print(f"{place}: {size / 1e9:.2f} GB, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
