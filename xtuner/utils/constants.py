"""Numbers and marks that data and models agree on."""

IGNORE_INDEX = -100
"""The label of a token that is not trained."""
DEFAULT_PAD_TOKEN_INDEX = 0
"""The id that fills a row up; it never counts, whatever the tokenizer says 0 is."""
IMAGE_TOKEN_INDEX = -200
"""The id that stands where an image goes."""
DEFAULT_IMAGE_TOKEN = "<image>"
"""The mark in the text where an image goes."""
