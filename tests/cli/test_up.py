"""``tradeengine up``: what it prints, and how it refuses to start."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import httpx2
import pytest
from tests.engines import Engine, run_command

import tradeengine
from tradeengine.actors.data_dir import ensure_secret
from tradeengine.cli.demo_process import demo_tokens
from tradeengine.cli.up import announce
from tradeengine.settings_files import load_settings


def test_printed_line_places_an_order(engine: Engine) -> None:
    """The printed curl line, taken apart as a shell would, places an order of the demo trader."""
    words = shlex.split(engine.curl_line)
    assert words[:2] == ["curl", "-sS"]
    headers = dict(words[place + 1].split(": ", 1) for place, word in enumerate(words) if word == "-H")
    body = words[words.index("-d") + 1]
    answer = httpx2.post(words[2], headers=headers, content=body, timeout=20)
    assert answer.status_code == 201, answer.text
    order = answer.json()["data"]["order"]
    assert order["status"] == "open"
    assert order["price"] == json.loads(body)["price"]


def test_last_line_begins_with_ready(engine: Engine) -> None:
    """The last thing printed begins with ``ready``, and by then orders are accepted."""
    assert engine.lines[-1].startswith("ready ")
    assert httpx2.get(f"{engine.url}/ready", timeout=20).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("--shards", "0"), {}, "setting engine.shards = 0 is not allowed"),
        (("--port", "70000"), {}, "setting http.port = 70000 is not allowed"),
        ((), {"TRADEENGINE_RINGS_EVENTS_SLOTS": "1000"}, "setting rings.events_slots = 1000 is not allowed"),
        (("--config", "/nowhere.toml"), {}, "settings file /nowhere.toml cannot be read"),
        (("--host", "host.invalid"), {}, "setting http.host = 'host.invalid' is not an address"),
        (("--host", "192.0.2.1"), {}, "choose an address of this machine with --host"),
        (("--dsn", "host=/nowhere dbname=x"), {}, "the database cannot be reached"),
        (("--dsn", "nonsense"), {}, "setting database.dsn (--dsn) is not allowed"),
        (
            (),
            {"TRADEENGINE_HTTP_TLS_CERTIFICATE": "/no.pem", "TRADEENGINE_HTTP_TLS_KEY": "/no.pem"},
            "setting http.tls_certificate = '/no.pem' is not allowed: the file cannot be read",
        ),
        (("--demo",), {"TRADEENGINE_DEMO_ENABLED": "false"}, "--demo needs demo.enabled"),
        (("--demo",), {"TRADEENGINE_WALLET_KIND": "http"}, "--demo needs wallet.kind"),
    ],
)
def test_wrong_start_is_refused_in_one_line(
    arguments: tuple[str, ...], environment: dict[str, str], said: str, data_dir: Path
) -> None:
    """What cannot work is refused before the engine is up, in one line and with status 1."""
    result = run_command("up", "--port", "0", "--data-dir", str(data_dir), *arguments, **environment)
    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.strip().count("\n") == 0, result.stderr
    assert result.stdout == ""


def test_migrate_refuses_a_malformed_dsn(data_dir: Path) -> None:
    """``migrate`` checks the connection string as ``up`` does."""
    result = run_command("migrate", "--dsn", "nonsense", "--data-dir", str(data_dir))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("tradeengine: setting database.dsn")
    assert result.stderr.strip().count("\n") == 0


def test_version_is_told() -> None:
    """``--version`` prints the version, and nothing is started."""
    result = run_command("--version")
    assert (result.returncode, result.stdout) == (0, f"tradeengine {tradeengine.__version__}\n")


@pytest.mark.parametrize("kind", ["ledger", "http"])
def test_what_can_be_tried_is_announced(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token and an order to paste come where demo traders have money; where a wallet keeps it, its address does."""
    settings = load_settings(None, {"engine.data_dir": str(tmp_path), "wallet.kind": kind})
    ensure_secret(tmp_path)
    announce("http://127.0.0.1:1", 2.0, demo_tokens(settings), "http://127.0.0.1:2" if kind == "http" else "")
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    middle = ["token", "try"] if kind == "ledger" else ["wallet"]
    assert words == ["listening", *middle, "ready"]
