"""Claims that wait at the gate, over as many sessions as it takes."""

import asyncio
from dataclasses import dataclass, replace

from protocols.claim import Answer, Claim
from protocols.frames import Answers, Claims, DownFrame, Welcome
from worker.outbox import Outbox
from worker.session import SessionListener


class HandBack(Exception):
    """The claim may have been granted, but the execution must not begin: report `interrupted`, effect none."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(slots=True)
class _Pending:
    claim: Claim
    answer: "asyncio.Future[Answer]"


class ClaimGate(SessionListener):
    """Asks for permission to run.

    A claim that was not answered when the session broke is repeated in the next one under the same execution
    id, so that the answer is the same whether or not the first one was carried out.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._pending: dict[str, _Pending] = {}

    async def ask(self, claim: Claim) -> Answer:
        """Return the answer, however long it takes; raises HandBack if its lease has ended meanwhile."""
        pending = _Pending(claim, asyncio.get_running_loop().create_future())
        self._pending[claim.execution_id] = pending
        self._outbox.send(Claims(items=(claim,)))
        try:
            return await pending.answer
        finally:
            del self._pending[claim.execution_id]

    async def answers(self, timeout_s: float) -> None:
        """Wait until what has been asked is answered."""
        if self._pending:
            await asyncio.wait({pending.answer for pending in self._pending.values()}, timeout=timeout_s)

    def give_up(self, code: str, message: str) -> None:
        """Hand back whatever waits: nobody will wait for the answers."""
        for pending in self._pending.values():
            self._refuse(pending, HandBack(code, message))

    def connected(self, welcome: Welcome) -> None:
        """Repeat what was not answered, except where the lease has ended."""
        for execution_id in welcome.ended:
            if execution_id in self._pending:
                ended = HandBack("lease_ended", "the lease ended before the execution began")
                self._refuse(self._pending[execution_id], ended)
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.claim = replace(pending.claim, redelivered=True)
                self._outbox.send(Claims(items=(pending.claim,)))

    def received(self, frame: DownFrame) -> None:
        """Take answers; those to claims that nobody knows any more are ignored."""
        if isinstance(frame, Answers):
            for answer in frame.items:
                pending = self._pending.get(answer.execution_id)
                if pending is not None and not pending.answer.done():
                    pending.answer.set_result(answer)

    def _refuse(self, pending: _Pending, reason: HandBack) -> None:
        if not pending.answer.done():
            pending.answer.set_exception(reason)
