"""Commands of `xtuner convert`."""
