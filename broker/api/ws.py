"""`/ws`: the journal over a WebSocket, for programs that subscribe to what they want to hear of.

Messages are JSON objects with a `type`. A connection reads the journal at its own pace, so that a slow reader gets
everything later and nobody else waits; one that takes nothing any more is let go, and resumes with `after`.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from enum import IntEnum
from typing import Annotated, Any, Literal

import sqlalchemy as sa
import structlog
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy.engine import Connection

from broker.api.auth import Doorkeeper, permitted, presented_key
from broker.api.fields import Reference
from broker.api.strict_json import parse
from broker.api.tasks import require_task
from broker.control import ControlPlane
from broker.events import wait_until
from broker.fields import A_NUMBER
from broker.keys import Principal
from broker.store.tables import agents, tasks
from broker.subscriptions import Subscription, check_event, names_for
from broker.views import rfc3339
from protocols.codec import first_problem
from protocols.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    StorageUnavailable,
    TooLarge,
    Unauthenticated,
    Unavailable,
    WarrenError,
)
from protocols.states import Role

AUTH_S = 10.0
"""A connection that has not shown a key by then is closed."""
GLANCE_S = 1.0
"""How often a connection looks whether its key is still valid."""
STUCK_S = 10.0
"""A reader that takes nothing for so long, while messages wait for it, is let go."""
CLOSE_S = 3.0
MAX_WAITING = 500
MAX_MESSAGE_CHARS = 16 * 1024
MAX_SUBSCRIPTIONS = 100
MAX_KNOWN_TASKS = 1000
_MAX_REASON_BYTES = 123
"""Of a WebSocket's close frame (RFC 6455, 5.5)."""

router = APIRouter(tags=["events"])

_log = structlog.get_logger(__name__)


class CloseCode(IntEnum):
    """Why the control plane ends a connection (RFC 6455, 7.4, and its registry; from 4000 on, our own)."""

    FAILED = 1011
    STOPPING = 1012
    TOO_SLOW = 1013
    NO_KEY = 4401
    NOT_ALLOWED = 4403


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Auth(_Message):
    """Shows an API key; the first message, unless the key came with the request."""

    type: Literal["auth"]
    token: Annotated[str, Field(min_length=1, max_length=500)]


class Ping(_Message):
    """Asks for a sign of life."""

    type: Literal["ping"]


class Subscribe(_Message):
    """Asks for events."""

    type: Literal["subscribe"]
    event: str
    task_id: Reference | None = None
    agent_id: Reference | None = None
    after: Annotated[int, Field(ge=0, le=2**63 - 1), A_NUMBER] | None = None
    """Where the first subscription of a connection begins, in place of now: an event's id."""


class Unsubscribe(_Message):
    """Asks for no more of these events; without `task_id` and `agent_id` whatever they were limited to."""

    type: Literal["unsubscribe"]
    event: str
    task_id: Reference | None = None
    agent_id: Reference | None = None


Message = Auth | Ping | Subscribe | Unsubscribe
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


class _Over(Exception):
    """The connection has to end: with which code, and why."""

    def __init__(self, code: CloseCode, error: WarrenError) -> None:
        super().__init__(error.message)
        self.code = code
        self.error = error


@router.websocket("/ws")
async def events_socket(websocket: WebSocket) -> None:
    """Carry one reader of the journal."""
    await websocket.accept()
    control: ControlPlane = websocket.app.state.control
    try:
        try:
            key = await _shown_key(websocket, control)
            await _Reader(websocket, control, key).run()
        except* _Over as ending:
            await _close(websocket, _first(ending))
    except* WebSocketDisconnect:
        _log.debug("event_reader_left")


