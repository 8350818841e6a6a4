"""Make training data of what one has: tables, one large file, the metadata of arXiv, RefCOCO."""
