"""For tests of programs that use Warren: `from warren.testing import FakeWarren`."""

from client.sdk.fake.warren import FakeWarren
from protocols.outcome import Outcome
from protocols.states import Effect, FailureClass

__all__ = ["Effect", "FailureClass", "FakeWarren", "Outcome"]
