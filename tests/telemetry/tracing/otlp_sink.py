"""A trace collector for tests: it accepts OTLP/HTTP on a free local port and records the spans."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.gunicorn_process import until


class OtlpSink:
    """status: of its responses; hold: an event to wait for before each response."""

    def __init__(self):
        self.status = 200
        self.hold = None
        self.requests, self.paths, self.headers = [], [], []
        self.address = ""

    def spans(self, amount):
        """Wait for this many spans; return lists of (resource, span) by name."""
        until(lambda: len(self._all()) >= amount)
        found = {}
        for resource, span in self._all():
            found.setdefault(span.name, []).append((resource, span))
        return found

    def _all(self):
        return [
            (resource.resource, span)
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def attributes(holder):
    """Return the attributes of a span or a resource as a dictionary."""
    return {item.key: _value(item.value) for item in holder.attributes}


def _value(value):
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def otlp_sink():
    """Run a sink until the context ends."""
    sink = OtlpSink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if sink.hold is not None:
                sink.hold.wait()
            sink.paths.append(self.path)
            sink.headers.append(dict(self.headers))
            if sink.status == 200:
                sink.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(sink.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        if sink.hold is not None:
            sink.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(60)
