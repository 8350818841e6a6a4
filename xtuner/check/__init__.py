"""Check a run before anything is loaded or downloaded; without torch."""
