"""``ray.cloudpickle``: pickles values as asyncray pickles them on their way to other processes.

Functions and classes go by value where they must; refs and handles may be among the values; registered serializers
count. A ref in such a pickle is not counted: it can be used as long as another ref keeps its object. Every other
name is that of the package ``cloudpickle``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import IO, Any

import cloudpickle

from asyncray.runtime.serialization import Pickler

load = pickle.load
loads = pickle.loads

BufferCallback = Callable[[pickle.PickleBuffer], Any]


def dump(
    obj: object, file: IO[bytes], protocol: int | None = None, buffer_callback: BufferCallback | None = None
) -> None:
    """Pickles a value into a file. Arguments as of ``pickle.dump``; the protocol is the highest one by default."""
    if protocol is None:
        protocol = cloudpickle.DEFAULT_PROTOCOL
    Pickler(file, protocol, buffer_callback).dump(obj)


def dumps(obj: object, protocol: int | None = None, buffer_callback: BufferCallback | None = None) -> bytes:
    """The same into bytes.

    Example::

        pickled = ray.cloudpickle.dumps({"actor": counter, "double": lambda x: 2 * x})
        ray.cloudpickle.loads(pickled)["double"](4)
    """
    file = io.BytesIO()
    dump(obj, file, protocol, buffer_callback)
    return file.getvalue()


def __getattr__(name: str) -> Any:
    return getattr(cloudpickle, name)
