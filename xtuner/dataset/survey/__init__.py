"""What a data set looks like to the model, as plain data: stages of rows, counts, lengths, faults."""
