"""Fine-tune one language model on many tasks at once, so that all of them arrive together."""

__version__ = "0.1.0"
