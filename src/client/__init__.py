"""The client: the engine's HTTP calls and its streams for programs in Python, on trio.

It imports nothing else of this package and is imported by nothing that the engine needs: whatever it knows of the
engine is in the API's description. Start with ``Client`` for calls, ``Stream`` for what happens as it happens, and
``LocalBook`` for a book that follows the stream.
"""
