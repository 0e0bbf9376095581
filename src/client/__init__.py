"""The client: the engine's HTTP calls and its streams for programs in Python, on trio.

It imports nothing else of this package and is imported by nothing that the engine needs: whatever it knows of the
engine is in the API's description. Start with ``Client`` for calls, ``Stream`` for what happens as it happens, and
``LocalBook`` for a book that follows the stream.
"""

from tradeengine.client.book import LocalBook
from tradeengine.client.book_view import BookView
from tradeengine.client.credentials import ApiKey, Ed25519Key
from tradeengine.client.errors import ApiError, ClientError, Gap, NoAnswer, StreamClosed
from tradeengine.client.orders import LocalOrders, OpenOrder
from tradeengine.client.pages import Pages
from tradeengine.client.rest import Client
from tradeengine.client.stream import Stream

__all__ = [
    "ApiError",
    "ApiKey",
    "BookView",
    "Client",
    "ClientError",
    "Ed25519Key",
    "Gap",
    "LocalBook",
    "LocalOrders",
    "NoAnswer",
    "OpenOrder",
    "Pages",
    "Stream",
    "StreamClosed",
]
