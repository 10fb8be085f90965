"""The control plane's settings: what the environment says, and what it may not say."""

import pytest

from broker.settings import load
from protocols.errors import InvalidSettings


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces mean nothing; a port and an IPv6 address may be there; none are the default."""
    assert load().cors_origins == ()
    monkeypatch.setenv("WARREN_CORS_ORIGINS", " https://one.example ,http://localhost:5173,http://[::1]:3000,")
    assert load().cors_origins == ("https://one.example", "http://localhost:5173", "http://[::1]:3000")


@pytest.mark.parametrize("origin", ["*", "null", "one.example", "https://one.example/path", "ftp://one.example"])
def test_an_origin_is_what_browsers_send(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    """Everybody at once, a path, another scheme: refused, with the setting's name."""
    monkeypatch.setenv("WARREN_CORS_ORIGINS", f"https://right.example,{origin}")
    with pytest.raises(InvalidSettings, match="WARREN_CORS_ORIGINS"):
        load()
