"""The project is shared with other suites."""

from end_to_end_project import project, write_config

__all__ = ["project", "write_config"]
