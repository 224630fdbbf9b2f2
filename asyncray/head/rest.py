"""The routes of the registry for tools, under ``/api``. ``openapi.json`` beside this module describes them.

Each route puts one question to the node (``asyncray.core.requests``) and turns the answer into JSON. It decides
nothing, and waits ``ANSWER_DEADLINE`` seconds at most: what other nodes know may not come in time.
"""

from __future__ import annotations

import asyncio
import importlib.resources
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from asyncray.core.key_values import LARGEST_VALUE

AskNode = Callable[[str, list[Any]], Awaitable[tuple[Any, ...]]]
"""Puts a question of ``asyncray.core.requests``: (True, value) or (False, exception name, fields)."""

ANSWER_DEADLINE = 5.0
"""Seconds for the answer to one question. The head's own questions to nodes end before."""

LARGEST_BODY_OF_TOOLS = LARGEST_VALUE
"""Bytes of the largest request."""

_STATUS_OF = {
    "ValueError": 400,
    "TimeoutError": 504,
    "NodeDiedError": 503,
    "LocalNodeDiedError": 503,
    "InternalError": 500,
}
"""Exception name -> status of the answer. Any other one says that there is no such thing: 404."""


class Rest:
    """Answers tools.

    Args:
        ask: puts a question to the node.
    """

    def __init__(self, ask: AskNode) -> None:
        self._ask = ask

    def __repr__(self) -> str:
        return "<Rest>"

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        return [
            web.get("/healthz", self._health),
            web.get("/api/openapi.json", self._description),
            web.get("/api/status", self._answer("status")),
            web.get("/api/nodes", self._answer("nodes")),
            web.get("/api/resources", self._resources),
            web.get("/api/labels", self._labels),
            web.get("/api/names", self._names),
            web.get("/api/actors", self._answer("all_actors")),
            web.get("/api/jobs", self._answer("jobs")),
            web.get("/api/placement_groups", self._answer("placement_groups")),
            web.get("/api/objects/{id}", self._object),
            web.get("/api/kv", self._keys),
            web.get("/api/kv/{key:.+}", self._value),
            web.put("/api/kv/{key:.+}", self._put),
            web.delete("/api/kv/{key:.+}", self._delete),
        ]

    # About the registry -----------------------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        """The daemon's loop runs. It says no more to a caller without a token."""
        return web.Response(text="ok\n")

    async def _description(self, request: web.Request) -> web.Response:
        return web.Response(text=description(), content_type="application/json")

    # About the cluster ------------------------------------------------------------------------------------------------

    def _answer(self, method: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            return web.json_response(await self._get(method))

        return handler

    async def _resources(self, request: web.Request) -> web.Response:
        total = await self._get("cluster_resources")
        return web.json_response({"total": total, "available": await self._get("available_resources")})

    async def _labels(self, request: web.Request) -> web.Response:
        nodes = await self._get("nodes")
        return web.json_response({node["NodeID"]: node["Labels"] for node in nodes if node["Alive"]})

    async def _names(self, request: web.Request) -> web.Response:
        return web.json_response(await self._get("list_named_actors", request.query.get("namespace")))

    async def _object(self, request: web.Request) -> web.Response:
        try:
            object_id = bytes.fromhex(request.match_info["id"])
        except ValueError:
            raise _failure(400, "ValueError", "An object's ID is hex digits.") from None
        return web.json_response(await self._get("object", object_id))

    # Key-value pairs --------------------------------------------------------------------------------------------------

    async def _keys(self, request: web.Request) -> web.Response:
        found = await self._get("key_value", "list", _namespace(request), _bytes(request.query.get("prefix", "")))
        return web.json_response([key.decode("utf-8", "backslashreplace") for key in found])

    async def _value(self, request: web.Request) -> web.Response:
        value = await self._get("key_value", "get", _namespace(request), _key(request))
        if value is None:
            raise _failure(404, "KeyError", "There is no such key.")
        return web.Response(body=value, content_type="application/octet-stream")

    async def _put(self, request: web.Request) -> web.Response:
        overwrite = _flag(request, "overwrite", otherwise=True)
        body = await request.read()
        existed = await self._get("key_value", "put", _namespace(request), _key(request), body, overwrite)
        return web.json_response({"existed": existed}, status=200 if existed else 201)

    async def _delete(self, request: web.Request) -> web.Response:
        by_prefix = _flag(request, "by_prefix", otherwise=False)
        count = await self._get("key_value", "delete", _namespace(request), _key(request), by_prefix)
        return web.json_response({"deleted": count})

    # Asking -----------------------------------------------------------------------------------------------------------

    async def _get(self, method: str, *arguments: Any) -> Any:
        """The node's answer. Raises an HTTP error if it has none."""
        try:
            async with asyncio.timeout(ANSWER_DEADLINE):
                ok, value, *fields = await self._ask(method, list(arguments))
        except TimeoutError:
            raise _failure(504, "TimeoutError", f"No answer came within {ANSWER_DEADLINE:g} seconds.") from None
        if not ok:
            raise _failure(_STATUS_OF.get(value, 404), value, fields[0].get("message", ""))
        return value


def description() -> str:
    """The text of the OpenAPI file."""
    return importlib.resources.files("asyncray.head").joinpath("openapi.json").read_text(encoding="utf-8")


def _failure(status: int, name: str, message: str) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {
        400: web.HTTPBadRequest,
        404: web.HTTPNotFound,
        500: web.HTTPInternalServerError,
        503: web.HTTPServiceUnavailable,
        504: web.HTTPGatewayTimeout,
    }
    text = web.json_response({"error": name, "message": message}).text
    return kinds[status](text=text, content_type="application/json")


def _namespace(request: web.Request) -> bytes:
    return _bytes(request.query.get("namespace", ""))


def _key(request: web.Request) -> bytes:
    return _bytes(request.match_info["key"])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _flag(request: web.Request, name: str, *, otherwise: bool) -> bool:
    text = request.query.get(name)
    if text not in (None, "true", "false"):
        raise _failure(400, "ValueError", f"{name} is true or false.")
    return otherwise if text is None else text == "true"
