"""The settings of servers elsewhere: what they make, every mistake at once, and no secret in any of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import SettingsError, Upstream, load_settings
from settings.upstream_kinds import CAPABILITIES, KINDS

URL = "http://gpu1:8000/v1"
FULL = """
[[upstream]]
name = "big"
urls = ["http://gpu1:8000/v1/", "http://gpu2:8000/v1"]
model = "Qwen/Qwen2.5-72B-Instruct"
kind = "openai"
also = ["top_k"]
lacks = ["seed"]
key_file = "KEY"
vision = true
max_model_len = 1000
max_in_flight = 500
connect_timeout = 1
first_token_timeout = 2.5
idle_timeout = 3
timeout = 4
retries = 0
breaker_failures = 2
breaker_seconds = 5
probe_seconds = 0
price = "0.2/0.6"
"""


def upstreams(**environ: str) -> dict[str, Upstream]:
    return dict(load_settings(environ, None, lambda: False).model.upstreams)


def mistakes(**environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, None, lambda: False)
    return caught.value.mistakes


def test_without_them_checkpoints_answer() -> None:
    """Nothing is elsewhere by default."""
    assert upstreams() == {}


def test_urls_alone_are_enough() -> None:
    """For one model or both; the server calls it as we do unless told otherwise."""
    found = upstreams(VIBE_UPSTREAM=f"{URL}/, http://gpu2:8000/v1", VISION_UPSTREAM=URL, VISION_UPSTREAM_MODEL="org/v")
    assert (found["avibe"].urls, found["avibe"].model) == ((URL, "http://gpu2:8000/v1"), "avibe")
    assert (found["avision"].model, found["avision"].vision, found["avision"].kind) == ("org/v", True, "vllm")
    assert not found["avibe"].loads


@pytest.mark.parametrize("name", ["/srv/models/Qwen3-8B", "./Модели/Qwen 3", "~/m", "C:\\models\\m.gguf", "a" * 512])
def test_a_server_may_call_its_model_anything(tmp_path: Path, name: str) -> None:
    """`transformers serve` calls it by its path."""
    path = tmp_path / "upstreams.toml"
    path.write_text(f"[[upstream]]\nname = 'a'\nurls = '{URL}'\nmodel = '{name}'\n", encoding="utf-8")
    found = upstreams(UPSTREAMS_FILE=str(path), VIBE_UPSTREAM=URL, VIBE_UPSTREAM_MODEL=name)
    assert (found["a"].model, found["avibe"].model) == (name, name)


@pytest.mark.parametrize("name", ["a\nb", "a\x7f", "a\u2028b", "\ud800", "a" * 513])
def test_a_name_that_no_server_has_is_refused(name: str) -> None:
    """It has control characters, or no end."""
    (mistake,) = mistakes(VIBE_UPSTREAM=URL, VIBE_UPSTREAM_MODEL=name)
    assert mistake.startswith("VIBE_UPSTREAM_MODEL")


@pytest.mark.parametrize("name", ["", " a", "a\\tb", "\\u0000", "a" * 513])
def test_a_name_in_the_file_is_refused_as_well(tmp_path: Path, name: str) -> None:
    """By the same rule."""
    path = tmp_path / "upstreams.toml"
    path.write_text(f'[[upstream]]\nname = "a"\nurls = "{URL}"\nmodel = "{name}"\n')
    (mistake,) = mistakes(UPSTREAMS_FILE=str(path))
    assert "model: expected the name" in mistake


def test_a_file_names_further_models(tmp_path: Path) -> None:
    """With all that may be said of each; they have prices and threads of their own."""
    key = tmp_path / "key"
    key.write_text("a-secret-key\n")
    path = tmp_path / "upstreams.toml"
    path.write_text(FULL.replace("KEY", str(key)))
    settings = load_settings({"UPSTREAMS_FILE": str(path)}, None, lambda: False)
    one = settings.model.upstreams["big"]
    assert one.urls == (URL, "http://gpu2:8000/v1")
    assert one.takes == (KINDS["openai"] | {"top_k"}) - {"seed"}
    assert (one.key, one.price, one.extra, one.retries) == ("a-secret-key", (200_000, 600_000, 200_000), True, 0)
    assert settings.spending.prices == {"big": one.price}
    assert settings.server.threads == 3 * 192 + (500 - 192) + (64 + 16) + 32
    assert "a-secret-key" not in repr(settings)
    assert "a-secret-key" not in repr(one)


def test_an_entry_may_answer_for_a_model_of_the_service(tmp_path: Path) -> None:
    """Then it is no further model; what is set beside it counts."""
    path = tmp_path / "upstreams.toml"
    path.write_text(f'[[upstream]]\nname = "big"\nurls = "{URL}"\nmodel = "m"\n')
    found = upstreams(
        UPSTREAMS_FILE=str(path), VIBE_UPSTREAM="big", VIBE_UPSTREAM_ROLE="first", VIBE_UPSTREAM_KEY="k", DEVICE="cpu"
    )
    assert found.keys() == {"avibe"}
    assert (found["avibe"].name, found["avibe"].model, found["avibe"].role, found["avibe"].key) == (
        "avibe",
        "m",
        "first",
        "k",
    )


@pytest.mark.parametrize(
    "url",
    [
        "gpu1:8000/v1",
        "ftp://gpu1/v1",
        "http://user:word@gpu1/v1",  # pragma: allowlist secret
        "http://gpu1/v1?key=x",
        "http://gpu1/v1#x",
        f"{URL},{URL}",
    ],
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    """Credentials in it as well, which would be shown."""
    (mistake,) = mistakes(VIBE_UPSTREAM=url)
    assert mistake.startswith("VIBE_UPSTREAM")
    assert "expected base URLs" in mistake


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[upstream]\n", "expected TOML"),
        ("x = 1\n", "'x' is none of upstream"),
        ("upstream = 3\n", "tables [[upstream]]"),
        ('[[upstream]]\nname = "a"\nmodel = "m"\n', "urls: expected"),
        ('[[upstream]]\nname = "a b"\nurls = "http://x/v1"\nmodel = "m"\n', "name: expected"),
        ('[[upstream]]\nname = "avibe"\nurls = "http://x/v1"\nmodel = "m"\n', "not this service's own"),
        ('[[upstream]]\nname = "a"\nurls = []\nmodel = "m"\n', "urls: expected"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nkind = "x"\n', "kind: expected vllm or"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nretries = true\n', "retries: expected"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\ntimeout = nan\n', "timeout: expected"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nlacks = ["wings"]\n', "lacks: expected a list"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nkey_file = "/none"\n', "key_file: expected"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nprice = "much"\n', "price: expected"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nkey = "secret"\n', "'key' is none of"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nprice = 0.5\n', "price: expected"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nprice = ["1/2"]\n', "price: expected"),
        ('[[upstream]]\nname = "a"\nurls = [5]\nmodel = "m"\n', "urls: expected"),
        ('[[upstream]]\nname = "a"\nurls = [true, false]\nmodel = "m"\n', "urls: expected"),
        ('[[upstream]]\nname = "a"\nurls = [["http://x/v1"]]\nmodel = "m"\n', "urls: expected"),
        ('[[upstream]]\nname = "a"\nurls = {x = 1}\nmodel = "m"\n', "urls: expected"),
        ('[[upstream]]\nname = 5\nurls = "http://x/v1"\nmodel = 5\n', "name: expected"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nkind = ["vllm"]\n', "kind: expected vllm or"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\nca_file = 5\n', "ca_file: expected"),
        ('[[upstream]]\nname = "a"\nurls = "http://x/v1"\nmodel = "m"\ntimeout = 1979-05-27\n', "timeout: expected"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    """By the upstream and its key."""
    path = tmp_path / "upstreams.toml"
    path.write_text(text)
    assert any(said in mistake for mistake in mistakes(UPSTREAMS_FILE=str(path)))


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    """Of all upstreams, and of names that nothing has."""
    path = tmp_path / "upstreams.toml"
    path.write_text('[[upstream]]\nname = "a"\n\n[[upstream]]\nname = "b"\nurls = "x"\nmodel = "m"\n')
    found = mistakes(UPSTREAMS_FILE=str(path), VIBE_UPSTREAM="c", VISION_UPSTREAM_KEY="k")
    assert len(found) == 5
    assert any("VISION_UPSTREAM beside it" in one for one in found)


def test_versions_and_an_upstream_that_replaces_them_contradict_each_other() -> None:
    """The folders would never be loaded."""
    (mistake,) = mistakes(VIBE_UPSTREAM=URL, VIBE_MODELS="v1=/a,v2=/b")
    assert "VIBE_UPSTREAM_ROLE" in mistake


def test_names_elsewhere_may_have_aliases_and_prices(tmp_path: Path) -> None:
    """As the service's own names."""
    path = tmp_path / "upstreams.toml"
    path.write_text(f'[[upstream]]\nname = "big"\nurls = "{URL}"\nmodel = "m"\n')
    named = {"UPSTREAMS_FILE": str(path), "MODEL_ALIASES": "gpt-4=big", "PRICES": "big=1/2,avibe=3/4"}
    settings = load_settings(named, None, lambda: False)
    assert settings.model.model_aliases == (("gpt-4", "big"),)
    assert settings.spending.prices == {
        "big": (1_000_000, 2_000_000, 1_000_000),
        "avibe": (3_000_000, 4_000_000, 3_000_000),
    }
    path.write_text(path.read_text() + 'price = "5/6"\n')
    assert load_settings(named, None, lambda: False).spending.prices == settings.spending.prices
    (mistake,) = mistakes(UPSTREAMS_FILE=str(path), PRICES="bigger=1/2")
    assert "(avibe, avision, big), and not 'bigger'" in mistake


def test_the_document_has_the_table_of_capabilities() -> None:
    """docs/upstreams.md says of each kind what the code says."""
    text = (Path(__file__).parents[2] / "docs" / "upstreams.md").read_text()
    rows = [
        line.strip("| ").split("|") for line in text.splitlines() if line.startswith("| `") and line.count("|") == 9
    ]
    shown = {
        (name.strip(" `"), kind)
        for row in rows
        for name in row[0].split(",")
        for kind, mark in zip(KINDS, row[1:], strict=False)
        if mark.strip() == "+"
    }
    assert shown == {(name, kind) for kind, takes in KINDS.items() for name in takes}
    assert {name for name, _ in shown} == set(CAPABILITIES)
