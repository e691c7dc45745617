"""The project of the end-to-end tests."""

from end_to_end_project import project, write_config

__all__ = ["project", "write_config"]
