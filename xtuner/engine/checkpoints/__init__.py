"""What a run writes to resume from: `files` on disk, `background` writing."""
