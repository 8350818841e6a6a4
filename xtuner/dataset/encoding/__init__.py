"""Tokenise conversations: token ids and loss masks."""
