"""Image, composition and workflow: by their schemas and linters, and every file, setting and secret in them exists."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tradeengine.settings_files import load_settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SECRETS = ROOT / "packaging" / "compose" / "secrets"
SCRIPTS = [ROOT / "packaging" / "install", *sorted((ROOT / "packaging" / "bin").iterdir()), SECRETS]
SCRIPTS += [ROOT / "packaging" / "compose" / "pgbouncer", ROOT / "tests" / "programs.sh"]


@pytest.mark.parametrize(
    ("schema", "file"),
    [("compose-spec", "compose.yaml"), ("github-workflows", ".github/workflows/ci.yml")],
)
def test_files_follow_their_schemas(schema: str, file: str) -> None:
    """compose.yaml is as the compose specification wants it, the workflow as GitHub does."""
    run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", file)


def test_dockerfile_is_clean() -> None:
    """Hadolint finds nothing; Debian's versions are not pinned, because Debian keeps only the newest."""
    run("hadolint", "--ignore", "DL3008", "--ignore", "DL3066", "Dockerfile")


def test_scripts_are_clean() -> None:
    """Shellcheck finds nothing in the scripts that install and run the program."""
    run("shellcheck", *[str(path) for path in SCRIPTS])


def test_what_the_image_is_made_of_is_sent_to_the_builder() -> None:
    """Every source of a COPY exists and is let through by .dockerignore; nothing else is."""
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source.split("/")[0] for line in copied for source in line.split()}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert sources == {line[1:] for line in ignored if line.startswith("!")}
    assert [source for line in copied for source in line.split() if not (ROOT / source).exists()] == []


def test_image_is_for_nobody_in_particular() -> None:
    """The engine runs as a user without a name in the host, and its variables are settings of the program."""
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    variables = dict(re.findall(r"(TRADEENGINE_\w+)=(\S+)", DOCKERFILE))
    settings = load_settings(environ=variables)
    assert str(settings.data_dir) in re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)


def test_mounts_exist() -> None:
    """Every file that is mounted from the tree is there, and every named volume is declared and used."""
    mounts = [mount.split(":") for service in COMPOSE["services"].values() for mount in service.get("volumes", [])]
    assert [source for source, *_ in mounts if source.startswith(".") and not (ROOT / source).exists()] == []
    assert all(mode == ["ro"] for source, _, *mode in mounts if source.startswith("."))
    assert {source for source, *_ in mounts if not source.startswith(".")} == set(COMPOSE["volumes"])


def test_settings_in_the_composition_are_settings() -> None:
    """The engine's variables and secrets are known to the program, with two addresses of one database."""
    variables = dict(COMPOSE["services"]["engine"]["environment"])
    variables = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in variables.items()}
    secrets = {name: "s" * 64 for name in COMPOSE["services"]["engine"]["secrets"] if name.startswith("TRADEENGINE_")}
    settings = load_settings(environ=variables | secrets)
    assert settings.database.is_pooled
    assert "password" not in settings.database.dsn


def test_nothing_is_reachable_from_outside() -> None:
    """Ports are on the loopback unless somebody says otherwise; every service has limits, a check and a way back."""
    for name, service in COMPOSE["services"].items():
        ports = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", port) for port in service.get("ports", [])]
        assert all(port.startswith("127.0.0.1:") for port in ports), name
        assert service["networks"] == ["inside"]
        assert service["restart"] == "unless-stopped"
        assert service["mem_limit"]
        assert service["pids_limit"]
        built = service.get("build", {}).get("target")
        stage = DOCKERFILE.partition(f" AS {built}\n")[2].partition("\nFROM ")[0]
        assert "healthcheck" in service or "HEALTHCHECK" in stage, name


def test_variables_have_examples() -> None:
    """Every variable that compose.yaml asks for is in .env.example with the same default, and no other."""
    wanted = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "compose.yaml").read_text(encoding="utf-8")))
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert wanted == dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_secrets_are_made_once(tmp_path: Path) -> None:
    """Each secret that compose.yaml names is made, for the owner's folder only, and stays when asked again."""
    script = tmp_path / "packaging" / "compose" / "secrets"
    script.parent.mkdir(parents=True)
    script.write_text(SECRETS.read_text(encoding="utf-8"))
    made = []
    for _ in range(2):
        subprocess.run(["sh", str(script)], check=True)
        made.append({path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()})
    assert made[0] == made[1]
    assert {f"./secrets/{name}" for name in made[0]} == {secret["file"] for secret in COMPOSE["secrets"].values()}
    assert all(len(text) == 64 for text in made[0].values())
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/secrets/", "/.env"} <= set(ignored)


def test_rules_in_containers_are_the_rules() -> None:
    """Prometheus in a container has the rules of config/prometheus, and looks for them where they are mounted."""
    configuration = yaml.safe_load((ROOT / "packaging" / "compose" / "prometheus.yml").read_text(encoding="utf-8"))
    own = yaml.safe_load((ROOT / "config" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = [mount.split(":")[1] for mount in COMPOSE["services"]["prometheus"]["volumes"]]
    assert set(configuration["rule_files"]) <= set(targets)
    assert [Path(file).name for file in configuration["rule_files"]] == own["rule_files"]
    assert [job["job_name"] for job in configuration["scrape_configs"]] == [
        job["job_name"] for job in own["scrape_configs"]
    ]


def test_actions_are_pinned_and_may_read_only() -> None:
    """Each action of the workflow is named by a commit, and the workflow may do nothing but read."""
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job and "permissions" not in job for job in workflow["jobs"].values())
    targets = re.findall(r"run: make (\w+)", text)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_ignored_files_stay_out_of_the_image() -> None:
    """No secret and no compiled file of this machine gets into the image."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in (
        "src/core/__pycache__",
        "src/core/__pycache__/book.place.py311.nbc",
        "config/prometheus/metrics_token",
    ):
        last = [line for line in ignored if fnmatch(name, line.removeprefix("!").replace("**/", "*")) or line == "*"][
            -1
        ]
        assert not last.startswith("!"), name


def run(program: str, *arguments: str) -> None:
    """Run a linter of the environment in the project's folder; it must have nothing to say."""
    path = Path(sys.executable).parent / program
    result = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
