"""What several commands take on their command line, and what they make of it first."""
