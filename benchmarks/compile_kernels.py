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

from xtuner.model.kernels import dropout, gated, loss, norm, rotary

CAPABILITIES = (80, 90, 100)
# Kernel -> its arguments with the sizes of Llama 3.1 8B: types of tensors and numbers, and the constants.
BF16, FP32, IDS = "*bf16", "*fp32", "*i64"
KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, int]]] = {
    "rms norm": (
        norm._forward,
        {"x": BF16, "weight": BF16, "y": BF16, "scale": FP32, "rows": "i32", "width": "i32", "eps": "fp32"},
        {"ROWS": 1, "BLOCK": 4096},
    ),
    "rms norm, gradient": (
        norm._backward,
        {
            **{"dy": BF16, "x": BF16, "weight": BF16, "scale": FP32, "dx": BF16, "d_weight": FP32},
            **{"rows": "i32", "width": "i32", "steps": "i32"},
        },
        {"NEEDS_X": 1, "NEEDS_WEIGHT": 1, "ROWS": 1, "BLOCK": 4096},
    ),
    "rms norm of a head": (
        norm._forward,
        {"x": BF16, "weight": BF16, "y": BF16, "scale": FP32, "rows": "i32", "width": "i32", "eps": "fp32"},
        {"ROWS": 32, "BLOCK": 128},
    ),
    "rotary positions": (
        rotary._turn,
        {
            **{"x": BF16, "cos": BF16, "sin": BF16, "y": BF16, "heads": "i32", "half": "i32"},
            **{"token_stride": "i32", "angle_stride": "i32", "sign": "fp32"},
        },
        {"HEADS": 32, "HALF": 64},
    ),
    "gated product": (
        gated._forward,
        {"gate": BF16, "up": BF16, "h": BF16, "count": "i32"},
        {"BLOCK": gated._BLOCK},
    ),
    "gated product, gradient": (
        gated._backward,
        {**dict.fromkeys(("dh", "gate", "up", "h", "d_gate", "d_up"), BF16), "count": "i32"},
        {"NEEDS_H": 1, "BLOCK": gated._BLOCK},
    ),
    "dropout": (
        dropout._masked,
        {"x": BF16, "y": BF16, "seed": "i64", "limit": "i32", "count": "i32"},
        {"BLOCK": dropout._BLOCK},
    ),
    "cross entropy": (
        loss._cross_entropy,
        {"logits": BF16, "targets": IDS, "losses": FP32, "width": "i32", "stride": "i32"},
        {"BLOCK": loss._BLOCK},
    ),
}
_WARPS = {"cross entropy": loss._WARPS, **dict.fromkeys([n for n in KERNELS if "norm" in n], norm._WARPS)}


def compiled(name: str, capability: int) -> dict[str, int]:
    """Registers of a thread, bytes spilled by it, and bytes of shared memory of a program."""
    kernel, types, fixed = KERNELS[name]
    source = ASTSource(fn=kernel, signature={**types, **dict.fromkeys(fixed, "constexpr")}, constexprs=fixed)
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
    print(
        "| kernel | compute capability | registers | stack, bytes | shared memory, bytes |\n|---|---|---|---|---|"
    )
    for name in KERNELS:
        for capability in CAPABILITIES:
            found = compiled(name, capability)
            print(f"| {name} | {capability / 10} | {' | '.join(map(str, found.values()))} |")


if __name__ == "__main__":
    main()
