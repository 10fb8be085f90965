"""Which LLM the tour talks to: one that this machine has access to, else the stand-in."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from client.ports import LOOPBACK, accepts
from client.processes import Child
from client.programs import command
from protocols.errors import Unavailable

OLLAMA_PORT = 11434
PATIENCE_S = 8.0
_SMALL = re.compile(r"nano|mini|haiku|flash|small")
_NO_CHAT = re.compile(r"audio|realtime|transcribe|tts|search|embed|image|moderation|whisper|codex|research|instruct")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Where an LLM answers, and why it was chosen."""

    name: str
    base_url: str
    reason: str
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What its list of models wants besides the key."""


def configured(environ: Mapping[str, str]) -> Iterator[Provider]:
    """Yield the providers that this user or machine has, the best known first."""
    if key := environ.get("OPENAI_API_KEY"):
        url = environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        yield Provider(name="openai", base_url=url, api_key=key, reason="OPENAI_API_KEY is set")
    if key := environ.get("ANTHROPIC_API_KEY"):
        yield Provider(
            name="anthropic",
            base_url="https://api.anthropic.com/v1/",
            api_key=key,
            reason="ANTHROPIC_API_KEY is set",
            headers={"x-api-key": key, "anthropic-version": "2023-06-01"},
        )
    if accepts(OLLAMA_PORT):
        yield Provider(name="ollama", base_url=f"http://{LOOPBACK}:{OLLAMA_PORT}/v1", reason="Ollama runs here")


def choose_model(provider: Provider) -> str:
    """Return a small model that the provider offers; raises Unavailable if it does not answer or has none."""
    headers = dict(provider.headers)
    if provider.api_key:
        headers["Authorization"] = f"Bearer {provider.api_key}"
    try:
        response = httpx2.get(f"{provider.base_url.rstrip('/')}/models", headers=headers, timeout=PATIENCE_S)
        names = [str(model["id"]) for model in response.raise_for_status().json()["data"]]
    except httpx2.HTTPStatusError as error:
        raise Unavailable(f"it answered with HTTP status {error.response.status_code}") from error
    except httpx2.HTTPError as error:
        raise Unavailable(f"it cannot be reached ({type(error).__name__})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable("its list of models cannot be read") from error
    chat = [name for name in names if not _NO_CHAT.search(name)]
    if not chat:
        raise Unavailable("it offers no model for chat")
    return min(filter(_SMALL.search, chat), key=len, default=chat[0])


def start_stand_in(log: Path, adopt: Callable[[Child], None]) -> Provider:
    """Start the stand-in; `adopt` gets its process before it runs. Raises ChildEnded or Unavailable."""
    child = Child("stand-in", command("client.standin", "--port", "0"), log=log)
    adopt(child)
    child.start()
    url = child.wait_for("stand-in", lambda: _announced_url(child), PATIENCE_S)
    return Provider(name="stand-in", base_url=url, reason="no provider is set up, so a stand-in answers")


def _announced_url(child: Child) -> str | None:
    found = re.search(r"listening on (\S+)", child.last_lines())
    return found[1] if found else None
