"""`xtuner preprocess ...`: make training data of what one has."""
