"""Receivers of alerts for tests: a mail server and a web server on loopback that record what they receive."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import contextmanager
from email import message_from_string, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(server):
    """Serve in a thread until the context ends; yield the port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class Answering(BaseHTTPRequestHandler):
    """A handler with one fixed response and no log."""

    def ok(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


class _Mail(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class Mailbox:
    """The received mails in order, and the logins."""

    def __init__(self):
        self.mails = []
        self.logins = []

    def subjects(self):
        return [mail["Subject"] for mail in list(self.mails)]

    def text(self, subject):
        """Return the text of the first mail with that subject."""
        mail = next(mail for mail in self.mails if mail["Subject"] == subject)
        return mail.get_body(("plain",)).get_content()


@contextmanager
def mail_server():
    """Run a mail server without TLS; yield its mailbox and its port."""
    mailbox = Mailbox()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.say("220 sink")
            while line := self.rfile.readline().decode().strip():
                self.answer(line)
                if line == "QUIT":
                    return

        def answer(self, line):
            verb = line.split()[0].upper()
            if verb == "EHLO":
                self.say("250-sink")
                self.say("250 AUTH PLAIN")
            elif verb == "AUTH":
                mailbox.logins.append(line.split()[-1])
                self.say("235 ok")
            elif verb == "DATA":
                self.say("354 go on")
                mailbox.mails.append(message_from_string(self.data(), policy=policy.default))
                self.say("250 ok")
            else:
                self.say("221 bye" if verb == "QUIT" else "250 ok")

        def data(self):
            lines = []
            while (line := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                lines.append(line)
            return "\n".join(lines)

        def say(self, line):
            self.wfile.write(f"{line}\r\n".encode())

    with serving(_Mail(("127.0.0.1", 0), Handler)) as port:
        yield mailbox, port


@contextmanager
def web_hooks():
    """Run a web server that accepts JSON; yield the received bodies by path, and its port."""
    came = {}

    class Handler(Answering):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            came.setdefault(self.path, []).append(body)
            self.ok()

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield came, port
