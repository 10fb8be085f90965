import ssl
from collections.abc import Callable
from typing import Any

from pika import frame, spec
from pika.channel import Channel
from pika.credentials import ExternalCredentials, PlainCredentials

class SSLOptions:
    context: ssl.SSLContext
    server_hostname: str | None
    def __init__(self, context: ssl.SSLContext, server_hostname: str | None = ...) -> None: ...

class Parameters:
    host: str
    port: int
    virtual_host: str
    credentials: PlainCredentials | ExternalCredentials
    channel_max: int
    frame_max: int
    heartbeat: int | Callable[[Connection, float], int] | None
    ssl_options: SSLOptions | None
    connection_attempts: int
    retry_delay: float
    socket_timeout: float | None
    stack_timeout: float | None
    blocked_connection_timeout: float | None
    client_properties: dict[str, Any] | None
    tcp_options: dict[str, int] | None

class ConnectionParameters(Parameters):
    def __init__(
        self,
        host: str = ...,
        port: int = ...,
        virtual_host: str = ...,
        credentials: PlainCredentials | ExternalCredentials = ...,
        channel_max: int = ...,
        frame_max: int = ...,
        heartbeat: int | Callable[[Connection, float], int] | None = ...,
        ssl_options: SSLOptions | None = ...,
        connection_attempts: int = ...,
        retry_delay: float = ...,
        socket_timeout: float | None = ...,
        stack_timeout: float | None = ...,
        locale: str = ...,
        blocked_connection_timeout: float | None = ...,
        client_properties: dict[str, Any] | None = ...,
        tcp_options: dict[str, Any] | None = ...,
    ) -> None: ...

class URLParameters(Parameters):
    def __init__(self, url: str) -> None: ...

class Connection:
    params: Parameters
    server_properties: dict[str, Any] | None
    @property
    def is_closed(self) -> bool: ...
    @property
    def is_closing(self) -> bool: ...
    @property
    def is_open(self) -> bool: ...
    def channel(
        self, channel_number: int | None = ..., on_open_callback: Callable[[Channel], Any] | None = ...
    ) -> Channel: ...
    def close(self, reply_code: int = ..., reply_text: str = ...) -> None: ...
    def update_secret(
        self,
        new_secret: str,
        reason: str,
        callback: Callable[[frame.Method[spec.Connection.UpdateSecretOk]], Any] | None = ...,
    ) -> None: ...
    def add_on_close_callback(self, callback: Callable[[Connection, Exception], Any]) -> None: ...
    def add_on_connection_blocked_callback(
        self, callback: Callable[[Connection, frame.Method[spec.Connection.Blocked]], Any]
    ) -> None: ...
    def add_on_connection_unblocked_callback(
        self, callback: Callable[[Connection, frame.Method[spec.Connection.Unblocked]], Any]
    ) -> None: ...
