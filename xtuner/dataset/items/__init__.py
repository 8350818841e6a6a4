"""From samples of tokens to the items that training reads."""
