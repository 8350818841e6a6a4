"""Compile every Triton kernel for three generations of GPUs: registers, spills and shared memory.

python benchmarks/compile_kernels.py        needs no GPU, but the package triton
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from xtuner.model.kernels import dropout, four_bits, gated, loss, norm, rotary

CAPABILITIES = (80, 90, 100)
# Kernel -> its arguments with the sizes of Llama 3.1 8B: types of tensors and numbers, and the constants.
BF16, FP32, IDS = "*bf16", "*fp32", "*i64"
# Numbers that are multiples of 16 in all models of note.
DIVISIBLE = {"rows", "tokens", "width", "half", "length", "count", "block", "group", "stride", "query_stride"}
DIVISIBLE |= {"key_stride", "cos_stride", "cos_row", "sin_stride", "sin_row"}
SEED = {"seed": "i64", "limit": "i32", "count": "i32"}
KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, int]]] = {
    "rms norm": (
        norm._forward,
        {"x": BF16, "weight": BF16, "y": BF16, "scale": FP32, "rows": "i32", "width": "i32", "eps": "fp32"},
        {"ROWS": 1, "BLOCK": 4096},
    ),
    "rms norm, gradient": (
        norm._backward,
        {
            **{"dy": BF16, "x": BF16, "weight": BF16, "scale": FP32, "beside": BF16, "dx": BF16},
            **{"d_weight": FP32, "rows": "i32", "width": "i32", "steps": "i32"},
        },
        {"NEEDS_X": 1, "NEEDS_WEIGHT": 1, "BESIDE": 1, "ROWS": 1, "BLOCK": 4096},
    ),
    "rms norm of a head": (
        norm._forward,
        {"x": BF16, "weight": BF16, "y": BF16, "scale": FP32, "rows": "i32", "width": "i32", "eps": "fp32"},
        {"ROWS": 32, "BLOCK": 128},
    ),
    "rotary positions": (
        rotary._rotate,
        {
            **dict.fromkeys(("query", "key", "cos", "sin", "new_query", "new_key"), BF16),
            **dict.fromkeys(("tokens", "length", "heads", "key_heads", "half"), "i32"),
            **dict.fromkeys(("query_stride", "key_stride", "cos_stride", "cos_row"), "i32"),
            **dict.fromkeys(("sin_stride", "sin_row"), "i32"),
            "sign": "fp32",
        },
        {"TOKENS": 1, "HEADS": 32, "KEY_HEADS": 8, "HALF": 64},
    ),
    "gated product, dropped": (
        gated._forward,
        {**dict.fromkeys(("gate", "up", "h", "dropped"), BF16), **SEED},
        {"DROPS": 1, "BLOCK": dropout.BLOCK},
    ),
    "gated product, dropped, gradient": (
        gated._backward,
        {**dict.fromkeys(("dh", "low", "gate", "up", "h", "d_gate", "d_up"), BF16), **SEED},
        {"NEEDS_H": 1, "DROPS": 1, "BLOCK": dropout.BLOCK},
    ),
    "gated product": (
        gated._forward,
        {**dict.fromkeys(("gate", "up", "h", "dropped"), BF16), **SEED},
        {"DROPS": 0, "BLOCK": dropout.BLOCK},
    ),
    "gated product, gradient": (
        gated._backward,
        {**dict.fromkeys(("dh", "low", "gate", "up", "h", "d_gate", "d_up"), BF16), **SEED},
        {"NEEDS_H": 0, "DROPS": 0, "BLOCK": dropout.BLOCK},
    ),
    "dropout": (dropout._masked, {"x": BF16, "y": BF16, **SEED}, {"BLOCK": dropout.BLOCK}),
    "weights of 4 bits": (
        four_bits._dequantize,
        {
            **{"codes": "*u8", "levels": FP32, "scales": "*u8", "scale_levels": FP32, "outer": FP32},
            **{"offset": FP32, "y": BF16, "count": "i32", "block": "i32", "group": "i32"},
        },
        {"BLOCK": four_bits._BLOCK},
    ),
    "cross entropy": (
        loss._cross_entropy,
        {"logits": BF16, "targets": IDS, "factors": FP32, "losses": FP32, "width": "i32", "stride": "i32"},
        {"GRADIENT": 1, "FACTORS": 0, "BLOCK": loss._BLOCK},
    ),
    "cross entropy, weighted": (
        loss._cross_entropy,
        {"logits": BF16, "targets": IDS, "factors": FP32, "losses": FP32, "width": "i32", "stride": "i32"},
        {"GRADIENT": 1, "FACTORS": 1, "BLOCK": loss._BLOCK},
    ),
}
_WARPS = {
    **dict.fromkeys([n for n in KERNELS if "entropy" in n], loss._WARPS),
    **dict.fromkeys([n for n in KERNELS if "norm" in n], norm._WARPS),
}


def compiled(name: str, capability: int) -> dict[str, int]:
    """Registers of a thread, bytes spilled by it, and bytes of shared memory of a program."""
    kernel, types, fixed = KERNELS[name]
    signature = {**types, **dict.fromkeys(fixed, "constexpr")}
    # As at run time, where Triton looks at addresses and numbers.
    aligned = [i for i, (n, kind) in enumerate(types.items()) if kind[0] == "*" or n in DIVISIBLE]
    attrs = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attrs)
    options = {"num_warps": _WARPS.get(name, 4)}
    result = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    usage = _usage(result.asm["cubin"])
    return {"registers": usage["REG"], "stack": usage["STACK"], "shared": result.metadata.shared}


def _usage(cubin: bytes) -> dict[str, int]:
    """The counts that NVIDIA's `cuobjdump` gives, which comes with triton."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", text)}


def main() -> None:
    """Print the table."""
    print("| kernel | compute capability | registers | stack, bytes | shared memory, bytes |")
    print("|---|---|---|---|---|")
    for name in KERNELS:
        for capability in CAPABILITIES:
            found = compiled(name, capability)
            print(f"| {name} | {capability / 10} | {' | '.join(map(str, found.values()))} |")


if __name__ == "__main__":
    main()
