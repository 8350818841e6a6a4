"""`xtuner preprocess ...`: make training data from other files."""
