"""Renews the random numbers of numpy, so that no two workers draw the same.

1. **Goal.** All workers are forks of the zygote. Each one must begin with another state of ``numpy.random``.
2. **Ways that cost more.** ``numpy.random.seed()`` in a worker costs 0.5 ms, because all code is cold there.
   ``numpy.random.set_state()`` in the zygote costs 0.1 ms and 45 page faults more than what follows, before each fork.
3. **Solution.** The generator is a Mersenne Twister: 624 words and a position. Numpy says where they are in memory, so
   random bytes are written to that place, in the zygote.
4. **Safety.** Numpy documents the address, but not the order of the values there. So the memory is compared with a
   random state that has just been set. If it differs, ``set_state`` does the work each time.

Python's own ``random`` seeds itself in each child.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

_WORDS = 624

_STATE_BYTES = 4 * _WORDS


class RandomNumbers:
    """The state of ``numpy.random`` in a process that forks workers."""

    def __init__(self) -> None:
        # Sets a random state. None until numpy.random is loaded.
        self._set_state: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<RandomNumbers {'of numpy' if self._set_state else 'without numpy'}>"

    def renew(self) -> None:
        """Sets a new random state. Does nothing as long as numpy.random is not loaded."""
        if self._set_state is not None:
            self._set_state()
        elif "numpy.random" in sys.modules:
            try:
                self._set_state = _StateInMemory().write
            except ValueError:
                self._set_state = _set_state


def _set_state() -> bytes:
    """Sets a random state, and returns its words."""
    import numpy.random  # loaded already: only the name

    key = os.urandom(_STATE_BYTES)
    words = memoryview(key).cast("I").tolist()
    # With as many words used as there are, the generator makes new ones before the first draw.
    numpy.random.set_state({"bit_generator": "MT19937", "state": {"key": words, "pos": _WORDS}})
    return key


class _StateInMemory:
    """The state of numpy's generator, at its place in memory.

    Raises:
        ValueError: the memory has another layout.
    """

    def __init__(self) -> None:
        import ctypes  # start-up cost: numpy has loaded it

        import numpy.random  # loaded already: only the name

        expected = _set_state() + _WORDS.to_bytes(4, sys.byteorder)
        # Held here, because the memory is the generator's.
        self._generator: Any = numpy.random.mtrand.get_bit_generator()
        address = self._generator.ctypes.state_address
        if ctypes.string_at(address, len(expected)) != expected:
            raise ValueError("this version of numpy keeps its random state in another layout")
        self._words = memoryview((ctypes.c_ubyte * _STATE_BYTES).from_address(address)).cast("B")
        self._position = ctypes.c_int32.from_address(address + _STATE_BYTES)

    def __repr__(self) -> str:
        return f"<_StateInMemory {self._position.value} of {_WORDS} words used>"

    def write(self) -> None:
        """Writes a random state."""
        self._words[:] = os.urandom(_STATE_BYTES)
        self._position.value = _WORDS
