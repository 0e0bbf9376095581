"""``/openapi.json``: made from the routes and the structs that they name, so that it cannot say anything else.

quart-schema walks the routes; this provider gives it msgspec's schemas by reference, so that every request and answer
has a name under ``components``. ``describe`` is how a handler says what it takes and gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec.json import schema_components
from quart_schema import QuartSchema, document_querystring, document_request, document_response, security_scheme, tag
from quart_schema.openapi import APIKeySecurityScheme, HttpSecurityScheme, Info, OpenAPIProvider

from tradeengine import __version__
from tradeengine.web.access import Access, allow
from tradeengine.web.errors import STATUS_OF_CODE
from tradeengine.web.fields import ClientOrderId, Id, SymbolInPath
from tradeengine.web.schemas import AmendOrder, ErrorAnswer, PlaceOrder
from tradeengine.web.schemas_admin import MoveMoney, Reference, Suspend, UserName
from tradeengine.web.schemas_api_keys import CreateApiKey
from tradeengine.web.schemas_orders import CancelAllAfter, PlaceBatch
from tradeengine.web.schemas_trading import ListSymbol, Why
from tradeengine.web.signed_requests import (
    KEY_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    WINDOW_HEADER,
    WINDOW_MS_DEFAULT,
)

if TYPE_CHECKING:
    from quart import Quart
    from quart_schema.validation import DataSource

Handler = TypeVar("Handler", bound=Callable[..., Any])
Schema = dict[str, Any]

_EXAMPLES: Final[dict[type[msgspec.Struct], Schema]] = {
    PlaceOrder: {
        "symbol": "BTC/USDT",
        "side": "buy",
        "type": "limit",
        "quantity": "0.01000",
        "price": "49000.00",
        "client_order_id": "my-order-1",
    },
    AmendOrder: {"quantity": "0.00500"},
    PlaceBatch: {
        "orders": [
            {"symbol": "BTC/USDT", "side": "buy", "type": "limit", "quantity": "0.01000", "price": "49000.00"},
            {"symbol": "BTC/USDT", "side": "sell", "type": "limit", "quantity": "0.01000", "price": "51000.00"},
        ]
    },
    CancelAllAfter: {"timeout_ms": 60_000},
    MoveMoney: {"user": "alice", "asset": "USDT", "amount": "1000", "reference": "wire-1"},
    Suspend: {"reason": "asked for by the user"},
    CreateApiKey: {"name": "market maker", "permissions": ["read", "trade"]},
    Why: {"reason": "the feed of the index is wrong"},
    ListSymbol: {
        "symbol": "DOT/USDT",
        "base_places": 8,
        "tick": "0.001",
        "lot": "0.01",
        "price_max": "10000",
        "quantity_min": "0.01",
        "quantity_max": "500000",
        "min_notional": "5",
        "maker_fee": "0.0005",
        "taker_fee": "0.001",
        "max_price_deviation": "0.10",
    },
}
"""Bodies to begin with: of what is needed always alone no order can be made."""
_PATH_PARAMETERS: Final[dict[str, Any]] = {
    "symbol": SymbolInPath,
    "order_id": Id,
    "trade_id": Id,
    "client_order_id": ClientOrderId,
    "key_id": Id,
    "user": UserName,
    "reference": Reference,
    "letter_id": Id,
}
_REFERENCE: Final = "#/components/schemas/{name}"
_TAKES_QUERY: Final = "takes_query"
_BODY: Final = "tradeengine_body"
_BEARER: Final = "bearer"


@dataclass
class _KeyHeader(APIKeySecurityScheme):
    """A header of signed requests. quart-schema's own has no description, against OpenAPI."""

    description: str = ""


_KEY_SCHEMES: Final = {
    "api_key": _KeyHeader(KEY_HEADER, "header", description="Id of an API key."),
    "api_timestamp": _KeyHeader(
        TIMESTAMP_HEADER, "header", description="When the request was signed, in milliseconds since 1970."
    ),
    "api_signature": _KeyHeader(
        SIGNATURE_HEADER,
        "header",
        description="HMAC-SHA256 in hexadecimal, or Ed25519 in base64, of five lines: the time stamp, the window "
        f"({WINDOW_HEADER}, in milliseconds; without that header {WINDOW_MS_DEFAULT}), the method, path and query as "
        "sent, and the SHA-256 of the body in hexadecimal. Lines are joined by a line feed; none is at the end. Each "
        "signature counts once.",
    ),
}
_FOR_KEYS: Final = frozenset({Access.READ, Access.TRADE})
_KEY_OR_TOKEN: Final[list[dict[str, list[str]]]] = [{_BEARER: []}, {name: [] for name in _KEY_SCHEMES}]
_DESCRIPTION: Final = (
    "Every answer is an envelope: `success`, then `data` or `error`, and `meta`. Prices, quantities, fees and balances "
    "are decimal strings both ways. Enumerations are read in any letter case and answered in lower case. `error.code` "
    "is stable; `error.details` names the field and the bound.\n\n"
    "In a path a symbol is written `BTC-USDT`, `BTC%2FUSDT` or `BTC/USDT`; in bodies and parameters `BTC/USDT`, or "
    "`BTC-USDT`.\n\n"
    "Order ids grow with time. A `POST /api/v1/orders` may be repeated with the same `client_order_id`: the same order "
    "is answered with 200 and nothing is placed twice.\n\n"
    "Beside the calls below there is `GET /metrics`: counters and latencies of every process as Prometheus text.\n\n"
    "Error codes: " + ", ".join(f"`{code}` ({status})" for code, status in STATUS_OF_CODE.items()) + "."
)


