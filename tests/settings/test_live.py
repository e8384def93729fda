"""Secrets in files are read again while the service runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from app_production import create_app
from checks.outside import check_database
from config import SETTINGS, LiveSettings, live_settings, load_settings
from edge.services import services
from routes.services import services as route_services
from tests.fakes import FakeMachine, scripted_models

FIRST, SECOND = "the-first-secret-of-0123456789abcdef", "the-other-secret-of-0123456789abcdef"
VALUES = {
    "RATE_LIMIT_STORAGE": ("redis://:one@127.0.0.1:1/0", "redis://:two@127.0.0.1:1/0"),
    "DATABASE_URL": (
        "postgresql://me:one@127.0.0.1:1/x",  # pragma: allowlist secret
        "postgresql://me:two@127.0.0.1:1/x",  # pragma: allowlist secret
    ),
    "OTEL_EXPORTER_OTLP_HEADERS": ("authorization=one", "authorization=two"),
    "BUDGET_WEBHOOK_URL": ("https://one.example/", "https://two.example/"),
}


def written(file: Path, text: str) -> None:
    """Write a file as those do who renew secrets: another one in its place."""
    new = file.with_name("new")
    new.write_text(f"{text}\n")
    new.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    written(file, FIRST)
    return file


def live(**environ: str) -> LiveSettings:
    return live_settings(load_settings(environ, None, lambda: False))


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS if setting.secret])
def test_every_secret_may_stand_in_a_file_and_is_read_again(tmp_path: Path, name: str) -> None:
    """Whoever asked to be told is given the new value, once."""
    first, second = VALUES.get(name, (FIRST, SECOND))
    file, told = tmp_path / "secret", list[object]()
    written(file, first)
    beside = {"OTEL": ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")}
    beside |= {one: (f"{one}_UPSTREAM", "http://127.0.0.1:1/v1") for one in ("VIBE", "VISION")}
    more = dict([beside[name.partition("_")[0]]] if name.partition("_")[0] in beside else [])
    watched = live(**{f"{name}_FILE": str(file)}, **more)
    watched.on_change(name, told.append)
    watched.refresh()
    assert told == []
    written(file, second)
    watched.refresh()
    watched.refresh()
    (setting,) = (one for one in SETTINGS if one.name == name)
    assert told == [setting.kind.parse(second)]
    assert getattr(getattr(watched.current, setting.group), name.lower()) == told[0]


@pytest.mark.parametrize("text", ["", "short", None])
def test_an_unusable_file_leaves_the_secret(file: Path, caplog: pytest.LogCaptureFixture, text: str | None) -> None:
    """One that is being written, emptied or gone: it is told once, without what is in it; and again the next time."""
    watched = live(ADMIN_KEY_FILE=str(file))
    if text is None:
        file.unlink()
    else:
        written(file, text)
    for _ in range(3):
        watched.refresh()
    assert watched.current.security.admin_key == FIRST
    (line,) = [record.getMessage() for record in caplog.records]
    assert ("ADMIN_KEY_FILE" in line, "short" in line) == (True, False)
    caplog.set_level(logging.INFO)
    written(file, SECOND)
    watched.refresh()
    assert watched.current.security.admin_key == SECOND
    caplog.clear()
    written(file, "")
    watched.refresh()
    assert watched.current.security.admin_key == SECOND
    assert "ADMIN_KEY_FILE has no usable secret any more" in caplog.text


def test_a_secret_in_the_environment_is_not_looked_for() -> None:
    """Nothing is watched where there are no files."""
    assert not live(ADMIN_KEY=FIRST).watches


def test_another_admin_key_counts_from_then_on(file: Path, state_dir: Path) -> None:
    """The former one is refused, and sessions that it signed have ended."""
    settings = load_settings({"ADMIN_KEY_FILE": str(file), "STATE_DIR": str(state_dir)}, None)
    app = create_app(settings, scripted_models(), FakeMachine())
    client = app.test_client()

    def status(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return client.get("/api/admin/audit", headers=headers, environ_base={"REMOTE_ADDR": "203.0.113.9"}).status_code

    signed = route_services(app).conversations.signed("text", [])
    assert (status(FIRST), status(SECOND)) == (200, 401)
    written(file, SECOND)
    services(app).live_settings.refresh()
    assert (status(FIRST), status(SECOND)) == (401, 200)
    assert route_services(app).conversations.signed("text", []).rpartition(".")[2] != signed.rpartition(".")[2]


def test_a_process_made_anew_has_the_secrets_of_now(file: Path, state_dir: Path) -> None:
    """Its settings are those of its master's start, which a renewed secret is not among; the former one is refused."""
    settings = load_settings({"ADMIN_KEY_FILE": str(file), "STATE_DIR": str(state_dir)}, None)
    written(file, SECOND)
    client = create_app(settings, scripted_models(), FakeMachine()).test_client()
    asked = {"environ_base": {"REMOTE_ADDR": "203.0.113.9"}}
    for key, status in ((FIRST, 401), (SECOND, 200)):
        assert client.get("/api/admin/audit", headers={"Authorization": f"Bearer {key}"}, **asked).status_code == status


def test_a_process_made_anew_opens_the_database_of_now(tmp_path: Path) -> None:
    """It starts where the password of its master's start is no longer good."""
    file = tmp_path / "url"
    written(file, "sqlite:////proc/none/at/all.db")
    settings = load_settings({"AUTH": "keys", "DATABASE_URL_FILE": str(file)}, None)
    written(file, f"sqlite:///{tmp_path}/a.db")
    assert len(services(create_app(settings, scripted_models(), FakeMachine())).key_store or "") == 0


