"""Streams of the page that their client reads again after a reload, or stops: see `resumable`."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from edge import turns
from edge.errors import NotFound
from edge.request_state import request_state
from engine.errors import Message
from routes.generation import KEEP_ALIVE_SECONDS
from routes.response_models import StoppedStream
from routes.resumable import Reader, Stream
from routes.services import services
from routes.sse import EventStream

streams = Blueprint("streams", __name__, url_prefix="/api/v1/streams")

ID = "X-Stream-Id"
UNKNOWN = Message("stream_unknown", "There is no stream of this id that can be read again; it may have ended.")


@streams.get("/<stream_id>")
def read(stream_id: str) -> Response:
    """Read a stream again from its beginning, for a minute after its connection was lost."""
    turns.leave()  # it waits until another reader has left
    found = services().streams.take(request_state().account.id, stream_id)
    if found is None:
        raise NotFound(UNKNOWN)
    return response_of(*found)


@streams.delete("/<stream_id>")
def stop(stream_id: str) -> Response:
    """Stop a stream, and generate no more of its answer."""
    if not services().streams.stop(request_state().account.id, stream_id):
        raise NotFound(UNKNOWN)
    return jsonify(StoppedStream(success=True))


def response_of(stream: Stream, reader: Reader) -> Response:
    """Return the response to the current request that is this reading of a stream."""
    kept = services().streams
    release = services().client_watch.watch(request.environ, lambda: kept.interrupt(stream, reader))

    def leave() -> None:
        release()
        kept.leave(stream, reader)

    response = EventStream(kept.read(stream, reader), leave, stream.source, KEEP_ALIVE_SECONDS).response()
    response.headers[ID] = stream.id
    return response
