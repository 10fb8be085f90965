"""Warren's Python library: `from warren import Warren`."""

from client.follow import Piece
from client.sdk import forms
from client.sdk.agents import Agent, AgentVersion
from client.sdk.connections import Connection, Executed, LoginTest
from client.sdk.dead_letters import DeadLetter, DeadLetterStats
from client.sdk.errors import TaskCancelled, TaskDead, TaskFailed, WaitTimeout
from client.sdk.files import FileUrl, StoredFile
from client.sdk.providers import Provider
from client.sdk.queues import Queue
from client.sdk.secrets import Secret
from client.sdk.settings import Setting
from client.sdk.task import (
    Attempt,
    ChatResult,
    CommandResult,
    Event,
    Execution,
    Moment,
    Task,
    TaskFailure,
    TaskInfo,
    Tree,
    TreeTask,
)
from client.sdk.warren import Warren
from client.sdk.workers import Overview, Worker
from protocols.errors import (
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    InvalidInput,
    InvalidSettings,
    NotFound,
    RateLimited,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unreachable,
    WarrenError,
)

__all__ = [
    "Agent",
    "AgentVersion",
    "Attempt",
    "ChatResult",
    "CommandResult",
    "Conflict",
    "Connection",
    "DeadLetter",
    "DeadLetterStats",
    "Event",
    "Executed",
    "Execution",
    "FileUrl",
    "Forbidden",
    "IdempotencyMismatch",
    "InvalidInput",
    "InvalidSettings",
    "LoginTest",
    "Moment",
    "NotFound",
    "Overview",
    "Piece",
    "Provider",
    "Queue",
    "RateLimited",
    "Secret",
    "Setting",
    "StorageFull",
    "StorageUnavailable",
    "StoredFile",
    "Task",
    "TaskCancelled",
    "TaskDead",
    "TaskFailed",
    "TaskFailure",
    "TaskInfo",
    "TooLarge",
    "Tree",
    "TreeTask",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
    "WaitTimeout",
    "Warren",
    "WarrenError",
    "Worker",
    "forms",
]
