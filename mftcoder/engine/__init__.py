"""Engines: what runs the model and updates its weights."""
