"""The stand-in that users' tests start: a real server, real tasks, and nothing outside this process."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread, current_thread
from typing import Any, Self

from client.http import Json
from client.sdk.fake.api import FakeApi
from client.sdk.fake.book import Book
from client.sdk.fake.script import Script, Scripted
from client.sdk.fake.server import Server
from client.sdk.warren import Warren
from protocols.outcome import Outcome

GRACE_S = 5.0


class FakeWarren:
    """A control plane with workers for tests, on a port of the loopback, without any installation.

    It speaks the HTTP interface as far as submitting, following, cancelling and retrying tasks goes. Python
    functions run here, on threads; what models and hosts do is written down before:

        @pytest.fixture
        def fake(monkeypatch):
            with FakeWarren() as fake:
                monkeypatch.setenv("WARREN_URL", fake.url)
                monkeypatch.setenv("WARREN_API_KEY", fake.key)
                yield fake

        def test_report(fake):
            fake.action("add", lambda a, b: a + b)
            fake.on("llm.chat", output="All is well.")
            fake.on("ssh.exec", output="up 3 days", when=lambda form: form["connection"] == "web-1")
            ...
            assert [form["action"] for form in fake.submissions] == ["add", "llm.chat"]

    It differs from the real thing in this: tasks start in the order in which they became due, whatever their
    priority, pool or concurrency key; a failed try is repeated without a pause; nothing is lost or runs into its
    timeout or deadline; cancelling a running task ends it at once, but not its function; what a function prints
    is not its output. Any provider, connection, worker or agent exists.
    """

    def __init__(self, slots: int = 4) -> None:
        """`slots` is how many tasks run at once."""
        self.key = secrets.token_urlsafe(16)
        self._book = Book()
        self._script = Script()
        self._server = Server(self.key, FakeApi(self._book).answer)
        # Daemons: a function that never returns shall not keep the tests from ending.
        self._workers = [Thread(target=self._work, name=f"fake-worker-{n}", daemon=True) for n in range(slots)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    @property
    def submissions(self) -> list[Json]:
        """The forms that became tasks, as they were sent, in order; a repeated one counts once."""
        with self._book.changed:
            return list(self._book.submitted)

    def start(self) -> None:
        """Listen, and carry tasks out."""
        self._server.start()
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """End everything but functions that do not return."""
        self._book.close()
        self._server.stop()
        for worker in self._workers:
            if worker is not current_thread():
                worker.join(GRACE_S)

    def client(self, *, retry_for_s: float = 0.5) -> Warren:
        """Return a client of it, which the caller closes."""
        return Warren(self.url, self.key, retry_for_s=retry_for_s)

    def action(self, name: str, function: Callable[..., Any]) -> None:
        """Have tasks of the action `name` call this function, which may be a coroutine function."""
        self._script.declare(name, function)

    def on(
        self,
        action: str,
        *,
        output: str | Sequence[str] = (),
        result: Any = None,
        error: str | Outcome | None = None,
        times: int | None = None,
        when: Callable[[Mapping[str, Any]], bool] = lambda form: True,
    ) -> None:
        """Write down how tasks of an action end, for those whose form passes `when`.

        `output` is what they write, in pieces if it is several; for `llm.chat` it is the answer, for `ssh.exec` what
        the command prints. `result` adds to these two's results, such as `{"exit_status": 9}`, which is a failure;
        for a Python function it is what that returns. `error` is a failure's message, or an Outcome of any kind.
        What is written down for some `times` comes first, in order; then the newest of what holds for ever.
        """
        pieces = (output,) if isinstance(output, str) and output else tuple(output)
        self._script.add(Scripted(action=action, output=pieces, result=result, error=error, when=when, times=times))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no further task start inside of this, so that a test can look at those that wait."""
        self._book.hold(True)
        try:
            yield
        finally:
            self._book.hold(False)

    def _work(self) -> None:
        while (task := self._book.next()) is not None:
            execution_id = str(task.execution_id)

            def write(stream: str, data: bytes, task: Any = task, execution_id: str = execution_id) -> None:
                self._book.write(task, execution_id, stream, data)

            self._book.settle(task, execution_id, self._script.perform(task.form, write))
