"""Make the items that training reads from samples of tokens."""
