"""Helpers on top of the public calls, under the names that Ray's users know."""
