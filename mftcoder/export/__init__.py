"""From a run to a folder that plain transformers loads."""
