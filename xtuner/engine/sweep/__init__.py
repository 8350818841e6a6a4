"""Several runs in one process over one loaded base; their batches are mixed where that is possible."""
