"""Key-value pairs: small facts that programs and tools share, by namespace and key.

The methods mean what those of Ray's ``internal_kv`` mean. The head has the pairs of a cluster, a lone node its own.
They live in memory, so each size has a bound; larger data belongs into objects.

Invariant (``check``): the number of bytes is that of all keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST_KEY = 4096
"""Bytes of a key, and of a namespace."""

LARGEST_VALUE = 1024 * 1024
MOST_BYTES = 64 * 1024 * 1024
"""Bytes of one value, and of all keys and values."""

MOST_PAIRS = 100_000

_OVERHEAD = 200
"""Bytes that a pair counts beside its own: a million empty values are not free."""


class TooLarge(ValueError):
    """The pair, or all of them, would be too large: a fault of the caller. The text is for people."""


class KeyValues:
    """All pairs of a cluster, or of a lone node."""

    def __init__(self) -> None:
        # Namespace -> key -> value.
        self._table: dict[bytes, dict[bytes, bytes]] = {}
        self._count = 0
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<KeyValues {self._count} pairs, {self._bytes} bytes>"

    def perform(self, operation: str, arguments: Sequence[Any]) -> Any:
        """Performs an operation that a message names: "put", "get", "delete", "list" or "exists".

        Raises:
            ValueError: there is no such operation, or it is not possible.
        """
        space, key, *rest = arguments
        if type(space) is not bytes or type(key) is not bytes:
            raise ValueError("a namespace and a key are bytes")
        if operation == "put":
            return self.put(space, key, rest[0], overwrite=rest[1])
        if operation == "delete":
            return self.delete(space, key, by_prefix=rest[0])
        if operation == "list":
            return self.list(space, key)
        value = self.get(space, key)
        if operation == "exists":
            return value is not None
        if operation == "get":
            return value
        raise ValueError(f"key-value pairs have no operation {operation!r:.40}")

    def put(self, namespace: bytes, key: bytes, value: bytes, *, overwrite: bool) -> bool:
        """Keeps a value. Returns True if the key had one before, which stays unless ``overwrite``.

        Raises:
            ValueError: no bytes, or too many. Nothing changed.
        """
        if type(value) is not bytes:
            raise ValueError("a value is bytes")
        pairs = self._table.get(namespace, {})
        old = pairs.get(key)
        if old is not None and not overwrite:
            return True
        self._check_sizes(namespace, key, value, old)
        if old is None:
            self._count += 1
            self._bytes += len(namespace) + len(key) + _OVERHEAD
        self._bytes += len(value) - len(old or b"")
        pairs[key] = value
        self._table[namespace] = pairs
        return old is not None

    def _check_sizes(self, namespace: bytes, key: bytes, value: bytes, old: bytes | None) -> None:
        if max(len(key), len(namespace)) > LONGEST_KEY:
            raise TooLarge(f"a key and a namespace have at most {LONGEST_KEY} bytes")
        if len(value) > LARGEST_VALUE:
            raise TooLarge(f"a value has at most {LARGEST_VALUE} bytes, and this one has {len(value)}: put an object")
        more = len(value) - len(old) if old is not None else len(namespace) + len(key) + _OVERHEAD + len(value)
        if self._bytes + more > MOST_BYTES or (old is None and self._count >= MOST_PAIRS):
            raise TooLarge(f"all keys and values have at most {MOST_BYTES} bytes and {MOST_PAIRS} pairs")

    def get(self, namespace: bytes, key: bytes) -> bytes | None:
        """Returns the value of a key, or None."""
        return self._table.get(namespace, {}).get(key)

    def delete(self, namespace: bytes, key: bytes, *, by_prefix: bool) -> int:
        """Deletes a key, or all that begin with it. Returns how many there were."""
        pairs = self._table.get(namespace, {})
        found = self.list(namespace, key) if by_prefix else [key] if key in pairs else []
        for name in found:
            self._count -= 1
            self._bytes -= len(namespace) + len(name) + _OVERHEAD + len(pairs.pop(name))
        if not pairs:
            self._table.pop(namespace, None)
        return len(found)

    def list(self, namespace: bytes, prefix: bytes) -> list[bytes]:
        """Returns the keys that begin with a prefix, in their order of arrival."""
        return [key for key in self._table.get(namespace, {}) if key.startswith(prefix)]

    def check(self) -> None:
        """Raises AssertionError if the counts are wrong."""
        pairs = [(space, *pair) for space, keys in self._table.items() for pair in keys.items()]
        assert self._count == len(pairs), f"{self} has {len(pairs)} pairs"
        assert self._bytes == sum(len(a) + len(b) + len(c) + _OVERHEAD for a, b, c in pairs), f"{self} counts wrong"
        assert all(self._table.values()), f"{self} keeps an empty namespace"
