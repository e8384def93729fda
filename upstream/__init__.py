"""Servers elsewhere that answer for a model, behind the engine's interface.

`UpstreamBackend` speaks to them as OpenAI's clients do: one event loop, in one thread, and one pool of connections
serve all of them, so that a request has no thread beside the one that serves its client.
"""
