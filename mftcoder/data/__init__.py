"""From task files to micro-batches."""
