"""Small servers that say which of them answered, and count what they answered in metrics of the service's names."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FIRST = 0.2  # seconds to the first token that a healthy server reports


class Numbered:
    """A server that answers with its number. failing: generations end in 500; first: seconds to a first token."""

    def __init__(self, number, failing=False, first=FIRST):
        self.number, self.failing, self.first, self.count = number, failing, first, 0
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.respond(200, outer.metrics() if self.path == "/metrics" else str(number))

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    outer.count += 1
                self.respond(500 if outer.failing else 200, str(number))

            def respond(self, status, text):
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.thread.join(60)
        self.server.server_close()

    def metrics(self):
        """Return the counters in Prometheus' text format."""
        status = "internal_error" if self.failing else "success"
        buckets = "".join(
            f'avito_ai_time_to_first_token_seconds_bucket{{le="{bound}",model="avibe"}} '
            f"{self.count if self.first <= float(bound) else 0}\n"
            for bound in ("0.1", "0.25", "0.5", "1.0", "+Inf")
        )
        return f'avito_ai_requests_total{{model="avibe",protocol="chat",status="{status}"}} {self.count}\n{buckets}'
