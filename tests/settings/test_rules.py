"""The warnings of a service that whoever reaches it may use, and of settings that do nothing."""

import pytest

from config import load_settings
from settings.rules import is_loopback

WORDS = "may use the service: AUTH=keys asks each client for a key, see docs/keys.md"


def warnings(**environ):
    return load_settings({"ENVIRONMENT": "production"} | environ, None, lambda: False).warnings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "ai.example", "fe80::1"])
def test_a_service_open_to_a_network_is_warned_of_once(host):
    """With the port, the setting and the page that close it; a wildcard, an address and a name are alike."""
    (warning,) = warnings(HOST=host, PORT="9000")
    assert warning == f"Everybody who reaches port 9000 of this machine {WORDS}"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST"])
def test_a_service_for_this_machine_is_not(host):
    """Loopback has many names."""
    assert is_loopback(host)
    assert warnings(HOST=host) == ()


def test_a_proxy_opens_it_too():
    """Behind a proxy loopback is as open as the proxy."""
    (warning,) = warnings(HOST="127.0.0.1", TRUSTED_PROXIES="2")
    assert warning == f"Everybody whom the proxy lets through (TRUSTED_PROXIES=2) {WORDS}"


@pytest.mark.parametrize("auth", ["keys", "jwt", "keys,jwt"])
def test_keys_close_it(auth):
    """Any way in that is asked for counts."""
    tokens = {"JWT_SECRET_KEY": "a" * 40, "JWT_AUDIENCE": "us"} if "jwt" in auth else {}
    assert warnings(AUTH=auth, **tokens) == ()


def test_development_is_not_warned_of():
    """There the address is printed, and deploy.sh listens on loopback."""
    assert warnings(ENVIRONMENT="development") == ()


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"JWT_SECRET_KEY": "a" * 40}, ["JWT_SECRET_KEY"]),
        ({"JWT_SECRET_KEY": "a" * 40, "AUTH": "keys"}, ["JWT_SECRET_KEY"]),
        ({"JWT_JWKS_FILE": "/dev/null", "AUTH": "keys"}, ["JWT_JWKS_FILE"]),
        ({"JWT_SECRET_KEY": "a" * 40, "AUTH": "jwt"}, []),
        ({"BUDGET_WEBHOOK_URL": "https://hooks.example/"}, ["BUDGET_WEBHOOK_URL"]),
        ({"BUDGET_WEBHOOK_URL": "https://hooks.example/", "AUTH": "keys"}, []),
        ({"BUDGET_WEBHOOK_URL": "https://hooks.example/", "DEFAULT_TOKENS_PER_DAY": "9"}, []),
        ({"BUDGET_WEBHOOK_URL": "https://hooks.example/", "BUDGET_PER_DAY": "9", "PRICES": "1/2"}, []),
        ({"BUDGET_WEBHOOK_URL": "https://hooks.example/", "DEFAULT_TOKENS_PER_MINUTE": "9"}, ["BUDGET_WEBHOOK_URL"]),
    ],
)
def test_a_setting_that_does_nothing_is_warned_of(environ, names):
    """Whoever sets it believes that it bounds or tells something."""
    found = [one for one in warnings(HOST="127.0.0.1", **environ) if "has no effect" in one]
    assert [one.partition(" ")[0] for one in found] == names
