"""Settings, read: from which files and variables, and in which words a wrong one is refused.

Rule 1: four sources, the later wins: the defaults, a file of one's own, ``TRADEENGINE_…`` variables, the command line.
Rule 2: a wrong setting is refused before anything starts, with its name, its value and what is allowed.
It refuses to know what a setting is used for.
"""

from __future__ import annotations

import os
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Meta

from tradeengine.settings import SECRET_LENGTH_MIN, Auth, Section, Seeds, Settings, SettingsError

ENVIRONMENT_PREFIX: Final = "TRADEENGINE_"
ENVIRONMENT_RESERVED: Final = frozenset({"TRADEENGINE_CONFIG", "TRADEENGINE_HANDOFF", "TRADEENGINE_CRASH_AT"})


def load_settings(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings from all four sources.

    path: a TOML file that names what differs from the defaults; ``TRADEENGINE_CONFIG`` when None. overrides:
    ``{"http.port": 0}`` from the command line, None values left out. environ: ``os.environ`` when None.
    Raises SettingsError with one line that names the setting, its value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    raw = _read_toml(package_folder("config") / "default.toml")
    if path is None and environ.get("TRADEENGINE_CONFIG"):
        path = Path(environ["TRADEENGINE_CONFIG"])
    if path is not None:
        _merge(raw, _read_toml(path))
    for name, text in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in ENVIRONMENT_RESERVED:
            _set_from_environment(raw, name, text)
    for name, value in (overrides or {}).items():
        if value is not None:
            section, key = name.split(".")
            raw[section][key] = value
    return settings_from(raw)


def settings_from(raw: Mapping[str, Any]) -> Settings:
    """Check a whole tree of plain values. Raises SettingsError."""
    try:
        settings = msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(raw, str(error), Settings)) from None
    _check(settings)
    return settings


def load_seeds(path: Path | None = None) -> Seeds:
    """Read assets and symbols for a new database: ``config/symbols.toml`` when path is None. Raises SettingsError."""
    raw = _read_toml(path or package_folder("config") / "symbols.toml")
    try:
        return msgspec.convert(raw, Seeds)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(raw, str(error), Seeds)) from None


def package_folder(name: str) -> Path:
    """Folder of files that come with the program: ``config`` or ``migrations``.

    In a wheel they lie inside the package; in a source tree beside ``src``, to which the import path is a link.
    """
    here = Path(__file__).parent
    inside = here / name
    return inside if inside.is_dir() else here.resolve().parent / name


def _check(settings: Settings) -> None:
    for name in ("ingress_slots", "commands_slots", "events_slots", "risk_events_slots"):
        slots = getattr(settings.rings, name)
        if slots & (slots - 1):
            _refuse(f"rings.{name}", slots, "a power of two")
    names_max = settings.requests.names_max
    if names_max & (names_max - 1):
        _refuse("requests.names_max", names_max, "a power of two")
    signatures_max = settings.keys.signatures_max
    if signatures_max & (signatures_max - 1):
        _refuse("keys.signatures_max", signatures_max, "a power of two")
    if settings.keys.master and len(settings.keys.master) < SECRET_LENGTH_MIN:
        _refuse("keys.master", "(hidden)", f"empty or at least {SECRET_LENGTH_MIN} characters")
    if settings.rings.reserve_slots * 2 > settings.rings.commands_slots:
        _refuse("rings.reserve_slots", settings.rings.reserve_slots, "at most half of rings.commands_slots")
    if settings.settlement.backlog_events_max > settings.rings.events_slots // 2:
        _refuse(
            "settlement.backlog_events_max",
            settings.settlement.backlog_events_max,
            f"at most half of rings.events_slots ({settings.rings.events_slots})",
        )
    if settings.auth.secret and len(settings.auth.secret) < SECRET_LENGTH_MIN:
        _refuse("auth.secret", "(hidden)", f"empty or at least {SECRET_LENGTH_MIN} characters")
    _check_token_keys(settings.auth)
    if not re.fullmatch(r"https?://[^?#\s@]+", settings.wallet.url):
        _refuse("wallet.url", settings.wallet.url, "an address such as http://127.0.0.1:8090")
    if settings.wallet.backoff_ms_max < settings.wallet.backoff_ms_min:
        _refuse("wallet.backoff_ms_max", settings.wallet.backoff_ms_max, "at least wallet.backoff_ms_min")
    if settings.database.idle_in_transaction_timeout_ms < settings.http.command_timeout_ms:
        idle_ms = settings.database.idle_in_transaction_timeout_ms
        _refuse("database.idle_in_transaction_timeout_ms", idle_ms, "at least http.command_timeout_ms")
    if bool(settings.http.tls_certificate) != bool(settings.http.tls_key):
        _refuse("http.tls_key", settings.http.tls_key, "set together with http.tls_certificate, or both empty")