async def _shown_key(websocket: WebSocket, control: ControlPlane) -> str:
    """Return the key of somebody who may read; raises _Over."""
    query = websocket.query_params
    shown = query.get("token") or query.get("access_token") or presented_key(websocket.headers)
    if shown is not None:
        _first_check(websocket, shown)
        return shown
    try:
        async with asyncio.timeout(AUTH_S):
            message = await _receive(websocket)
    except TimeoutError:
        raise _Over(CloseCode.NO_KEY, Unauthenticated(f"no API key came within {AUTH_S:g} s")) from None
    except InvalidInput as error:
        raise _Over(CloseCode.NO_KEY, error) from error
    if not isinstance(message, Auth):
        hint = 'send {"type": "auth", "token": "<API key>"} first'
        raise _Over(CloseCode.NO_KEY, Unauthenticated("the first message must show an API key", hint=hint))
    _first_check(websocket, message.token)
    await websocket.send_text(_text({"type": "authenticated"}))
    return message.token


class _Reader:
    """One connection whose key is valid."""

    def __init__(self, websocket: WebSocket, control: ControlPlane, key: str) -> None:
        self._websocket = websocket
        self._control = control
        self._key = key
        self._waiting: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._wanted: set[Subscription] = set()
        self._follows = False
        self._agents: dict[str, str | None] = {}
        """Whose tasks those are that passed by, while somebody asks for an agent's."""

    async def run(self) -> None:
        """Serve until one side ends it; raises a group of _Over or WebSocketDisconnect."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_all())
            group.create_task(self._watch())
            group.create_task(self._receive_all(group))

    async def _watch(self) -> None:
        while not self._control.stopping.is_set():
            _check(lambda: self._control.keys.authenticate(self._key))
            await wait_until(self._control.stopping, GLANCE_S)
        raise _Over(CloseCode.STOPPING, Unavailable("the control plane is stopping"))

    async def _send_all(self) -> None:
        while True:
            await self._websocket.send_text(await self._waiting.get())

    async def _send(self, message: Mapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(STUCK_S):
                await self._waiting.put(_text(message))
        except TimeoutError:
            error = Unavailable("messages are not read", hint="connect again, and subscribe with `after`")
            raise _Over(CloseCode.TOO_SLOW, error) from None

    async def _receive_all(self, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                await self._handle(await _receive(self._websocket), group)
            except StorageUnavailable as error:
                raise _Over(CloseCode.FAILED, error) from error
            except WarrenError as error:
                await self._send(_error(error))

    async def _handle(self, message: Message, group: asyncio.TaskGroup) -> None:
        match message:
            case Ping():
                await self._send({"type": "pong"})
            case Subscribe():
                await self._subscribe(message, group)
            case Unsubscribe():
                ended = Subscription(check_event(message.event), message.task_id, message.agent_id)
                self._wanted = {one for one in self._wanted if not ended.contains(one)}
                await self._send({"type": "unsubscribed", "event": message.event})
            case Auth():
                raise InvalidInput("this connection has shown its key already", field="type")

    async def _subscribe(self, message: Subscribe, group: asyncio.TaskGroup) -> None:
        wanted = Subscription(check_event(message.event), message.task_id, message.agent_id)
        if message.after is not None and self._follows:
            raise InvalidInput("only a connection's first subscription says where to begin", field="after")
        if len(self._wanted) >= MAX_SUBSCRIPTIONS and wanted not in self._wanted:
            raise InvalidInput(f"a connection has at most {MAX_SUBSCRIPTIONS} subscriptions")
        if wanted.task_id is not None:
            await require_task(self._control, wanted.task_id)
        if wanted.agent_id is not None:
            await self._require_agent(wanted.agent_id)
        after = await self._control.journal.newest() if message.after is None else message.after
        self._wanted = {*self._wanted, wanted}
        await self._send({"type": "subscribed", "event": message.event})
        if not self._follows:
            self._follows = True
            group.create_task(self._follow(after))

    async def _follow(self, after: int) -> None:
        try:
            async with aclosing(self._control.journal.follow(None, after)) as events:
                async for event in events:
                    for name in names_for(self._wanted, event, await self._agent(event)):
                        await self._send(_told(name, event))
        except StorageUnavailable as error:
            raise _Over(CloseCode.FAILED, error) from error

    async def _agent(self, event: Mapping[str, Any]) -> str | None:
        """Return the id of the agent that an event is about, if somebody asks for an agent's."""
        task_id = event["task_id"]
        if task_id is None:
            agent_id: str | None = event["data"].get("agent_id")
            return agent_id
        if all(one.agent_id is None for one in self._wanted):
            return None
        if task_id not in self._agents:
            if len(self._agents) >= MAX_KNOWN_TASKS:
                self._agents.clear()
            self._agents[task_id] = await self._read(_agent_of, task_id)
        return self._agents[task_id]

    async def _require_agent(self, agent_id: str) -> None:
        if await self._read(_known_agent, agent_id) is None:
            raise NotFound(f"there is no agent {agent_id[:80]!r}", field="agent_id", hint="give its id, not its name")

    async def _read(self, query: Any, reference: str) -> str | None:
        def find(connection: Connection) -> str | None:
            return connection.execute(query, {"id": reference}).scalar()

        return await asyncio.wrap_future(self._control.store.read(find))


