"""Many processes as one: starting them, their groups, what each reads, sequences shared among them."""
