"""Text generation for chat, the server, samples during training and evaluation."""