async def _receive(websocket: WebSocket) -> Message:
    """Return the next message; raises InvalidInput for what is none, WebSocketDisconnect at the end."""
    received = await websocket.receive()
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code", 1006))
    text = received.get("text")
    if text is None:
        raise InvalidInput("messages are text, not binary", hint="send a JSON object as text")
    if len(text) > MAX_MESSAGE_CHARS:
        raise TooLarge(f"the message is longer than {MAX_MESSAGE_CHARS:,} characters")
    try:
        return _MESSAGES.validate_python(parse(text.encode()))
    except ValidationError as error:
        raise InvalidInput(first_problem(error)) from error


def _first_check(websocket: WebSocket, key: str) -> None:
    # Here alone a wrong key counts as a guess.
    doorkeeper: Doorkeeper = websocket.app.state.doorkeeper
    _check(lambda: doorkeeper.identify_key(key, websocket))


def _check(identify: Callable[[], Principal]) -> None:
    try:
        permitted(identify(), Role.VIEWER)
    except (Unauthenticated, RateLimited) as error:
        raise _Over(CloseCode.NO_KEY, error) from error
    except Forbidden as error:
        raise _Over(CloseCode.NOT_ALLOWED, error) from error


async def _close(websocket: WebSocket, over: _Over) -> None:
    """Say why, then close; a reader that is stuck does not hear it in time."""
    _log.info("event_reader_ended", code=int(over.code), reason=over.error.code)
    reason = over.error.message.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
    with suppress(TimeoutError, RuntimeError):
        async with asyncio.timeout(CLOSE_S):
            await websocket.send_text(_text(_error(over.error)))
            await websocket.close(over.code, reason)


def _first(group: BaseExceptionGroup[_Over]) -> _Over:
    found = group.exceptions[0]
    return found if isinstance(found, _Over) else _first(found)


def _told(name: str, event: Mapping[str, Any]) -> dict[str, Any]:
    about = {field: event[field] for field in ("task_id", "attempt", "execution_id", "worker_id")}
    known = {field: value for field, value in about.items() if value is not None}
    data = {**event["data"], **known, "event": event["type"]}
    return {"type": name, "id": event["id"], "at": rfc3339(event["at"]), "data": data}


def _error(error: WarrenError) -> dict[str, Any]:
    more = {"field": error.field, "hint": error.hint}
    told = {key: value for key, value in more.items() if value is not None}
    return {"type": "error", "code": error.code, "message": error.message, **told}


def _text(message: Mapping[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


_agent_of = sa.select(tasks.c.agent_id).where(tasks.c.id == sa.bindparam("id"))
_known_agent = sa.select(agents.c.id).where(agents.c.id == sa.bindparam("id"))
