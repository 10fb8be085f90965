"""Keeping opened secrets out of what an action says."""

import re
from collections.abc import Iterable

SHORTEST_SECRET = 4
"""Shorter values would black out ordinary text."""
MASK = b"***"


class Redactor:
    """Replaces the exact values of secrets in one stream of bytes, also where they span pieces."""

    def __init__(self, secrets: Iterable[str]) -> None:
        values = {secret.encode() for secret in secrets}
        self._secrets = sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)
        self._pattern = re.compile(b"|".join(re.escape(value) for value in self._secrets) or rb"(?!)")
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what can be said now; the beginning of what may become a secret is held back."""
        if not self._secrets:
            return data
        data = self._held + data
        told: list[bytes] = []
        start = 0
        while True:
            match = self._pattern.search(data, start)
            held_from = self._possible_start(data, start)
            if match is None or held_from <= match.start():
                told.append(data[start:held_from])
                self._held = data[held_from:]
                return b"".join(told)
            told += (data[start : match.start()], MASK)
            start = match.end()

    def finish(self) -> bytes:
        """Return what was held back: the stream has ended."""
        rest, self._held = self._pattern.sub(MASK, self._held), b""
        return rest

    def text(self, message: str) -> str:
        """Return a complete text without secrets."""
        return self._pattern.sub(MASK, message.encode(errors="replace")).decode(errors="replace")

    def _possible_start(self, data: bytes, start: int) -> int:
        """Return where the longest end of `data` begins that a secret could begin with."""
        earliest = len(data)
        for secret in self._secrets:
            at = data.find(secret[:1], max(start, len(data) - len(secret) + 1))
            while -1 < at < earliest:
                if secret.startswith(data[at:]):
                    earliest = at
                    break
                at = data.find(secret[:1], at + 1)
        return earliest
