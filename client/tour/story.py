"""The tour's story: an SSH task, an LLM task, one that fails, and its second chance."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from client.http import ApiClient, Json
from client.processes import Child
from client.tour.errand import Disappointment, expect, put, reason, submit, watch
from client.tour.model import Provider, choose_model, configured, start_stand_in
from client.tour.screen import Screen
from client.tour.sshd import TourHost
from protocols.errors import Unavailable, WarrenError
from protocols.names import BuiltinAction
from protocols.states import TaskState

CONNECTION = "this-machine"
SSH_SECRET = "tour-ssh-key"
STAND_IN_MODEL = "stand-in"
GREETING = 'echo "hello from $(uname -sr)"; for n in 1 2 3; do sleep 0.3; echo "line $n of 3"; done'
PROMPT = "In two or three sentences: why do rabbits dig warrens?"


class Tour:
    """Runs the story once; it can be repeated on the same data directory."""

    def __init__(
        self, client: ApiClient, screen: Screen, directory: Path, logs: Path, adopt: Callable[[Child], None]
    ) -> None:
        """`adopt` is given every helper process before it starts, and ends it when all is over."""
        self._client = client
        self._screen = screen
        self._directory = directory
        self._logs = logs
        self._adopt = adopt
        self._host: TourHost | None = None
        self._stand_in: Provider | None = None
        self._model: tuple[str, str] | None = None
        self._dead: tuple[Json, Json] | None = None
        self._mend: Callable[[], str] = str

    def run(self) -> bool:
        """Go through all steps; return whether each of them came out as it should."""
        return all(
            [
                self._step("An SSH task, its output as it arises", self._ssh),
                self._step("An LLM task, its tokens as they arrive", self._llm),
                self._step("A task that fails", self._fail),
                self._step("Its retry, after the cause was mended", self._retry),
            ]
        )

    def commands(self) -> list[tuple[str, str]]:
        """Return what to try next, with what each of it does."""
        tries = [("warren task list", "what ran"), ("warren worker list", "who ran it")]
        if self._host:
            tries.append((f"warren task submit ssh {CONNECTION} --wait -- uptime", "a command of yours"))
        if self._model:
            provider, model = self._model
            tries.append((f'warren task submit llm -p {provider} -m {model} --wait "Hello"', "a prompt of yours"))
        return [*tries, ("warren dead-letter list", "what failed for good"), ("warren --help", "all the rest")]

    def _step(self, title: str, play: Callable[[], None]) -> bool:
        self._screen.step(title)
        try:
            play()
        except WarrenError as error:
            self._screen.cross(error.message)
            if error.hint:
                self._screen.say(f"hint: {error.hint}")
            return False
        return True

    def _ssh(self) -> None:
        try:
            host = TourHost(self._directory, self._logs / "sshd.log")
        except Unavailable as error:
            self._screen.say(error.message)
            return
        self._adopt(host.child)
        host.start()
        put(self._client, "/secrets", {"name": SSH_SECRET, "value": host.private_key, "category": "ssh"})
        connection = {
            "name": CONNECTION,
            "hostname": host.hostname,
            "port": host.port,
            "username": host.username,
            "auth_method": "key",
            "secret": SSH_SECRET,
            "host_keys": [host.host_key],
        }
        put(self._client, "/ssh-connections", connection)
        self._host = host
        self._screen.say(f"a private sshd on {host.hostname}:{host.port}, as {host.username}; its host key is pinned")
        task = self._command(GREETING, title="tour: a greeting by SSH")
        expect(task, TaskState.SUCCEEDED)
        self._screen.tick("succeeded")

    def _llm(self) -> None:
        for provider in configured(os.environ):
            try:
                self._ask(provider, choose_model(provider))
            except (Unavailable, Disappointment) as error:
                self._screen.say(f"{provider.name} ({provider.reason}) cannot be used: {error.message}", "yellow")
            else:
                return
        self._ask(self._started_stand_in(), STAND_IN_MODEL)

    def _ask(self, provider: Provider, model: str) -> None:
        self._screen.say(f"{provider.reason}: provider {provider.name}, model {model}")
        self._put_provider(provider)
        self._screen.say(f"> {PROMPT}", "")
        task = self._prompt(provider.name, model, PROMPT, title="tour: a question to a model")
        expect(task, TaskState.SUCCEEDED)
        self._model = (provider.name, model)
        tokens = (task.get("usage") or {}).get("output_tokens")
        self._screen.tick("succeeded" + (f", {tokens} tokens" if tokens else ""))

    def _fail(self) -> None:
        task = self._missing_file() if self._host else self._failing_prompt()
        expect(task, TaskState.DEAD)
        letter = next((row for row in self._client.rows("/dead-letter") if row["task_id"] == task["id"]), None)
        if letter is None:
            raise Disappointment(f"task {task['id']} is dead, but has no dead letter")
        self._screen.tick("a dead letter, as it should be")
        self._screen.say(f"cause {reason(task)}")
        self._dead = task, letter

    def _retry(self) -> None:
        if self._dead is None:
            raise Disappointment("there is no dead letter to retry")
        task, letter = self._dead
        self._screen.say(self._mend())
        self._client.post(f"/dead-letter/{letter['id']}/retry")
        mended = watch(self._client, self._screen, str(task["id"]), after_attempt=int(task["attempt"]))
        expect(mended, TaskState.SUCCEEDED)
        self._screen.tick(f"succeeded, the same task in attempt {mended['attempt']}")

    def _missing_file(self) -> Json:
        report = self._directory / "report.txt"
        report.unlink(missing_ok=True)

        def mend() -> str:
            report.write_text("The report, which was not there the first time.\n", encoding="utf-8")
            return f"{report} exists now"

        self._mend = mend
        return self._command(f"cat {shlex.quote(str(report))}", title="tour: read a report")

    def _failing_prompt(self) -> Json:
        provider = self._started_stand_in()
        self._mend = lambda: "the stand-in fails a prompt with fail-once in it one single time"
        prompt = f"fail-once {os.urandom(4).hex()}"
        self._screen.say(f"> {prompt}", "")
        return self._prompt(provider.name, STAND_IN_MODEL, prompt, title="tour: a prompt that fails once")

    def _command(self, line: str, title: str) -> Json:
        self._screen.say(f"$ {line}", "")
        form = {"action": BuiltinAction.SSH_EXEC, "connection": CONNECTION, "input": {"command": line}}
        return submit(self._client, self._screen, title=title, **form)

    def _prompt(self, provider: str, model: str, prompt: str, title: str) -> Json:
        chat = {"model": model, "prompt": prompt}
        form = {"action": BuiltinAction.LLM_CHAT, "provider": provider, "input": chat}
        return submit(self._client, self._screen, title=title, **form)

    def _started_stand_in(self) -> Provider:
        if self._stand_in is None:
            self._stand_in = start_stand_in(self._logs / "stand-in.log", self._adopt)
            self._put_provider(self._stand_in)
        return self._stand_in

    def _put_provider(self, provider: Provider) -> None:
        form: Json = {"name": provider.name, "kind": "openai", "base_url": provider.base_url, "secret": None}
        if provider.api_key:
            secret = f"{provider.name}-api-key"
            put(self._client, "/secrets", {"name": secret, "value": provider.api_key, "category": "llm"})
            form["secret"] = secret
        put(self._client, "/providers", form)
