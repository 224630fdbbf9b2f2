"""The functions and classes that programs use: remote functions, actors, init, get, wait."""
