"""Tells systemd how a service is doing; does nothing where systemd is not listening."""

import sdnotify


def notify(state: str) -> None:
    """Send a state such as `READY=1` (see sd_notify(3))."""
    sdnotify.SystemdNotifier().notify(state)
