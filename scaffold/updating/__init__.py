"""Bringing the framework of a project up to date: what differs, how it is merged, and the change itself."""
