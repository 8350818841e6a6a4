"""`xtuner demo`: a whole fine-tuning from nothing, on any machine, in minutes."""
