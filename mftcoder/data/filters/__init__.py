"""Which texts to leave out: duplicates, and what stands in a benchmark."""
