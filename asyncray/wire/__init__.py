"""Bytes to messages and back, without io."""
