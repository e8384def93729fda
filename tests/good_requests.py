"""The addresses of the route table, and for each a request that it answers well."""

from edge.route_table import ROUTES
from tests.fakes import image_bytes, multipart

TEXT, BATCH = "/api/v1/text/generate", "/api/v1/text/batch"
GENERATIONS = sorted(name.split()[1] for name, row in ROUTES.items() if row.model)

# A request that each route answers well; a new route that reads a body needs one here.
UPLOAD = multipart([("prompt", "Hello"), ("image", (image_bytes(), "a.png"))])
GOOD = {
    "/avibe": {"data": {"prompt": "Hello"}},
    "/avision": UPLOAD,
    "/language": {"data": {"language": "ru", "page": "/"}},
    "/status/sign-in": {"data": {"key": "a-key-of-an-operator"}},
    TEXT: {"json": {"prompt": "Hello"}},
    "/api/v1/image/analyze": UPLOAD,
    "/v1/chat/completions": {"json": {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}]}},
    "/v1/completions": {"json": {"model": "avibe", "prompt": "Hello"}},
    BATCH: {"json": {"prompts": ["Hello"]}},
}


def good_request(path):
    """Return a request that the route answers well."""
    return GOOD[path]


def real_path(name):
    """Return an address that a route of the table answers."""
    return name.split()[1].replace("<path:filename>", "style.css").replace("<path:model_id>", "avibe")


def call(client, name, **extra):
    """Make a good request to a route of the table."""
    options = good_request(name.split()[1]) if ROUTES[name].bodies else {}
    return client.open(real_path(name), method=name.split()[0], buffered=True, **options, **extra)
