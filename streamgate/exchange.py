"""One request and all that came of it: created at the edge, carried through every stage, recorded once."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamgate.errors import Fault
    from streamgate.prompt import Prompt


class State(StrEnum):
    """Where an exchange is. ``MOVES`` says what may follow what."""

    NEW = "new"
    ADMITTED = "admitted"
    WAITING = "waiting"
    SENDING = "sending"
    STREAMING = "streaming"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    GONE = "gone"


_ENDS = frozenset({State.REFUSED, State.FAILED, State.GONE})

MOVES: dict[State, frozenset[State]] = {
    State.NEW: _ENDS | {State.ADMITTED},
    State.ADMITTED: _ENDS | {State.WAITING, State.SENDING},
    State.WAITING: _ENDS | {State.SENDING},
    State.SENDING: _ENDS | {State.STREAMING},
    State.STREAMING: _ENDS | {State.DONE},
    State.DONE: frozenset(),
    State.REFUSED: frozenset(),
    State.FAILED: frozenset(),
    State.GONE: frozenset(),
}
"""Legal moves. SENDING is entered once however many attempts it takes; STREAMING means committed."""


class Terminal(StrEnum):
    """How a relayed exchange ended: exactly one, on the wire, in the record and as a metric label."""

    COMPLETE = "complete"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    IDLE_TIMEOUT = "idle_timeout"
    CLIENT_CLOSED = "client_closed"
    GUARD_BLOCKED = "guard_blocked"
    SHUTDOWN = "shutdown"


class Dialect(StrEnum):
    """The words a client expects errors in, and the event that ends its streams."""

    PROBLEM = "problem"  # RFC 9457; no terminal event
    OPENAI = "openai"  # data: [DONE]
    RESPONSES = "responses"  # event: response.completed | response.incomplete | response.failed
    ANTHROPIC = "anthropic"  # event: message_stop


class IllegalMove(Exception):
    """A stage moved an exchange where the table forbids it: a defect of ours, never of a client."""


_NONE: dict[bytes, list[bytes]] = {}
_NEW, _STREAMING, _PROBLEM = State.NEW, State.STREAMING, Dialect.PROBLEM  # an enum's own members are slow to find (3.11)


class Exchange:
    """One request on its way. Bytes are kept as they came; times are monotonic seconds.

    ``headers`` holds (name as received, value) pairs, ``named`` the values of those the gateway
    reads itself; ``path`` is canonical, ``target`` what goes upstream with the query.
    """

    __slots__ = (
        "attempts",
        "bytes_in",
        "bytes_out",
        "client_address",
        "dialect",
        "endpoint",
        "fault",
        "first_byte_at",
        "gone_at",
        "headers",
        "host",
        "http10",
        "method",
        "named",
        "path",
        "pattern",
        "peer_address",
        "prompt",
        "query",
        "request_id",
        "scheme",
        "service",
        "span_id",
        "started_at",
        "state",
        "status",
        "terminal",
        "trace_id",
        "traceparent",
        "tracestate",
    )

    def __init__(  # noqa: PLR0913, PLR0917  # a record of what the edge knows; built in one place
        self,
        method: bytes,
        path: bytes,
        query: bytes | None,
        host: bytes,
        headers: list[tuple[bytes, bytes]],
        http10: bool,  # noqa: FBT001
        started_at: float,
        named: dict[bytes, list[bytes]] = _NONE,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.host = host
        self.named = named
        self.headers = headers
        self.http10 = http10
        self.started_at = started_at
        self.scheme = b"http"
        self.dialect = _PROBLEM
        self.state = _NEW
        self.status = 0
        self.attempts = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.request_id = b""
        self.trace_id = ""
        self.span_id = ""
        self.traceparent = b""
        self.tracestate: bytes | None = None
        self.client_address = ""
        self.pattern = ""
        self.peer_address = ""
        self.prompt: Prompt | None = None
        self.service: str | None = None
        self.endpoint: str | None = None
        self.terminal: Terminal | None = None
        self.fault: Fault | None = None
        self.first_byte_at: float | None = None
        self.gone_at: float | None = None

    @property
    def committed(self) -> bool:
        """Has the first meaningful byte gone to the client? Then neither a status nor another attempt is possible."""
        return self.state is _STREAMING

    def move(self, state: State) -> None:
        """Enter ``state``. Raises IllegalMove where ``MOVES`` forbids it."""
        if state not in MOVES[self.state]:
            message = f"{self.state} may not become {state}"
            raise IllegalMove(message)
        self.state = state

    def end(self, terminal: Terminal, fault: Fault | None = None) -> bool:
        """Settle how this ended; only the first call counts. Returns whether it was this one."""
        if self.terminal is not None:
            return False
        self.terminal = terminal
        self.fault = fault
        return True
