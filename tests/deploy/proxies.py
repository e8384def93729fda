"""Real proxies with the configurations of this repository, and clients that connect over TLS.

Only addresses, paths and, where a test says so, times are put in; everything else is what an operator runs.
"""

import http.client
import json
import os
import re
import socket
import ssl
import subprocess

from tests.e2e.gunicorn_process import PATIENCE, free_port
from tests.system_process import ROOT, SystemProcess
from tests.system_programs import program

DOMAIN = "ai.example"


def make_certificate(folder):
    """Write a certificate for loopback, its key, and both in one file."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:{DOMAIN},IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", *curve, *names, *files], capture_output=True, check=True, timeout=600)
    (folder / "both.pem").write_text(certificate.read_text() + key.read_text())
    return certificate, key


def render(*arguments, **environ):
    """Run deploy/nginx/render.sh."""
    command = ["bash", str(ROOT / "deploy/nginx/render.sh"), *map(str, arguments)]
    environ = {"PATH": f"{os.environ['PATH']}:/usr/sbin", **environ}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=600)


def edited(text, edits):
    """Replace words; each must occur."""
    for old, new in edits.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


class Proxy(SystemProcess):
    """A proxy in front of some ports. edits: replacements in its configuration."""

    def __init__(self, folder, ports, edits=None):
        super().__init__(folder, free_port())
        self.http_port = free_port()
        self.certificate, self.key = make_certificate(folder)
        self.context = ssl.create_default_context(cafile=str(self.certificate))
        self.begin(list(ports), edits or {})

    def connect(self, source="127.0.0.1", timeout=PATIENCE):
        """Return a client connection from this loopback address."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=self.context, timeout=timeout, source_address=(source, 0)
        )

    def raw(self, sent=b"", source="127.0.0.1"):
        """Return a bare TLS connection on which these bytes were sent."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE, source_address=(source, 0))
        connection = self.context.wrap_socket(plain, server_hostname="127.0.0.1")
        connection.sendall(sent)
        return connection

    def ask(self, path, body=None, source="127.0.0.1", method=None, headers=None):
        """Return the response of one request and its body; a body other than bytes is sent as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"} | headers
        connection = self.connect(source)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()


class Nginx(Proxy):
    """nginx with the rendered site."""

    name = "nginx"

    def begin(self, ports, edits):
        ports_of_proxy = {"HTTP_PORT": str(self.http_port), "HTTPS_PORT": str(self.port)}
        rendered = render("site", DOMAIN, self.certificate, self.key, *ports, **ports_of_proxy)
        assert rendered.returncode == 0, rendered.stderr
        text = re.sub(r"listen (\d)", r"listen 127.0.0.1:\1", rendered.stdout.replace("[::]", "[::1]"))
        folders = {"/var/log/nginx/": f"{self.folder}/", "/var/www/avito-ai": f"{self.folder}/www"}
        (self.folder / "site.conf").write_text(edited(text, folders | edits))
        self.configuration = self.write_main()
        self.start(program("nginx"), "-c", str(self.configuration))

    def write_main(self):
        """Write what Debian's nginx.conf does around a site."""
        owner = "user root;\n" if os.getuid() == 0 else ""
        temporary = "\n".join(
            f"  {kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = self.folder / "nginx.conf"
        path.write_text(
            f"{owner}daemon off;\nworker_processes 2;\npid {self.folder}/pid;\nerror_log stderr notice;\n"
            f"events {{ worker_connections 512; }}\nhttp {{\n{temporary}\n  include {self.folder}/site.conf;\n}}\n"
        )
        return path


class HAProxy(Proxy):
    """HAProxy with the whole configuration of this repository, for one to three ports."""

    name = "haproxy"

    def begin(self, ports, edits):
        text = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
        self.configuration = self.folder / "haproxy.cfg"
        # Only root can switch the user, and the tests may run as another one.
        self.configuration.write_text(edited(text, {"    user haproxy\n    group haproxy\n": ""} | edits))
        self.environ = {
            "CERTIFICATE": str(self.folder / "both.pem"),
            "HTTP_BIND": f"127.0.0.1:{self.http_port}",
            "HTTPS_BIND": f"127.0.0.1:{self.port}",
            **{f"COPY_{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, start=1)},
        }
        self.start(program("haproxy"), "-db", "-f", str(self.configuration), **self.environ)
