"""One page about a training, from its work dir."""
