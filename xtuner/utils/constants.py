"""Constants of data and models."""

IGNORE_INDEX = -100
"""The label of a token that is not supervised."""
DEFAULT_PAD_TOKEN_INDEX = 0
"""The id of padding, which is always masked, whatever token 0 is in the tokenizer."""
IMAGE_TOKEN_INDEX = -200
"""The placeholder id of an image."""
DEFAULT_IMAGE_TOKEN = "<image>"
"""The placeholder text of an image."""
