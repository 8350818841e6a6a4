"""Models that see: from images to rows among the embeddings of a language model."""
