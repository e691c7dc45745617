"""Benchmarks: read, asked, executed, scored; ``run.benchmark`` does it all."""
