from typing import Generic, TypeVar

_MethodT = TypeVar("_MethodT")

class Method(Generic[_MethodT]):
    channel_number: int
    method: _MethodT
    def __init__(self, channel_number: int, method: _MethodT) -> None: ...