def _check_token_keys(auth: Auth) -> None:
    if not auth.algorithms or len(set(auth.algorithms)) != len(auth.algorithms):
        _refuse("auth.algorithms", list(auth.algorithms), "a list that names at least one, and none twice")
    asymmetric = [algorithm for algorithm in auth.algorithms if algorithm != "HS256"]
    if asymmetric and not auth.keys_file:
        _refuse("auth.keys_file", "", f"set when auth.algorithms has {' or '.join(asymmetric)}")


def _refuse(name: str, value: object, allowed: str) -> typing.NoReturn:
    raise SettingsError(f"setting {name} = {value!r} is not allowed: must be {allowed}")


def _set_from_environment(raw: dict[str, Any], name: str, text: str) -> None:
    section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
    if key not in raw.get(section, {}):
        raise SettingsError(f"environment variable {name} names no setting: must be TRADEENGINE_<SECTION>_<SETTING>")
    default = raw[section][key]
    if isinstance(default, list):
        raw[section][key] = [part.strip() for part in text.split(",") if part.strip()]
    elif isinstance(default, str):
        raw[section][key] = text
    else:
        try:
            raw[section][key] = msgspec.convert(text, type(default), strict=False)
        except msgspec.ValidationError:
            kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
            _refuse(f"{section}.{key} (from {name})", text, kind)


def _merge(base: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value)
        else:
            base[name] = value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from None


def _explain(raw: Mapping[str, Any], message: str, root: type[Section]) -> str:
    """Turn ``Expected `int` >= 1 - at `$.engine.shards``` into a line with name, value and what is allowed."""
    match = re.fullmatch(r"(.*?)(?: - at `\$\.?(.*)`)?", message, re.DOTALL)
    assert match is not None
    what, name = match.group(1), match.group(2) or ""
    kind = _kind_of(root, name)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown is not None:
        known = ", ".join(sorted(kind.__struct_fields__))
        return f"setting {'.'.join(filter(None, (name, unknown.group(1))))} is unknown: known here are {known}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", what)
    if missing is not None:
        return f"setting {'.'.join(filter(None, (name, missing.group(1))))} is missing"
    return f"setting {name} = {_value_at(raw, name)!r} is not allowed: must be {_allowed(kind)}"


def _kind_of(root: type[Section], name: str) -> Any:
    """Annotation of what a name such as ``engine.shards`` or ``symbols[3]`` stands for."""
    kind: Any = root
    for part in re.findall(r"[^.\[\]]+|\[", name):
        # A list's entries are all of one kind: in ``[3]`` the number says nothing.
        if part == "[":
            kind = typing.get_args(kind)[0]
        elif not part.isdigit():
            kind = typing.get_type_hints(kind, include_extras=True)[part]
    return kind


def _allowed(kind: Any) -> str:
    """Say in words what an annotation takes."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "a list"
    if isinstance(kind, type) and issubclass(kind, Section):
        return "a table of settings"
    bounds = next((part for part in getattr(kind, "__metadata__", ()) if isinstance(part, Meta)), Meta())
    plain = getattr(kind, "__origin__", kind)
    words = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}[plain]
    if bounds.pattern:
        return f"{words} that matches {bounds.pattern}"
    if bounds.min_length:
        return f"{words} that is not empty"
    if bounds.gt is not None:
        words += f" above {bounds.gt}"
        return words if bounds.le is None else f"{words} and at most {bounds.le}"
    if bounds.ge is not None:
        return f"{words} of at least {bounds.ge}" if bounds.le is None else f"{words} from {bounds.ge} to {bounds.le}"
    return words


def _value_at(raw: Any, name: str) -> object:
    for part in re.findall(r"[^.\[\]]+|\[\d+\]", name):
        try:
            raw = raw[int(part[1:-1])] if part.startswith("[") else raw[part]
        except (KeyError, IndexError, TypeError):
            return None
    return raw
