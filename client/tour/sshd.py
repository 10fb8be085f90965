"""An SSH server for the tour: on the loopback, for this user alone, with keys of its own."""

import base64
import hashlib
import os
import pwd
import shutil
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from client.ports import LOOPBACK, accepts, free_port
from client.processes import Child
from protocols.errors import Unavailable

START_S = 10.0
_PLACES = "/usr/sbin:/usr/local/sbin:/sbin"
"""Where sshd is, which most users do not have on their PATH."""


class TourHost:
    """This machine as a host that the tour's SSH tasks run on."""

    hostname = LOOPBACK

    def __init__(self, directory: Path, log: Path) -> None:
        """Prepare keys and configuration; raises Unavailable, with what to do, where no sshd can be used."""
        program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{_PLACES}")
        if program is None:
            raise Unavailable("there is no sshd here; for this part: apt-get install openssh-server")
        self.username = _login_name()
        self.port = free_port()
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        host_key, user_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.private_key = _private_text(user_key)
        self.host_key = _fingerprint(host_key)
        _write(directory / "host_key", _private_text(host_key))
        _write(directory / "authorized_keys", _public_line(user_key) + "\n")
        _write(directory / "sshd_config", "\n".join(self._config()) + "\n")
        self.child = Child("sshd", [program, "-D", "-e", "-f", str(directory / "sshd_config")], log=log)

    def start(self) -> None:
        """Start it; raises ChildEnded or Unavailable, with its log."""
        if os.getuid() == 0:
            # sshd wants this directory, which only its system service makes.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.child.start()
        self.child.wait_for("sshd", lambda: accepts(self.port), START_S)

    def _config(self) -> list[str]:
        return [
            f"ListenAddress {LOOPBACK}",
            f"Port {self.port}",
            f'HostKey "{self.directory / "host_key"}"',
            f'AuthorizedKeysFile "{self.directory / "authorized_keys"}"',
            "AuthenticationMethods publickey",
            "PermitRootLogin prohibit-password",
            f"AllowUsers {self.username}",
            "DisableForwarding yes",
            "StrictModes no",
            f"UsePAM {'yes' if _root_is_locked() else 'no'}",
            "PidFile none",
            "UseDNS no",
        ]


def _login_name() -> str:
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:
        raise Unavailable("sshd cannot log this user in, who has no entry in /etc/passwd") from None
    if Path(user.pw_shell).name in {"nologin", "false"}:
        raise Unavailable(f"sshd cannot log {user.pw_name} in, whose shell is {user.pw_shell}")
    return user.pw_name


def _root_is_locked() -> bool:
    """Return whether only PAM lets this user in: without it sshd refuses one with a locked password."""
    try:
        shadow = Path("/etc/shadow").read_text(encoding="utf-8")
    except OSError:
        return False
    return os.getuid() == 0 and any(line.startswith("root:!") for line in shadow.splitlines())


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _private_text(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")


def _public_line(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def _fingerprint(key: Ed25519PrivateKey) -> str:
    blob = base64.b64decode(_public_line(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")
