"""Things of every kind that a control plane knows, made anew for whoever needs some that exist."""

import secrets
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import httpx2

from tests.support.api import BASE, Api

LATER_S = 86_400


class Inventory:
    """Makes things that nobody else has."""

    def __init__(self, api: Api, machine: Api, upload: Callable[[str], httpx2.Response]) -> None:
        """`machine` has a worker's key; `upload` sends a multipart body with a file to a path."""
        self._api = api
        self._machine = machine
        self._upload = upload

    def task(self) -> str:
        """Return the id of a task that will not start soon."""
        return self._api.submit("resize", delay_s=LATER_S)

    def dead_task(self) -> str:
        """Return the id of a task that was given up."""
        task_id = self.task()
        self._api.call("POST", "/dead-letter", {"task_id": task_id})
        return task_id

    def dead_letter(self) -> str:
        """Return the id of a dead letter that nobody dealt with."""
        return str(self._api.call("POST", "/dead-letter", {"task_id": self.task()})["id"])

    def queue(self) -> str:
        """Return the name of a queue in which one task waits."""
        task_id = self._api.submit("resize", delay_s=LATER_S, pool=new_name())
        return str(self._api.task(task_id)["lane"])

    def worker(self) -> str:
        """Return the id of a worker that waits for approval."""
        return str(self._machine.call("POST", "/workers/register", {"name": new_name()})["id"])

    def agent(self) -> str:
        """Return the id of an agent."""
        return str(self._api.call("POST", "/agents", {"name": new_name()})["id"])

    def provider(self) -> str:
        """Return the id of a provider."""
        form = {"name": new_name(), "base_url": "http://127.0.0.1:9/v1"}
        return str(self._api.call("POST", "/providers", form)["id"])

    def connection(self) -> str:
        """Return the id of an SSH connection."""
        form = {"name": new_name(), "hostname": "192.0.2.1", "username": "nobody"}
        return str(self._api.call("POST", "/ssh-connections", form)["id"])

    def secret(self) -> str:
        """Return the id of a secret."""
        return str(self._api.call("POST", "/secrets", {"name": new_name(), "value": "x"})["id"])

    def key(self) -> str:
        """Return the id of an API key."""
        return str(self._api.call("POST", "/security/api-keys", {"name": new_name(), "role": "viewer"})["id"])

    def file(self) -> str:
        """Return the id of a file."""
        return str(self._upload(f"{BASE}/files/upload").json()["id"])

    def signature(self, file_id: str) -> dict[str, str]:
        """Return the query of a URL that gives a file's bytes without a key."""
        url = self._api.call("GET", f"/files/{file_id}/url")["url"]
        return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def new_name() -> str:
    """Return a name that nothing has."""
    return f"thing-{secrets.token_hex(4)}"
