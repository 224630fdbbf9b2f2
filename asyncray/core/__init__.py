"""Decisions: synchronous state machines without io, clock, randomness or bytes."""
