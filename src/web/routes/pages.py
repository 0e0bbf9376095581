"""The operator's page: files of ``pages/admin``, read once and served as they are.

Rule 1: the page is nothing but its files: whoever may not see something is refused by the calls that it makes.
Rule 2: its browser is told to load nothing from elsewhere, to run nothing that is written into the document, and to
make no markup of text (trusted types, of which there are none): a user's name stays a name, whatever is in it.
It refuses to know what the page shows.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

from quart import Blueprint, Response, request
from quart_schema import hide

from tradeengine.web.access import Access, allow
from tradeengine.web.errors import ApiError

blueprint = Blueprint("pages", __name__)

INDEX: Final = "index.html"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY: Final = (
    "default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY.format(scripts="'self'", styles="'self'"),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # May be kept, and is asked for each time: so that no page of an older engine is shown.
    "Cache-Control": "no-cache",
}


class PageFile(NamedTuple):
    """One file of the page."""

    body: bytes
    content_type: str
    tag: str


@blueprint.get("/admin")
@allow(Access.PUBLIC)
@hide
async def show_admin_page() -> Response:
    """Show the operator's page, which asks for a token itself."""
    return _answer(INDEX)


@blueprint.get("/admin/<name>")
@allow(Access.PUBLIC)
@hide
async def show_admin_file(name: str) -> Response:
    """Give a file of the operator's page."""
    return _answer(name)


@cache
def page_files() -> dict[str, PageFile]:
    """Read every file of the page, by its name."""
    folder = files("tradeengine.web") / "pages" / "admin"
    found = {}
    for file in folder.iterdir():
        content_type = TYPES.get("." + file.name.rpartition(".")[2])
        if content_type is not None:
            body = file.read_bytes()
            found[file.name] = PageFile(body, content_type, hashlib.blake2b(body, digest_size=16).hexdigest())
    return found


def headers_of(page: bytes) -> dict[str, str]:
    """Give the headers of a page that has its programs and styles within it: these, by their hashes, and no others."""
    scripts, styles = (
        " ".join(
            f"'sha256-{b64encode(hashlib.sha256(part).digest()).decode()}'"
            for part in re.findall(rb"<%s>(.*?)</%s>" % (kind, kind), page, re.DOTALL)
        )
        for kind in (b"script", b"style")
    )
    return {**HEADERS, "Content-Security-Policy": POLICY.format(scripts=scripts, styles=styles)}


def _answer(name: str) -> Response:
    found = page_files().get(name)
    if found is None:
        raise ApiError("NOT_FOUND", "There is no such page; see /admin.")
    if request.if_none_match.contains(found.tag):
        response = Response(b"", 304)
        del response.headers["Content-Type"], response.headers["Content-Length"]
    else:
        response = Response(found.body, content_type=found.content_type)
    response.headers.update(HEADERS)
    response.headers["ETag"] = f'"{found.tag}"'
    return response
