"""Files: names and types that may be shown, signatures, and what the local storage promises."""

import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from broker.api.download import attachment
from broker.artifacts import MAX_NAME_BYTES, Artifacts, Signature, safe_name, safe_type
from broker.storage import LocalStorage
from broker.store.store import Store
from broker.vault import Vault
from protocols.clock import ManualClock
from protocols.errors import Forbidden, StorageUnavailable

FILE_ID = "file_01973cf0a6b07c3d8f0e2a4b6c8d9e1f"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a b.txt", "a b.txt"),
        ("/", "file"),
        ("", "file"),
        ("..", "file"),
        (" .  ", "file"),
        ("a\r\nSet-Cookie: x=y.txt", "a__Set-Cookie: x=y.txt"),
        ("invoice\u202efdp.exe", "invoice_fdp.exe"),
        ("Übersicht 表.csv", "Übersicht 表.csv"),
        (".bashrc", ".bashrc"),
        ("x" * 300 + ".html", "x" * 250 + ".html"),
        ("é" * 200 + ".txt", "é" * 125 + ".txt"),
        ("x." + "y" * 300, "x." + "y" * 253),
    ],
)
def test_a_name_is_one_that_may_be_shown(name: str, kept: str) -> None:
    """Folders and what cannot be printed are left out, and the name's end survives a cut."""
    assert safe_name(name) == kept


@given(some.text(max_size=400))
def test_no_name_is_dangerous(name: str) -> None:
    """Whatever a name is, what is kept of it is printable, no path, not too long, and fits into a header."""
    kept = safe_name(name.encode(errors="replace").decode())
    assert kept.isprintable()
    assert not {"/", "\\"} & set(kept)
    assert kept not in ("", ".", "..")
    assert len(kept.encode()) <= MAX_NAME_BYTES
    plain, exact = r'filename="[ !#-\[\]-~]+"', r"filename\*=UTF-8''[A-Za-z0-9_.~%-]+"
    assert re.fullmatch(f"attachment; {plain}(; {exact})?", attachment(kept))


def test_a_name_comes_back_from_its_header() -> None:
    """A plain name stands as it is, another also in the extended form (RFC 6266)."""
    assert attachment("a b.txt") == 'attachment; filename="a b.txt"'
    assert attachment('é".txt') == "attachment; filename=\"__.txt\"; filename*=UTF-8''%C3%A9%22.txt"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("text/plain", "text/plain"),
        ("text/csv; charset=latin-1", "text/csv; charset=latin-1"),
        ('multipart/mixed; boundary="a b"', 'multipart/mixed; boundary="a b"'),
        (None, "application/octet-stream"),
        ("", "application/octet-stream"),
        ("html", "application/octet-stream"),
        ("text/plain\r\nSet-Cookie: a=b", "application/octet-stream"),
        ("text/pl\u00e4in", "application/octet-stream"),
        ("text/" + "x" * 255, "application/octet-stream"),
    ],
)
def test_a_type_is_one_that_may_be_sent(said: str | None, kept: str) -> None:
    """What is no media type becomes the one that says nothing."""
    assert safe_type(said) == kept


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def artifacts(tmp_path: Path, clock: ManualClock) -> Artifacts:
    """Files whose database nobody has started: signatures need none."""
    key = Vault(bytes(32)).derived_key("test")
    return Artifacts(Store(tmp_path / "warren.db", clock), LocalStorage(tmp_path / "files"), clock, key)


def test_a_signature_holds_until_it_expires(artifacts: Artifacts, clock: ManualClock) -> None:
    """It is accepted for so many seconds, and then refused with what to do."""
    signature = artifacts.sign(FILE_ID, 60)
    clock.advance(59.9)
    artifacts.check(FILE_ID, signature)
    clock.advance(0.1)
    with pytest.raises(Forbidden, match="expired") as caught:
        artifacts.check(FILE_ID, signature)
    assert "/url" in str(caught.value.hint)


def test_a_signature_is_for_one_file_and_time(artifacts: Artifacts) -> None:
    """Another file, another time, another key and any altered character are refused."""
    good = artifacts.sign(FILE_ID, 60)
    flipped = "A" if good.text[0] != "A" else "B"
    wrong = (
        (FILE_ID[:-1] + "0", good),
        (FILE_ID, Signature(good.expires + 1, good.text)),
        (FILE_ID, Signature(good.expires, flipped + good.text[1:])),
        (FILE_ID, Signature(good.expires, good.text[:-1])),
        (FILE_ID, Signature(good.expires, "")),
        (FILE_ID, Signature(good.expires, "é")),
    )
    for file_id, signature in wrong:
        with pytest.raises(Forbidden, match="not made by this Warren"):
            artifacts.check(file_id, signature)


def test_derived_keys_differ_by_purpose_and_master_key() -> None:
    """The same purpose gives the same key, anything else another one."""
    vault = Vault(bytes(32))
    assert vault.derived_key("one") == Vault(bytes(32)).derived_key("one") != vault.derived_key("two")
    assert vault.derived_key("one") != Vault(b"x" * 32).derived_key("one")


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """An empty storage."""
    return LocalStorage(tmp_path / "files")


def files_in(directory: Path) -> list[Path]:
    """Return every file below."""
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_draft_is_seen_when_it_is_whole(storage: LocalStorage, tmp_path: Path) -> None:
    """Before `keep` nothing can be read; after it all can, by its owner alone."""
    draft = storage.begin(FILE_ID)
    draft.write(b"one ")
    draft.write(b"two")
    with pytest.raises(StorageUnavailable):
        storage.open(FILE_ID)
    draft.keep()
    with storage.open(FILE_ID) as file:
        assert file.read() == b"one two"
    for path in (tmp_path / "files").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert stat.S_IMODE((tmp_path / "files").stat().st_mode) == 0o700


@pytest.mark.parametrize("kept", [False, True])
def test_a_discarded_draft_leaves_nothing(storage: LocalStorage, tmp_path: Path, kept: bool) -> None:
    """Neither the draft nor what it became is there any more."""
    draft = storage.begin(FILE_ID)
    draft.write(b"x")
    if kept:
        draft.keep()
    draft.discard()
    assert not files_in(tmp_path)


def test_batches_tell_all_that_can_be_deleted(storage: LocalStorage, tmp_path: Path) -> None:
    """Kept bytes and drafts are told by their ids; what is deleted is gone, also if it is deleted twice."""
    ids = [f"file_{number:032x}" for number in range(300)]
    drafts = [storage.begin(file_id) for file_id in ids]
    for draft in drafts[::2]:
        draft.keep()
    found = [file_id for batch in storage.batches() for file_id in batch]
    assert sorted(found) == ids
    for file_id in ids * 2:
        storage.delete(file_id)
    assert not files_in(tmp_path)
    for draft in drafts:
        draft.discard()
