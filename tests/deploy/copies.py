"""Three copies of the service with their limits in one Redis, and clients that send requests without a pause."""

import json
import threading
from contextlib import ExitStack

from tests.e2e.gunicorn_process import PATIENCE, GunicornProcess, until
from tests.fakes import image_bytes, multipart
from tests.system_process import Redis

TEXT, VISION, CHAT = "/api/v1/text/generate", "/api/v1/image/analyze", "/v1/chat/completions"
LIMIT = 20
ANSWER = "one two three"


class Copies(ExitStack):
    """The copies by number; each can be stopped and restarted on its port."""

    def __init__(self, folder, count=3):
        super().__init__()
        self.folder = folder
        try:
            self.redis = self.enter_context(Redis(folder / "redis"))
            self.running = [self.start() for _ in range(count)]
            until(lambda: all(is_ready(copy) for copy in self.running), patience=3 * PATIENCE)
        except BaseException:
            self.close()
            raise

    @property
    def ports(self):
        return [copy.port for copy in self.running]

    def start(self, loaded=True, **settings):
        """Start another copy; loaded: its models are ready at once."""
        folder = self.folder / f"copy-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        if loaded:
            (folder / "load").touch()
        limits = {"RATE_LIMIT_PER_MINUTE": str(LIMIT), "RATE_LIMIT_STORAGE": self.redis.url}
        settings = {"TRUSTED_PROXIES": "1", "DRAIN_DELAY": "3", **limits, **settings}
        return self.enter_context(GunicornProcess(folder, app="tests.e2e.paced_app:app", **settings))


def is_ready(copy):
    """True once this copy is ready."""
    try:
        return copy.get("/api/health/ready", timeout=2)[0] == 200
    except OSError:
        return False


def form():
    """Return body and headers of an image that is larger than a proxy's buffers."""
    noise = image_bytes(size=(400, 300), kind="BMP")
    sent = multipart([("prompt", "What?"), ("image", (noise, "a.bmp"))])
    return sent["data"], {"Content-Type": sent["content_type"]}


class Traffic:
    """Clients of many addresses that request texts, images and streams until they are stopped."""

    def __init__(self, proxy, clients=6):
        self.proxy = proxy
        self.done, self.failed = [], []
        self._stop = threading.Event()
        self._picture = form()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def goes_on(self, more):
        """Wait until this many more requests have been answered, or one has failed."""
        wanted = len(self.done) + more
        until(lambda: len(self.done) >= wanted or self.failed, patience=3 * PATIENCE)

    def _run(self, client):
        asks = (self._text, self._stream, self._upload)
        number = 0
        while not self._stop.is_set():
            number += 1
            # No address comes near its limit.
            source = f"127.{1 + client}.{number // (LIMIT - 1) % 250}.{1 + number % 250}"
            self._count(asks[(client + number) % 3], source)

    def _count(self, ask, source):
        try:
            response, text = ask(source)
        except Exception as error:
            self.failed.append((ask.__name__, repr(error)))
            return
        whole = response.status == 200 and all(word in text for word in ANSWER.split())
        (self.done if whole else self.failed).append((ask.__name__, response.status, text[:200]))

    def _text(self, source):
        response, body = self.proxy.ask(TEXT, {"prompt": "Hello"}, source)
        return response, body.decode()

    def _stream(self, source):
        chat = {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        response, body = self.proxy.ask(CHAT, chat, source)
        assert response.status != 200 or body.endswith(b"data: [DONE]\n\n"), "the stream was cut"
        return response, body.decode()

    def _upload(self, source):
        body, headers = self._picture
        response, answer = self.proxy.ask(VISION, body, source, headers=headers)
        return response, json.dumps(json.loads(answer))
