"""The head registry."""
