"""The operator's page as files: what is served, under which headers, and what is in none of them."""

from __future__ import annotations

import re
from typing import Final

from tests.web.bench import Bench

from tradeengine.web.routes.pages import page_files

IMPORTED: Final = re.compile(r'from "\./([\w.]+)"')
NAMED: Final = re.compile(r'(?:href|src): "/admin/([\w.]+)"|(?:href|src)="/admin/([\w.]+)"')
FORBIDDEN: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|localStorage|sessionStorage"
    r"|indexedDB|document\.cookie|https?://(?!www\.w3\.org/2000/svg)|style=\"|\son\w+=\""
)
"""What makes markup or programs of text, keeps something beyond the page's life, or comes from elsewhere."""


async def test_every_file_is_served_strictly(bench: Bench) -> None:
    """The page and each file of it come with their type and a policy that lets nothing in from elsewhere."""
    for path in ("/admin", *(f"/admin/{name}" for name in page_files())):
        answer = await bench.client.get(path)
        assert answer.status_code == 200, path
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert {policy[f"{what}-src"] for what in ("script", "style", "img", "connect")} == {"'self'"}
        assert policy["require-trusted-types-for"] == "'script'"
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        kind = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert answer.mimetype == kind[path.rpartition(".")[2] if "." in path else "html"]


async def test_file_that_is_known_is_not_sent_again(bench: Bench) -> None:
    """Whoever has a file is told that it is the same by an empty 304, under the same policy; nothing else is served."""
    first = await bench.client.get("/admin/main.js")
    again = await bench.client.get("/admin/main.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, await again.get_data()) == (304, b"")
    assert again.headers["Content-Security-Policy"] == first.headers["Content-Security-Policy"]
    for path in ("/admin/nothing.js", "/admin/", "/admin/..%2Fdocs.html", "/admin/%2e%2e"):
        answer = await bench.client.get(path)
        assert answer.status_code == 404, path
        assert (await answer.get_json())["error"]["code"] == "NOT_FOUND"


def test_files_name_each_other_and_nobody_else() -> None:
    """Each file that another asks for is there, each is asked for, and none does what the page promises not to do."""
    texts = {name: file.body.decode() for name, file in page_files().items()}
    wanted = {name for text in texts.values() for found in NAMED.findall(text) for name in found if name}
    wanted |= {name for text in texts.values() for name in IMPORTED.findall(text)}
    assert wanted == texts.keys() - {"index.html"}
    assert {name: found for name, text in texts.items() if (found := FORBIDDEN.findall(text))} == {}


def test_each_module_opens_with_its_theory() -> None:
    """Each module and style sheet begins with what it is for."""
    for name, file in page_files().items():
        if name.endswith((".js", ".css")):
            assert file.body.startswith((b"// ", b"/* ")), name


async def test_documentation_runs_its_own_programs_only(bench: Bench) -> None:
    """The API's page has its programs and styles within it, and lets the browser run these and no others."""
    policy = (await bench.client.get("/docs")).headers["Content-Security-Policy"]
    assert re.search(r"script-src 'sha256-[\w+/]{43}='; style-src 'sha256-[\w+/]{43}=';", policy)
    assert "unsafe" not in policy


async def test_page_and_documentation_are_linked(bench: Bench) -> None:
    """The root names the page, the page leads to the API's documentation, and that one back."""
    assert (await (await bench.client.get("/")).get_json())["data"]["admin"] == "/admin"
    assert b'href="/admin"' in await (await bench.client.get("/docs")).get_data()
    assert b'href: "/docs"' in page_files()["session.js"].body
    assert b'href: "/docs"' in page_files()["desk.js"].body
