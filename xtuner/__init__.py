"""XTuner: fine-tune a large language model on the hardware at hand."""

__version__ = "0.3.0"
