"""Sequence parallelism (Ulysses)."""

from xtuner.parallel.sampler import DefaultSampler


class SequenceParallelSampler(DefaultSampler):
    """The same as DefaultSampler: sequence-parallel ranks count as one reader with every sampler."""


__all__ = ["SequenceParallelSampler"]
