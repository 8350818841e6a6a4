"""One engine that answers: for chat, server, samples during training and evaluation."""
