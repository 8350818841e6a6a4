"""One file per command: `parse_args` and `main`, no logic."""
