"""YOURS: data loaders."""
