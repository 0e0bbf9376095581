"""Blotting out secrets in what is kept for long: by what they are, what they look like, and what they are called.

It refuses to know where the words come from and where they go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from psycopg.conninfo import conninfo_to_dict

from tradeengine.settings import Settings

BLOT: Final = "[secret]"
SECRET_CHARACTERS_MIN: Final = 6
"""Shorter ones would blot out ordinary words; a setting that is so short is no secret."""
_TOKEN: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*){0,4}")
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL)
_NAME: Final = re.compile(r"secret|token|password|passwd|authorization|signature|private|credential", re.IGNORECASE)


class Redaction:
    """Knows the engine's own secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Take secrets; empty ones are none."""
        known = sorted({secret for secret in secrets if len(secret) >= SECRET_CHARACTERS_MIN}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """Give a text without secrets."""
        text = _PRIVATE_KEY.sub(BLOT, _TOKEN.sub(BLOT, text))
        return text if self._known is None else self._known.sub(BLOT, text)

    def value(self, value: Any) -> Any:
        """Give what JSON has without secrets; what is called one is blotted out whole."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {
                    self.text(str(name)): BLOT if _NAME.search(str(name)) else self.value(part)
                    for name, part in value.items()
                }
            case list() | tuple():
                return [self.value(part) for part in value]
            case _:
                return value


def redaction_of(settings: Settings) -> Redaction:
    """Know the secrets of these settings."""
    database = settings.database
    passwords = [conninfo_to_dict(dsn).get("password") for dsn in (database.dsn, database.session_dsn)]
    return Redaction(
        (
            settings.auth.secret,
            settings.keys.master,
            settings.wallet.secret,
            settings.http.metrics_token,
            *(str(password or "") for password in passwords),
        )
    )
