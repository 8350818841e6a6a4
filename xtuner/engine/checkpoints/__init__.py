"""What a run writes to resume from: `files` as one file, `sharded` in parts, `background` while it trains."""
