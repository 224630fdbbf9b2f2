"""A process's connection to its daemon: references, local object table, serialization."""
