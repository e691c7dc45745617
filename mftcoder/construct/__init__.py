"""Making task datasets."""
