"""What settings name outside the program, looked at before anything starts: the database's address, the TLS files.

Rule 1: what can be told without connecting is told here, in one line with the setting's name; whether a database
answers is known only when it is asked.
It refuses to know what the settings are for.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tradeengine.settings import SettingsError

if TYPE_CHECKING:
    from tradeengine.settings import Database, Settings


def check_outside(settings: Settings) -> None:
    """Check all that an engine needs. Raises SettingsError."""
    check_addresses(settings.database)
    if settings.http.tls_certificate:
        check_tls(settings.http.tls_certificate, settings.http.tls_key)


def check_addresses(database: Database) -> None:
    """Check the two addresses of the database. Raises SettingsError."""
    check_dsn(database.dsn)
    check_dsn(database.session_dsn, "database.session_dsn")
    if database.session_dsn and not database.dsn:
        raise SettingsError("setting database.session_dsn is not allowed: must be empty where database.dsn is")


def check_dsn(dsn: str, name: str = "database.dsn (--dsn)") -> None:
    """Refuse what is no connection string to PostgreSQL's library; empty is allowed. Raises SettingsError."""
    if not dsn:
        return
    # Not at the top: the supervisor imports it while the actors' programs start already.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        # Its value is not shown: it may hold a password.
        raise SettingsError(
            f"setting {name} is not allowed: must be a URL such as postgresql://user@host:5432/name, or "
            f"key=value pairs such as host=/run/postgresql dbname=name: {' '.join(str(error).split())}"
        ) from None


def check_tls(certificate: str, key: str) -> None:
    """Refuse files that no TLS connection can be made with. Raises SettingsError."""
    for name, path in (("http.tls_certificate", certificate), ("http.tls_key", key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            _refuse(name, path, f"the file cannot be read: {error.strerror}")
    try:
        # Alone it is taken for an authority's: what matters is that a certificate is in the file.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError:
        _refuse("http.tls_certificate", certificate, "the file holds no certificate in PEM form")
    try:
        # A key with a password would ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            _refuse("http.tls_key", key, f"it is not the key of the certificate in {certificate}")
        problem = f" ({error.reason})" if error.reason else ""
        _refuse("http.tls_key", key, f"the file holds no private key in PEM form without a password{problem}")


def _refuse(name: str, path: str, problem: str) -> NoReturn:
    raise SettingsError(f"setting {name} = {path!r} is not allowed: {problem}")