@pytest.mark.parametrize("place", ["setting", "file"])
def test_a_process_made_anew_asks_servers_elsewhere_with_the_key_of_now(tmp_path: Path, place: str) -> None:
    """Wherever the key stands."""
    file, servers = tmp_path / "key", tmp_path / "servers.toml"
    written(file, "first-key")
    entry = '[[upstream]]\nname = "vibe"\nurls = "http://127.0.0.1:1/v1"\nmodel = "m"\n'
    servers.write_text(entry + (f'key_file = "{file}"\n' if place == "file" else ""))
    environ = {"UPSTREAMS_FILE": str(servers), "VIBE_UPSTREAM": "vibe"}
    watched = live(**environ, **({"VIBE_UPSTREAM_KEY_FILE": str(file)} if place == "setting" else {}))
    assert watched.current.model.upstreams["avibe"].key == "first-key"
    written(file, "second-key")
    watched.refresh()
    assert watched.current.model.upstreams["avibe"].key == "second-key"


def test_another_secret_verifies_other_tokens(file: Path) -> None:
    """Tokens of the former one count no longer."""
    from tests.keys.issuer import token

    settings = load_settings({"AUTH": "jwt", "JWT_SECRET_KEY_FILE": str(file)}, None)
    app = create_app(settings, scripted_models(), FakeMachine())

    def status(secret: str) -> int:
        headers = {"Authorization": f"Bearer {token(key=secret)}"}
        return app.test_client().get("/v1/models", headers=headers).status_code

    assert (status(FIRST), status(SECOND)) == (200, 401)
    written(file, SECOND)
    services(app).live_settings.refresh()
    assert (status(FIRST), status(SECOND)) == (401, 200)


def test_another_key_of_a_server_elsewhere_is_sent_from_the_next_request_on(tmp_path: Path) -> None:
    """Of a further model and of one that a model names, but not where a setting has the key; never an unusable one."""
    entry = '[[upstream]]\nname = "{0}"\nurls = "http://127.0.0.1:1/v1"\nmodel = "m"\nkey_file = "{1}/{0}"\n'
    names = ("more", "vibe", "vision")
    for name in names:
        written(tmp_path / name, "first-key")
    (tmp_path / "servers.toml").write_text("".join(entry.format(name, tmp_path) for name in names))
    environ = {"UPSTREAMS_FILE": str(tmp_path / "servers.toml"), "VIBE_UPSTREAM": "vibe", "VISION_UPSTREAM": "vision"}
    settings = load_settings({**environ, "VISION_UPSTREAM_KEY": "a-key-of-its-own"}, None, lambda: False)
    keys: dict[str, list[str]] = {"more": [], "avibe": [], "avision": []}
    models = scripted_models()
    models.upstreams = {name: SimpleNamespace(use_key=told.append) for name, told in keys.items()}  # type: ignore[misc]
    app = create_app(settings, models, FakeMachine())
    assert services(app).live_settings.watches
    for text in ("first-key", "no key", "second-key", "second-key"):
        for name in names:
            written(tmp_path / name, text)
        services(app).live_settings.refresh()
    assert keys == {"more": ["second-key"], "avibe": ["second-key"], "avision": []}


def test_another_database_is_used_from_the_next_use_on(tmp_path: Path) -> None:
    """As with another password of the same."""
    file, folders = tmp_path / "url", [tmp_path / "one", tmp_path / "two"]
    written(file, f"sqlite:///{folders[0]}/a.db")
    app = create_app(load_settings({"DATABASE_URL_FILE": str(file)}, None), scripted_models(), FakeMachine())
    database = route_services(app).database
    assert str(folders[0]) in str(database.engine().url)
    written(file, f"sqlite:///{folders[1]}/a.db")
    services(app).live_settings.refresh()
    assert str(folders[1]) in str(database.engine().url)
    assert str(folders[1]) in check_database(services(app).settings).detail


@pytest.mark.parametrize(("before", "after"), [("redis", "memory"), ("memory", "redis")])
def test_a_change_between_a_shared_storage_and_the_memory_keeps_no_other_secret_back(
    tmp_path: Path, state_dir: Path, caplog: pytest.LogCaptureFixture, before: str, after: str
) -> None:
    """It counts from the next start on: the log says that once, and not that it is in force."""
    caplog.set_level("INFO", "avito_ai.settings")
    storages = {"redis": VALUES["RATE_LIMIT_STORAGE"][0], "memory": "memory"}
    storage, admin = tmp_path / "storage", tmp_path / "admin"
    written(storage, storages[before])
    written(admin, FIRST)
    environ = {"RATE_LIMIT_STORAGE_FILE": str(storage), "ADMIN_KEY_FILE": str(admin), "STATE_DIR": str(state_dir)}
    app = create_app(load_settings(environ, None), scripted_models(), FakeMachine())
    written(storage, storages[after])
    written(admin, SECOND)
    for _ in range(2):
        services(app).live_settings.refresh()
    assert services(app).settings.security.admin_key == SECOND
    told = [one for one in caplog.messages if one.startswith("RATE_LIMIT_STORAGE_FILE")]
    assert told == ["RATE_LIMIT_STORAGE_FILE has changed: that counts from the next start on."]


def test_a_mounted_secret_that_is_swapped_is_noticed(tmp_path: Path) -> None:
    """Kubernetes swaps a link to a folder."""
    for name, text in (("one", FIRST), ("two", SECOND)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(text)
        os.utime(tmp_path / name / "key", (1, 1))
    (tmp_path / "data").symlink_to("one")
    watched = live(ADMIN_KEY_FILE=str(tmp_path / "data/key"))
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(tmp_path / "data")
    watched.refresh()
    assert watched.current.security.admin_key == SECOND
