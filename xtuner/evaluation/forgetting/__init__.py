"""What a model knew before a training, and what of it a run has lost."""
