"""Models: loading, adapters, and what stands between a batch and per-token NLL."""
