"""Private keys: which texts are keys, and what is said of those that are not."""

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from protocols.states import FailureClass
from worker.actions.ssh.credentials import SupportedKey, private_key
from worker.actions.ssh.failure import NotStarted

PLAIN = NoEncryption()
LOCKED = BestAvailableEncryption(b"passphrase")


def text(key: SupportedKey | dsa.DSAPrivateKey, form: PrivateFormat, encryption: KeySerializationEncryption) -> str:
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


@pytest.fixture(
    scope="module",
    params=[
        ("ssh-ed25519", ed25519.Ed25519PrivateKey.generate),
        ("ecdsa-sha2-nistp256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("ssh-rsa", lambda: rsa.generate_private_key(65537, 2048)),
    ],
    ids=lambda param: param[0],
)
def kind_and_key(request: pytest.FixtureRequest) -> tuple[str, SupportedKey]:
    kind, make = request.param
    return kind, make()


@pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8])
@pytest.mark.parametrize("frame", ["{}", "\n  {}", "{}\n\n"])
def test_each_supported_key_is_read_in_each_form_and_can_sign(
    kind_and_key: tuple[str, SupportedKey], form: PrivateFormat, frame: str
) -> None:
    kind, key = kind_and_key
    loaded = private_key(frame.format(text(key, form, PLAIN).strip()))
    assert loaded.get_name() == kind
    assert loaded.can_sign()


@pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8])
def test_a_key_with_a_passphrase_is_refused_with_what_to_do(form: PrivateFormat) -> None:
    locked = text(ed25519.Ed25519PrivateKey.generate(), form, LOCKED)
    with pytest.raises(NotStarted, match="without") as caught:
        private_key(locked)
    assert (caught.value.failure_class, caught.value.code) == (FailureClass.CREDENTIAL, "unusable_key")


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "hunter2-hunter2",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
        "\ud800 hunter2",
    ],
)
def test_what_is_no_key_is_refused_without_being_quoted(broken: str) -> None:
    with pytest.raises(NotStarted) as caught:
        private_key(broken)
    assert caught.value.code == "unusable_key"
    assert "hunter2" not in caught.value.message


def test_a_key_of_an_unsupported_kind_is_refused() -> None:
    with pytest.raises(NotStarted, match="neither"):
        private_key(text(dsa.generate_private_key(1024), PrivateFormat.PKCS8, PLAIN))
