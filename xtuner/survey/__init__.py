"""What a data set looks like to the model: stages of rows, counts, lengths and faults, as plain data; and
showing them on a terminal, as a page for the browser, as JSON for scripts.
"""
