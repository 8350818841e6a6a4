"""Everything that can be wrong with a run, found before anything is loaded or downloaded; no torch."""
