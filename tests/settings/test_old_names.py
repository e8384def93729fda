"""Settings under the names of older guides: each becomes the setting of ours, and is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import Settings, load_settings


def load(env_file: Path | None = None, **environ: str) -> Settings:
    return load_settings(environ, env_file, lambda: False)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"REDIS_URL": "redis://cache:6380/3"}, "redis://cache:6380/3"),
        ({"REDIS_HOST": "cache"}, "redis://cache:6379/0"),
        ({"REDIS_HOST": "cache", "REDIS_PORT": "7000", "REDIS_DB": "4"}, "redis://cache:7000/4"),
        (
            {"REDIS_HOST": "cache", "REDIS_PASSWORD": "p@:/ß"},  # pragma: allowlist secret
            "redis://:p%40%3A%2F%C3%9F@cache:6379/0",
        ),
        ({"REDIS_HOST": "::1", "REDIS_USERNAME": "me", "REDIS_SSL": "true"}, "rediss://me:@[::1]:6379/0"),
        ({"REDIS_HOST": "redis", "REDIS_PORT": "tcp://10.0.0.1:6379"}, "redis://redis:6379/0"),
        ({"RATE_LIMIT_STORAGE": "redis"}, "redis://127.0.0.1:6379/0"),
        ({"RATE_LIMIT_STORAGE": "Redis", "REDIS_PASSWORD": "abc"}, "redis://:abc@127.0.0.1:6379/0"),
        ({"RATE_LIMIT_STORAGE": "redis", "REDIS_URL": "rediss://cache"}, "rediss://cache"),
    ],
)
def test_redis_by_its_parts_is_the_storage(given: dict[str, str], url: str) -> None:
    """The URL that the parts make, and a sentence that names each of them, and no secret."""
    settings = load(**given)
    assert settings.limits.rate_limit_storage == url
    (warning,) = settings.warnings
    assert "RATE_LIMIT_STORAGE" in warning
    assert all(name in warning or "://" in given["REDIS_PORT"] for name in given)
    assert "p@" not in warning


def test_old_names_are_found_in_every_source(tmp_path: Path) -> None:
    """In `.env` and in files of secrets, as settings are."""
    (tmp_path / "password").write_text("from-a-file\n")
    (tmp_path / ".env").write_text(f"REDIS_HOST=cache\nREDIS_PASSWORD_FILE={tmp_path}/password\nDEBUG=1\n")
    settings = load(tmp_path / ".env")
    assert settings.limits.rate_limit_storage == "redis://:from-a-file@cache:6379/0"
    assert settings.logging.log_level == "DEBUG"
    assert len(settings.warnings) == 2


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"RATE_LIMIT_STORAGE": "memory", "REDIS_URL": "redis://a/0"}, ["REDIS_URL"]),
        ({"LOG_LEVEL": "ERROR", "DEBUG": "true"}, ["DEBUG", "LOG_LEVEL"]),
        ({"DEBUG": "app:*"}, ["DEBUG"]),
        ({"REDIS_PASSWORD": "abc"}, ["REDIS_PASSWORD", "REDIS_HOST"]),
    ],
)
def test_what_is_set_by_its_own_name_stays(given: dict[str, str], names: list[str]) -> None:
    """The old name has no effect then, which is told."""
    settings = load(**given)
    assert settings.limits.rate_limit_storage == "memory"
    assert settings.logging.log_level == given.get("LOG_LEVEL", "INFO")
    (warning,) = settings.warnings
    assert "no effect" in warning
    assert all(name in warning for name in names)


@pytest.mark.parametrize("given", [{"DEBUG": "false"}, {"DEBUG": "0"}, {"REDIS_PORT": "tcp://10.0.0.1:6379"}])
def test_what_means_nothing_is_not_told(given: dict[str, str]) -> None:
    """Debugging switched off, and the address of a service that Kubernetes gives every container."""
    assert load(**given).warnings == ()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TEMPRATURE", "TEMPERATURE"),
        ("RATE_LIMIT_PER_MIN", "RATE_LIMIT_PER_MINUTE"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("admin_key", "ADMIN_KEY"),
        ("AVIBE_MODEL_DIR", "VIBE_MODEL_DIR"),
        ("ADMIN_KEYFILE", "ADMIN_KEY_FILE"),
    ],
)
def test_a_misspelt_variable_is_told(name: str, meant: str) -> None:
    """In the environment of the process as in `.env`, with the name that was meant and without the value."""
    (warning,) = load(**{name: "a-value"}).warnings
    assert warning == f"{name} in the environment is not a setting and has no effect; did you mean {meant}?"


def test_other_programs_variables_are_none_of_ours() -> None:
    """Nothing is said of what shells, systemd, Kubernetes, NVIDIA's runtime and collectors set."""
    names = (
        "PATH HOME HOSTNAME LOGNAME PWD USER SHELL TERM LANG LC_ALL TZ EDITOR MAIL DISPLAY INVOCATION_ID "
        "STATE_DIRECTORY LOGS_DIRECTORY CACHE_DIRECTORY RUNTIME_DIRECTORY NOTIFY_SOCKET WATCHDOG_USEC KUBERNETES_PORT "
        "NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES HIP_VISIBLE_DEVICES OTEL_TRACES_SAMPLER REDIS_SERVICE_HOST "
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT AVITO_AI_PORT AVITO_AI_SERVICE_PORT OMP_NUM_THREADS PYTHONUNBUFFERED"
    )
    assert load(**dict.fromkeys(names.split(), "1")).warnings == ()


def test_postgres_as_hosts_of_databases_spell_it() -> None:
    """`postgres://` is PostgreSQL too."""
    url = load(DATABASE_URL="postgres://me@db/name").data.database_url
    assert url == "postgresql://me@db/name"
