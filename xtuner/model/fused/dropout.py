"""Dropout masks that are drawn again from a seed, as integers that multiply the bits of a tensor.

seed (64 bits)     one per mask, from the process's own generator
bits [n]           16 random bits for each element, the same for the same seed
mask [...]         1 where bits >= rate x 65536, else 0

On a CPU torch draws random numbers on one thread alone, so bits are hashes of their places there, which all
threads compute: counters mixed by the last step of Appleby's MurmurHash3, the idea of Salmon et al. 2011
(counter-based generators, doi 10.1145/2063384.2063405). On a GPU torch's generator is such a one already;
where it draws fractions only, bits are made of those.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xtuner.devices import kind_of

# Integers as wide as the elements of a tensor, by their bytes.
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Hashes are computed as a table, so many rows at a time that they stay in the cache.
WIDTH, ROWS = 4096, 64
# Shifts and factors of MurmurHash3's last step.
_ROUNDS = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None))


def new_seed(random: torch.Generator | None = None) -> int:
    """A seed from `random`, by default the process's own generator, so that a resumed run draws the same."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=random))


def kept(x: Tensor, rate: float, seed: int) -> Tensor:
    """1 where dropout of that rate keeps `x`, else 0, as integers of its width."""
    mask = torch.empty(x.shape, dtype=_INTEGERS[x.itemsize], device=x.device)
    bits = _random_bits(x.numel(), seed, x.device).view(x.shape)
    return torch.ge(bits, round(rate * 65536) - 32768, out=mask)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """`x` where `mask` is 1, else 0."""
    # Bits are multiplied: on a CPU, filling 16-bit floats is ten times slower.
    return (x.view(mask.dtype) * mask).view(x.dtype)


def _random_bits(count: int, seed: int, device: torch.device) -> Tensor:
    """`[count]`, int16, each value as likely as any other."""
    if device.type == "cpu":
        return _hashes(-(-count // 2), seed).view(torch.int16)[:count]
    generator = torch.Generator(device).manual_seed(seed)
    if not kind_of(device).draws_integers:
        return bits_of(torch.rand(count, generator=generator, device=device))
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=device)
    return words.random_(-(2**63), None, generator=generator).view(torch.int16)[:count]


def bits_of(fractions: Tensor) -> Tensor:
    """Random `fractions` in [0, 1) as int16, each value as likely as any other; they are overwritten."""
    return fractions.mul_(65536).floor_().sub_(32768).clamp_(max=32767).to(torch.int16)


def _hashes(count: int, seed: int) -> Tensor:
    """`[count]`, int32: the numbers from 0, stretched and moved by the halves of `seed`, then mixed."""
    step, rows = seed >> 32 | 1, -(-count // WIDTH)
    first = torch.arange(rows, dtype=torch.int32).mul_(_signed(WIDTH * step)).add_(_signed(seed))
    x = torch.arange(WIDTH, dtype=torch.int32).mul_(_signed(step)) + first[:, None]
    moved = torch.empty_like(x[:ROWS])
    for part in x.split(ROWS):
        for shift, factor in _ROUNDS:
            high = torch.bitwise_right_shift(part, shift, out=moved[: len(part)])
            part.bitwise_xor_(high.bitwise_and_((1 << (32 - shift)) - 1))  # without copies of the sign
            if factor is not None:
                part.mul_(_signed(factor))
    return x.view(-1)[:count]


def _signed(value: int) -> int:
    """The last 32 bits of `value` as an int32."""
    return (value + 2**31) % 2**32 - 2**31
