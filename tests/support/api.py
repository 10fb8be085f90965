"""A small client of the HTTP API, for tests that look at Warren from outside."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import httpx2

BASE = "/api/v1"
TIMEOUT_S = 30.0


class Api:
    """Speaks to one control plane with one API key. A new connection each time: faults cut the old ones."""

    def __init__(self, url: str, key: str | None) -> None:
        self._client = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT_S,
            trust_env=False,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def request(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """Return the answer, whatever its status; raises httpx2.HTTPError when there is none."""
        return self._client.request(method, BASE + path, json=body, headers=dict(headers or {}))

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the body of a successful answer; AssertionError for any other."""
        answer = self.request(method, path, body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def healthy(self) -> bool:
        """Return whether /healthz answers."""
        try:
            return self._client.get("/healthz").is_success
        except httpx2.HTTPError:
            return False

    def submit(self, action: str, *args: object, **form: Any) -> str:
        """Submit a task and return its id."""
        return str(self.call("POST", "/tasks", {"action": action, "args": args, **form})["id"])

    def submit_all(self, forms: Sequence[Mapping[str, Any]]) -> list[str]:
        """Submit many tasks in one transaction and return their ids, in order."""
        return [str(task["id"]) for task in self.call("POST", "/tasks/bulk", {"tasks": list(forms)})["data"]]

    def task(self, task_id: str) -> dict[str, Any]:
        """Return a task."""
        found: dict[str, Any] = self.call("GET", f"/tasks/{task_id}")
        return found

    def cancel(self, task_id: str) -> None:
        """Cancel a task."""
        self.call("POST", f"/tasks/{task_id}/cancel", {})

    def worker(self, reference: str) -> dict[str, Any] | None:
        """Return a worker by id or name, None if there is none."""
        answer = self.request("GET", f"/workers/{reference}")
        return answer.json() if answer.is_success else None

    def approve(self, reference: str, fingerprint: str) -> None:
        """Approve a worker whose fingerprint was seen."""
        form = {"is_approved": True, "fingerprint": fingerprint}
        self.call("PATCH", f"/admin/workers/{reference}/approve", form)
