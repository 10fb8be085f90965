from collections.abc import Mapping
from typing import Any

from pika.delivery_mode import DeliveryMode

class Basic:
    class ConsumeOk:
        consumer_tag: str

    class Cancel:
        consumer_tag: str
        nowait: bool

    class CancelOk:
        consumer_tag: str

    class Deliver:
        consumer_tag: str
        delivery_tag: int
        redelivered: bool
        exchange: str
        routing_key: str

    class GetOk:
        delivery_tag: int
        redelivered: bool
        exchange: str
        routing_key: str
        message_count: int

    class Return:
        reply_code: int
        reply_text: str
        exchange: str
        routing_key: str

    class Ack:
        delivery_tag: int
        multiple: bool

    class Nack:
        delivery_tag: int
        multiple: bool
        requeue: bool

    class QosOk: ...

class Confirm:
    class SelectOk: ...

class Connection:
    class Blocked:
        reason: str

    class Unblocked: ...
    class UpdateSecretOk: ...

class Exchange:
    class DeclareOk: ...
    class DeleteOk: ...

class Queue:
    class BindOk: ...
    class UnbindOk: ...

    class DeclareOk:
        queue: str
        message_count: int
        consumer_count: int

    class DeleteOk:
        message_count: int

    class PurgeOk:
        message_count: int

class BasicProperties:
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any] | None
    delivery_mode: int | None
    priority: int | None
    correlation_id: str | None
    reply_to: str | None
    expiration: str | None
    message_id: str | None
    timestamp: int | None
    type: str | None
    user_id: str | None
    app_id: str | None
    cluster_id: str | None
    def __init__(
        self,
        content_type: str | None = ...,
        content_encoding: str | None = ...,
        headers: Mapping[str, Any] | None = ...,
        delivery_mode: int | DeliveryMode | None = ...,
        priority: int | None = ...,
        correlation_id: str | None = ...,
        reply_to: str | None = ...,
        expiration: str | None = ...,
        message_id: str | None = ...,
        timestamp: int | None = ...,
        *,
        user_id: str | None = ...,
        app_id: str | None = ...,
        cluster_id: str | None = ...,
    ) -> None: ...
