"""Arguments that several commands have, and their first processing."""
