"""The vault: what it promises about secrets at rest."""

import os
import stat
from pathlib import Path

import pytest

from broker.vault import MASTER_KEY_FILE, Vault
from protocols.errors import InvalidSettings, SealBroken, StorageUnavailable


def test_a_value_comes_back_as_it_went_in(tmp_path: Path) -> None:
    """Encrypting and decrypting gives the same bytes, also after the vault was opened again."""
    ciphertext, wrapped_key = Vault.open(tmp_path).encrypt("sec_1", 3, b"hunter2\n")
    assert Vault.open(tmp_path).decrypt("sec_1", 3, ciphertext, wrapped_key) == b"hunter2\n"


def test_nothing_stored_contains_the_value(tmp_path: Path) -> None:
    """Neither the ciphertext nor the wrapped key shows the value, and two encryptions of it differ."""
    vault = Vault.open(tmp_path)
    first, second = vault.encrypt("sec_1", 1, b"hunter2"), vault.encrypt("sec_1", 1, b"hunter2")
    assert b"hunter2" not in b"".join(first + second)
    assert not set(first) & set(second)


@pytest.mark.parametrize(("secret_id", "version"), [("sec_2", 1), ("sec_1", 2), ("sec_", 11)])
def test_a_row_does_not_open_in_another_place(tmp_path: Path, secret_id: str, version: int) -> None:
    """A ciphertext copied to another secret or version is refused."""
    vault = Vault.open(tmp_path)
    ciphertext, wrapped_key = vault.encrypt("sec_1", 1, b"hunter2")
    with pytest.raises(SealBroken):
        vault.decrypt(secret_id, version, ciphertext, wrapped_key)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("position", [0, 12, -1])
def test_an_altered_row_is_refused(tmp_path: Path, part: int, position: int) -> None:
    """One flipped bit in the ciphertext or the wrapped key is noticed."""
    vault = Vault.open(tmp_path)
    row = [bytearray(field) for field in vault.encrypt("sec_1", 1, b"hunter2")]
    row[part][position] ^= 1
    with pytest.raises(SealBroken):
        vault.decrypt("sec_1", 1, bytes(row[0]), bytes(row[1]))


@pytest.mark.parametrize("stored", [b"", b"short", bytes(12)])
def test_a_truncated_row_is_refused(tmp_path: Path, stored: bytes) -> None:
    """Bytes that are no ciphertext at all give the same clear error."""
    vault = Vault.open(tmp_path)
    ciphertext, wrapped_key = vault.encrypt("sec_1", 1, b"hunter2")
    for row in ((stored, wrapped_key), (ciphertext, stored)):
        with pytest.raises(SealBroken):
            vault.decrypt("sec_1", 1, *row)


def test_another_master_key_does_not_open_it(tmp_path: Path) -> None:
    """With another master key the error says what to do, and does not show the value."""
    ciphertext, wrapped_key = Vault.open(tmp_path).encrypt("sec_1", 1, b"hunter2")
    (tmp_path / MASTER_KEY_FILE).unlink()
    with pytest.raises(SealBroken) as refusal:
        Vault.open(tmp_path).decrypt("sec_1", 1, ciphertext, wrapped_key)
    assert "master key" in refusal.value.message
    assert "hunter2" not in str(refusal.value)


def test_the_master_key_is_private_from_its_creation(tmp_path: Path) -> None:
    """The file has mode 0600 whatever the umask, 32 bytes, and nothing is left beside it."""
    previous = os.umask(0)
    try:
        Vault.open(tmp_path)
    finally:
        os.umask(previous)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == 32


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_master_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A key file with a wider mode stops the start, with the command that mends it."""
    Vault.open(tmp_path)
    (tmp_path / MASTER_KEY_FILE).chmod(mode)
    with pytest.raises(InvalidSettings) as refusal:
        Vault.open(tmp_path)
    assert "chmod 600" in str(refusal.value.hint)


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33)])
def test_a_damaged_master_key_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    """A file that holds no key stops the start and stays as it is: a new key would lose every secret."""
    path = tmp_path / MASTER_KEY_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidSettings):
        Vault.open(tmp_path)
    assert path.read_bytes() == content


def test_a_directory_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    """Without a data directory there is no vault, and no OSError either."""
    with pytest.raises(StorageUnavailable):
        Vault.open(tmp_path / "missing")
