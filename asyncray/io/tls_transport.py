"""TLS between a transport of an event loop and the protocol above it, in a form whose input can be read to the end.

The loop's own TLS does not allow one step: a daemon reads everything that a lost node has written before it forgets
that node (``SocketProtocol.drain_input``). The rest of the input is in the socket, encrypted, and the loop has
forgotten the connection already. Only the state of TLS of that connection can decrypt it, and the loop does not give
that away.

The protocol above gets its transport at once, so that it can count strangers and set a deadline. Its bytes wait until
the handshake of TLS is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

from asyncray.config import READ_SIZE
from asyncray.io.socket_protocol import DECRYPT
from asyncray.io.tls import Tls, explain


def secured(protocol: asyncio.BaseProtocol, tls: Tls | None, *, is_server: bool) -> asyncio.BaseProtocol:
    """Returns the protocol for a transport that carries this one: itself without TLS."""
    return protocol if tls is None else TlsProtocol(protocol, tls, is_server=is_server)


class TlsProtocol(asyncio.Protocol):
    """The side of the transport below.

    Args:
        upper: the protocol whose bytes are encrypted.
        is_server: this end was connected to.
    """

    def __init__(self, upper: asyncio.BaseProtocol, tls: Tls, *, is_server: bool) -> None:
        self._tls = tls
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        context = tls.server if is_server else tls.client
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        # The protocol above. It may be exchanged.
        self.upper = upper
        # None before the connection is made.
        self._lower: asyncio.Transport | None = None
        self._is_open = False
        # Bytes of the protocol above that wait for the end of the handshake.
        self._unsent: list[bytes] = []
        # The protocol above has closed the connection: it writes no more.
        self._is_closed = False
        # The reason for the end of the connection, if TLS is one.
        self._failure: ConnectionError | None = None

    def __repr__(self) -> str:
        return f"<TlsProtocol {'open' if self._is_open else 'shaking hands'} for {self.upper}>"

    # From below -------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast(asyncio.Transport, transport)
        self._shake_hands()
        self._flush()
        self.upper.connection_made(TlsTransport(self, self._lower))

    def data_received(self, data: bytes) -> None:
        try:
            self._incoming.write(data)
            if self._is_open or self._shake_hands():
                self._pass_up()
        except ssl.SSLError as error:
            self._fail(error)
        self._flush()

    def _shake_hands(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self._is_open = True
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            self._object.write(data)
        return True

    def _pass_up(self) -> None:
        """Hands decrypted bytes to the protocol above, which may be another one after each piece."""
        while True:
            upper = self.upper
            try:
                if isinstance(upper, asyncio.BufferedProtocol):
                    self._read_into(upper)
                elif data := self._object.read(READ_SIZE):
                    cast(asyncio.Protocol, upper).data_received(data)
                else:
                    return  # the other side writes no more
            except ssl.SSLWantReadError:
                return

    def _read_into(self, upper: asyncio.BufferedProtocol) -> None:
        room = cast(bytearray, upper.get_buffer(-1))
        count = cast(int, self._object.read(len(room), room))
        if not count:
            raise ssl.SSLWantReadError  # the other side writes no more
        upper.buffer_updated(count)

    def decrypt(self, data: bytes) -> bytes:
        """Takes bytes that were left in the socket of a connection that has ended. Returns those inside."""
        self._incoming.write(data)
        parts = []
        try:
            while part := self._object.read(READ_SIZE):
                parts.append(part)
        except ssl.SSLError:
            pass  # there is no whole record more, or never was
        return b"".join(parts)

    def _fail(self, error: ssl.SSLError) -> None:
        self._failure = ConnectionError(explain(error, self._tls))
        self._flush()  # the alert that says why
        if self._lower is not None:
            self._lower.close()

    def _flush(self) -> None:
        if self._outgoing.pending and self._lower is not None:
            self._lower.write(self._outgoing.read())

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.upper.connection_lost(self._failure or exc)

    def pause_writing(self) -> None:
        self.upper.pause_writing()

    def resume_writing(self) -> None:
        self.upper.resume_writing()

    # From above -------------------------------------------------------------------------------------------------------

    def send(self, pieces: Iterable[Any]) -> None:
        """Encrypts bytes and writes them; drops them if TLS has failed, or after ``close``."""
        if self._failure is not None or self._is_closed:
            return
        for piece in pieces:
            if not self._is_open:
                self._unsent.append(bytes(piece))
            elif len(piece):
                self._object.write(piece)
        self._flush()

    def close(self) -> None:
        """Tells the other side that nothing more comes, which it would otherwise take for a broken connection."""
        if self._is_open and self._failure is None and not self._is_closed:
            self._is_closed = True
            with contextlib.suppress(ssl.SSLError):  # the other side need not say so, too
                self._object.unwrap()
            self._flush()


class TlsTransport(asyncio.Transport):
    """The transport of the protocol above."""

    def __init__(self, protocol: TlsProtocol, lower: asyncio.Transport) -> None:
        super().__init__()
        self._protocol = protocol
        self._lower = lower

    def __repr__(self) -> str:
        return f"<TlsTransport {self._protocol}>"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.send((data,))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._protocol.send(list_of_data)

    def close(self) -> None:
        self._protocol.close()
        self._lower.close()

    def abort(self) -> None:
        self._lower.abort()

    def is_closing(self) -> bool:
        return self._lower.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        decrypt: Callable[[bytes], bytes] = self._protocol.decrypt
        return decrypt if name == DECRYPT else self._lower.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol.upper = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol.upper

    def pause_reading(self) -> None:
        self._lower.pause_reading()

    def resume_reading(self) -> None:
        self._lower.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._lower.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size()
