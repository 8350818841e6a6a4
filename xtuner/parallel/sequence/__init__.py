"""Rows of tokens that several processes share (Ulysses)."""

from xtuner.parallel.sampler import DefaultSampler


class SequenceParallelSampler(DefaultSampler):
    """As DefaultSampler: processes that share a row count as one reader whichever sampler is named."""


__all__ = ["SequenceParallelSampler"]
