"""The action `ssh.exec`: runs one command on a host."""

from worker.actions.ssh.action import SshExec

__all__ = ["SshExec"]
