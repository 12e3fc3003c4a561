"""Time limits for HTTP requests, so that a client that stops in the middle does not keep its connection.

uvicorn closes a connection on which nothing arrives after a response. It waits without limit for a request that never
comes, or comes one byte at a time, and for a client that does not read the response.
"""

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uvicorn

REQUEST_TIMEOUT = 10.0  # seconds from the start of a connection, or the previous response, to a complete request
RESPONSE_TIMEOUT = 60.0  # seconds to read the response; the largest file of the page needs 20 kB/s


def timed_protocol(request: float = REQUEST_TIMEOUT, response: float = RESPONSE_TIMEOUT) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn's option `http`."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedProtocol(H11Protocol):
        """Aborts the connection when a time limit expires. A WebSocket has limits of its own."""

        def __init__(self, config: "uvicorn.Config", *args: Any, **options: Any) -> None:
            super().__init__(config, *args, **options)
            self.deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.await_request()

        def on_response_complete(self) -> None:
            self.await_request()
            super().on_response_complete()

        def handle_websocket_upgrade(self, event: Any) -> None:
            self.cancel_deadline()
            super().handle_websocket_upgrade(event)

        def connection_lost(self, exc: Exception | None) -> None:
            self.cancel_deadline()
            super().connection_lost(exc)

        def await_request(self) -> None:
            self.cancel_deadline()
            self.deadline = self.loop.call_later(request, self.request_expired)

        def request_expired(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()
            else:
                self.deadline = self.loop.call_later(response, self.transport.abort)

        def cancel_deadline(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()

    return TimedProtocol
