"""``ray.types``: names for annotations. ``ObjectRef[T]`` is a ref to a ``T``."""

from __future__ import annotations

from asyncray.runtime.refs import ObjectRef

__all__ = ["ObjectRef"]
