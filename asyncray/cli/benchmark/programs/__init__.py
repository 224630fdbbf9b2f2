"""Scripts that a row runs as a process of its own. They import nothing of the command line."""
