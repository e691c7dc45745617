"""What happened in one or several runs: a self-contained HTML page, and a comparison in numbers."""
