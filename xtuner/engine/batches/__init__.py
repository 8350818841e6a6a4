"""Where batches of training and validation come from."""