def describe(
    *,
    answers: dict[int, type[msgspec.Struct]],
    tags: str,
    body: type[msgspec.Struct] | None = None,
    query: type[msgspec.Struct] | None = None,
    access: Access,
    weight: int = 1,
    cancels: bool = False,
    urgent: bool = False,
) -> Callable[[Handler], Handler]:
    """Say what a handler takes and gives, who may call it, and what it weighs (see ``access.Terms``).

    Without ``query`` it takes no parameters.
    """

    def mark(handler: Handler) -> Handler:
        for status, answer in answers.items():
            handler = document_response(answer, status)(handler)
        if body is not None:
            handler = document_request(body)(handler)
        if query is not None:
            handler = document_querystring(query)(handler)
        setattr(handler, _TAKES_QUERY, query is not None)
        setattr(handler, _BODY, body)
        handler = allow(access, weight=weight, cancels=cancels, urgent=urgent)(handler)
        if access is not Access.PUBLIC:
            handler = security_scheme(_KEY_OR_TOKEN if access in _FOR_KEYS else [{_BEARER: []}])(handler)
        return tag([tags])(handler)

    return mark


def takes_query(handler: Callable[..., Any]) -> bool:
    """Whether a handler reads query parameters, and so says itself which ones are wrong."""
    return bool(getattr(handler, _TAKES_QUERY, True))


def body_of(handler: Callable[..., Any]) -> type[msgspec.Struct] | None:
    """Say what body a handler takes; None: none."""
    return getattr(handler, _BODY, None)


def attach(app: Quart) -> OpenAPIProvider:
    """Join an app to its description; the description itself is made when it is first asked for."""
    extension = QuartSchema(
        openapi_path=None,
        redoc_ui_path=None,
        scalar_ui_path=None,
        swagger_ui_path=None,
        conversion_preference="msgspec",
        openapi_provider_class=_Provider,
        security_schemes={_BEARER: HttpSecurityScheme(scheme="bearer", bearer_format="JWT"), **_KEY_SCHEMES},
        info=Info(
            title="Trade engine",
            version=__version__,
            description=_DESCRIPTION,
            # A plain mapping: the class would also say that there is a url, null.
            license={"name": "Apache-2.0", "identifier": "Apache-2.0"},  # type: ignore[arg-type]
        ),
    )
    return _Provider(app, extension)


class _Provider(OpenAPIProvider):
    def build_paths(self, rule: Any) -> tuple[Schema, Schema]:
        """Add to each operation what every one of them may answer."""
        paths, components = super().build_paths(rule)
        error, error_components = self.build_response_object(ErrorAnswer, None)
        for operations in paths.values():
            for operation in operations.values():
                for parameter in operation.get("parameters", ()):
                    if parameter["in"] == "path":
                        _describe_path_parameter(parameter)
                operation["responses"] = {str(status): answer for status, answer in operation["responses"].items()}
                operation["responses"]["default"] = error
        return paths, components | error_components

    def build_response_object(self, model: Any, headers_model: Any) -> tuple[Schema, Schema]:
        """Refer to the answer's schema by name."""
        reference, components = _reference(model)
        assert headers_model is None
        content = {"application/json": {"schema": reference}}
        return {"description": inspect.getdoc(model), "content": content}, components

    def build_request_body(
        self,
        model: Any,
        source: DataSource,  # noqa: ARG002 - the base class passes it; every body here is JSON
    ) -> tuple[Schema, Schema]:
        """Refer to the request's schema by name."""
        reference, components = _reference(model)
        content = {"schema": reference} | ({"example": _EXAMPLES[model]} if model in _EXAMPLES else {})
        return {"required": True, "content": {"application/json": content}}, components

    def build_querystring_parameters(self, model: Any) -> tuple[list[Schema], Schema]:
        """Describe each field of a query struct as a parameter."""
        _, components = _reference(model)
        schema = components.pop(model.__name__)
        required = schema.get("required", [])
        parameters = [
            {"name": name, "in": "query", "required": name in required, "schema": _without_null(kind)}
            for name, kind in schema["properties"].items()
        ]
        return parameters, components


def _describe_path_parameter(parameter: Schema) -> None:
    """Say of a part of a path what its kind is; routes know only that it is text."""
    schema = _ecmascript(msgspec.json.schema(_PATH_PARAMETERS[parameter["name"]]))
    parameter["description"] = schema.pop("description")
    parameter["schema"] = schema


def _reference(model: Any) -> tuple[Schema, Schema]:
    (reference,), components = schema_components([model], ref_template=_REFERENCE)
    return reference, _ecmascript(dict(components))


def _ecmascript(part: Any) -> Any:
    r"""Write patterns as a schema's readers know them: their ``$`` is what Python calls ``\Z``."""
    if isinstance(part, dict):
        made = {name: _ecmascript(inner) for name, inner in part.items()}
        if isinstance(made.get("pattern"), str):
            made["pattern"] = made["pattern"].replace(r"\Z", "$")
        return made
    return [_ecmascript(inner) for inner in part] if isinstance(part, list) else part


def _without_null(schema: Schema) -> Schema:
    """Take null away: a query parameter can only be absent."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    return {**choices[0], **rest}
