"""What a model may call while it answers: `calculate`, `solve`, `search`, and functions of the user's."""
