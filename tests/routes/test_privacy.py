"""The page tells who can read what its visitors send."""

from __future__ import annotations

import pytest

from app_production import create_app
from config import load_settings
from models import ModelSet
from routes.locale import LOCALES
from tests.fakes import ScriptedBackend


class Servers:
    """Of an upstream; nothing is known of them."""

    def reports(self):
        return []

    def use_key(self, key):
        """Nobody is asked."""


def page(environ, upstreams=(), **request):
    """Return the page with both forms, as a visitor gets it."""
    models = ModelSet(
        {name: ScriptedBackend(name) for name in ("avibe", "avision")},
        upstreams={name: Servers() for name in upstreams},
    )
    return create_app(load_settings(environ, None), models).test_client().get("/", **request).text


@pytest.mark.parametrize("language", LOCALES)
def test_a_visitor_reads_what_becomes_of_a_question(environ, language):
    """In the language of the page, before anything is sent; nothing is said that is not so here."""
    texts, shown = LOCALES[language].texts["privacy"], page(environ, headers={"Accept-Language": language})
    assert all(texts[key] in shown for key in ("heading", "not_kept", "counted", "browser"))
    assert texts["in_the_clear"] not in shown
    assert texts["elsewhere"].partition("{")[0] not in shown


@pytest.mark.parametrize(("upstreams", "named"), [(["avision"], "Avision"), (["avision", "avibe"], "Avibe, Avision")])
def test_a_server_elsewhere_is_told(environ, upstreams, named):
    """With the models that it answers for; what it keeps is not promised."""
    assert f"Another server answers for {named}:" in page(environ, upstreams)


@pytest.mark.parametrize(
    ("address", "proxies", "scheme", "told"),
    [
        ("127.0.0.1", "0", None, False),
        ("192.168.1.7", "0", None, True),
        ("192.168.1.7", "0", "https", True),
        ("192.168.1.7", "1", "https", False),
        ("127.0.0.1", "1", "http", True),
    ],
)
def test_a_page_without_encryption_says_so(environ, address, proxies, scheme, told):
    """Except on the machine itself; what a proxy says of it counts where proxies are trusted."""
    headers = {"X-Forwarded-Proto": scheme, "X-Forwarded-For": "203.0.113.9"} if scheme else {}
    environ = environ | {"TRUSTED_PROXIES": proxies}
    shown = page(environ, headers=headers, environ_base={"REMOTE_ADDR": address})
    assert (LOCALES["en"].texts["privacy"]["in_the_clear"] in shown) is told
