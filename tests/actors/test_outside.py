"""What settings name outside the program: refused before anything starts, in one line with the setting's name."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.web.test_server import make_certificate

from tradeengine.actors.outside import check_dsn, check_tls
from tradeengine.settings import SettingsError


@pytest.mark.parametrize(
    "dsn", ["", "host=/tmp dbname=x", "postgresql://user@host:5432/name", "postgres:///name?host=/tmp"]
)
def test_connection_string_is_taken(dsn: str) -> None:
    """URLs and key=value pairs are connection strings, and an empty one means the embedded database."""
    check_dsn(dsn)


@pytest.mark.parametrize("dsn", ["nonsense", "mysql://host/name", "host=/tmp colour=red", "dbname='open"])
def test_malformed_connection_string_is_refused(dsn: str) -> None:
    """What the database's library cannot read is refused by the setting's name, on one line."""
    with pytest.raises(SettingsError, match=r"database\.dsn") as refusal:
        check_dsn(dsn)
    assert "\n" not in str(refusal.value)


def test_good_certificate_and_key_are_taken(tmp_path: Path) -> None:
    """Files that a connection can be made with pass."""
    check_tls(*map(str, make_certificate(tmp_path)))


def test_unusable_tls_files_are_refused_by_name(tmp_path: Path) -> None:
    """A file that is missing, a folder, no PEM, another one's key, or locked: setting and file are named."""
    certificate, key = map(str, make_certificate(tmp_path))
    (tmp_path / "other").mkdir()
    _, other_key = map(str, make_certificate(tmp_path / "other"))
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    locked = tmp_path / "locked.pem"
    private_key = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    locked.write_bytes(
        private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    for wrong_certificate, wrong_key, name, path, why in (
        ("/nowhere.pem", key, "http.tls_certificate", "/nowhere.pem", "No such file"),
        (certificate, "/nowhere.pem", "http.tls_key", "/nowhere.pem", "No such file"),
        (str(tmp_path), key, "http.tls_certificate", str(tmp_path), "Is a directory"),
        (str(empty), key, "http.tls_certificate", str(empty), "no certificate"),
        (key, key, "http.tls_certificate", key, "no certificate"),
        (certificate, str(empty), "http.tls_key", str(empty), "no private key"),
        (certificate, certificate, "http.tls_key", certificate, "no private key"),
        (certificate, str(locked), "http.tls_key", str(locked), "without a password"),
        (certificate, other_key, "http.tls_key", other_key, "not the key of the certificate"),
    ):
        with pytest.raises(SettingsError) as refusal:
            check_tls(wrong_certificate, wrong_key)
        assert f"setting {name} = {path!r}" in str(refusal.value)
        assert why in str(refusal.value)
        assert "\n" not in str(refusal.value)
