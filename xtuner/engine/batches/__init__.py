"""The batches of training and validation."""
