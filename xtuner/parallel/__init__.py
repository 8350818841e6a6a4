"""Runs of several processes: launch, process groups, samplers, sequence parallelism."""
