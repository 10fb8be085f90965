"""A private OpenSSH server for tests: own port, own keys, one user who may log in."""

import base64
import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.ports import free_port

START_SECONDS = 20.0
STOP_SECONDS = 10.0


class SshdMissing(RuntimeError):
    """No OpenSSH server is installed on this machine."""


class PrivateSshd:
    """An sshd of one's own on 127.0.0.1, which lets the user who runs the tests log in with one key.

    It is started by entering it as a context manager or by `start()`, and answers when that returns.
    """

    hostname = "127.0.0.1"

    def __init__(self, directory: Path, *, options: Sequence[str] = ()) -> None:
        """Prepare a server in `directory`; `options` are lines of sshd_config that win over ours.

        Raises SshdMissing.
        """
        self._program = sshd_program()
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.username = pwd.getpwuid(os.getuid()).pw_name
        user_key = Ed25519PrivateKey.generate()
        self.private_key = private_key_text(user_key)
        (directory / "authorized_keys").write_text(public_key_line(user_key) + "\n")
        self.renew_host_key()

    def renew_host_key(self) -> None:
        """Give the server another host key, which it shows from its next start on."""
        key = Ed25519PrivateKey.generate()
        path = self._directory / "host_key"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(private_key_text(key))
        self.host_keys = (fingerprint(key),)

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return (self._directory / "sshd.log").read_text(errors="replace")

    def start(self) -> Self:
        """Start the server; raises RuntimeError with its log if it does not answer."""
        config = self._directory / "sshd_config"
        config.write_text("\n".join(self._config_lines()) + "\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self._directory / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._await_banner(self._process)
        return self

    def stop(self) -> None:
        """End the server and the sessions that it serves."""
        if self._process is None:
            return
        self.thaw()
        sessions = self.sessions()
        self._process.terminate()
        for session in sessions:
            _signal(session, "kill")
        self._process.wait(STOP_SECONDS)
        psutil.wait_procs(sessions, STOP_SECONDS)
        self._process = None

    def sessions(self) -> list[psutil.Process]:
        """Return the server's own processes that serve connections, not the commands run in them."""
        if self._process is None:
            return []
        return [
            process
            for process in psutil.Process(self._process.pid).children(recursive=True)
            if _name(process).startswith("sshd")
        ]

    def freeze(self) -> None:
        """Stop the processes that serve connections: their peers see a host that has gone silent."""
        for session in self.sessions():
            _signal(session, "suspend")

    def thaw(self) -> None:
        """Let frozen sessions run on."""
        for session in self.sessions():
            _signal(session, "resume")

    def kill_sessions(self) -> None:
        """Kill the processes that serve connections, as a crash would; the server itself stays."""
        sessions = self.sessions()
        for session in sessions:
            _signal(session, "kill")
        psutil.wait_procs(sessions, STOP_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _config_lines(self) -> list[str]:
        lines = [
            *self._options,  # sshd takes the first value that it meets
            f"ListenAddress {self.hostname}:{self.port}",
            f"HostKey {self._directory / 'host_key'}",
            f"AuthorizedKeysFile {self._directory / 'authorized_keys'}",
            f"PidFile {self._directory / 'sshd.pid'}",
            "LogLevel VERBOSE",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "MaxStartups 1000",
            "UseDNS no",
            "SetEnv SHLVL=1",  # bash takes it for a nested shell and leaves out this user's start-up files
        ]
        # Since 9.8 a client that failed before is kept out for a while: all tests share one address.
        if _understands(self._program, "PerSourcePenalties=no"):
            lines.append("PerSourcePenalties no")
        return lines

    def _await_banner(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with socket.create_connection((self.hostname, self.port), timeout=1.0) as connection:
                    if connection.recv(4) == b"SSH-":
                        return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"sshd did not answer on port {self.port}; its log:\n{self.log}")


def sshd_program() -> str:
    """Return the absolute path of sshd, which it insists on; raises SshdMissing."""
    program = shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
    if program is None:
        raise SshdMissing("these tests need an OpenSSH server: apt-get install openssh-server")
    return program


def private_key_text(key: Ed25519PrivateKey) -> str:
    """Return a private key as `ssh-keygen` would write it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def public_key_line(key: Ed25519PrivateKey) -> str:
    """Return a public key as a line of `authorized_keys`."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def fingerprint(key: Ed25519PrivateKey) -> str:
    """Return a key's fingerprint as OpenSSH prints it."""
    blob = base64.b64decode(public_key_line(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _understands(program: str, option: str) -> bool:
    answer = subprocess.run([program, "-t", "-o", option], capture_output=True, timeout=START_SECONDS)
    return b"Bad configuration option" not in answer.stderr


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _signal(process: psutil.Process, action: str) -> None:
    try:
        getattr(process, action)()
    except psutil.NoSuchProcess:
        return
