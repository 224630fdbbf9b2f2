"""The head registry and its HTTP face."""
