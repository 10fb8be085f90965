from collections.abc import Callable
from typing import Any, TypeAlias

from pika import frame, spec
from pika.connection import Connection

_OnMessage: TypeAlias = Callable[[Channel, spec.Basic.Deliver, spec.BasicProperties, bytes], None]
_OnGet: TypeAlias = Callable[[Channel, spec.Basic.GetOk, spec.BasicProperties, bytes], None]
_OnReturn: TypeAlias = Callable[[Channel, spec.Basic.Return, spec.BasicProperties, bytes], None]
_OnConfirm: TypeAlias = Callable[[frame.Method[spec.Basic.Ack | spec.Basic.Nack]], None]

class Channel:
    channel_number: int
    connection: Connection
    @property
    def is_closed(self) -> bool: ...
    @property
    def is_closing(self) -> bool: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def consumer_tags(self) -> list[str]: ...
    def __int__(self) -> int: ...
    def add_on_cancel_callback(self, callback: Callable[[frame.Method[spec.Basic.Cancel]], Any]) -> None: ...
    def add_on_close_callback(self, callback: Callable[[Channel, Exception], None]) -> None: ...
    def add_on_return_callback(self, callback: _OnReturn) -> None: ...
    def basic_ack(self, delivery_tag: int = ..., multiple: bool = ...) -> None: ...
    def basic_nack(self, delivery_tag: int = ..., multiple: bool = ..., requeue: bool = ...) -> None: ...
    def basic_reject(self, delivery_tag: int = ..., requeue: bool = ...) -> None: ...
    def basic_cancel(
        self,
        consumer_tag: str = ...,
        callback: Callable[[frame.Method[spec.Basic.CancelOk]], None] | None = ...,
    ) -> None: ...
    def basic_consume(
        self,
        queue: str,
        on_message_callback: _OnMessage,
        auto_ack: bool = ...,
        exclusive: bool = ...,
        consumer_tag: str | None = ...,
        arguments: dict[str, Any] | None = ...,
        callback: Callable[[frame.Method[spec.Basic.ConsumeOk]], None] | None = ...,
    ) -> str: ...
    def basic_get(self, queue: str, callback: _OnGet, auto_ack: bool = ...) -> None: ...
    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: spec.BasicProperties | None = ...,
        mandatory: bool = ...,
    ) -> None: ...
    def basic_qos(
        self,
        prefetch_size: int = ...,
        prefetch_count: int = ...,
        global_qos: bool = ...,
        callback: Callable[[frame.Method[spec.Basic.QosOk]], None] | None = ...,
    ) -> None: ...
    def close(self, reply_code: int = ..., reply_text: str = ...) -> None: ...
    def confirm_delivery(
        self,
        ack_nack_callback: _OnConfirm,
        callback: Callable[[frame.Method[spec.Confirm.SelectOk]], None] | None = ...,
    ) -> None: ...
    def exchange_declare(
        self,
        exchange: str,
        exchange_type: str = ...,
        passive: bool = ...,
        durable: bool = ...,
        auto_delete: bool = ...,
        internal: bool = ...,
        arguments: dict[str, Any] | None = ...,
        callback: Callable[[frame.Method[spec.Exchange.DeclareOk]], None] | None = ...,
    ) -> None: ...
    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str | None = ...,
        arguments: dict[str, Any] | None = ...,
        callback: Callable[[frame.Method[spec.Queue.BindOk]], None] | None = ...,
    ) -> None: ...
    def queue_declare(
        self,
        queue: str,
        passive: bool = ...,
        durable: bool = ...,
        exclusive: bool = ...,
        auto_delete: bool = ...,
        arguments: dict[str, Any] | None = ...,
        callback: Callable[[frame.Method[spec.Queue.DeclareOk]], None] | None = ...,
    ) -> None: ...
    def queue_delete(
        self,
        queue: str,
        if_unused: bool = ...,
        if_empty: bool = ...,
        callback: Callable[[frame.Method[spec.Queue.DeleteOk]], None] | None = ...,
    ) -> None: ...
    def queue_purge(
        self, queue: str, callback: Callable[[frame.Method[spec.Queue.PurgeOk]], None] | None = ...
    ) -> None: ...
