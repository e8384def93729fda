"""The settings: sources, validation, error messages and masking of secrets."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st

from config import DEMO, SETTINGS, SettingsError, load_settings

KEY = "correct-horse-battery"
SERVER = "http://127.0.0.1:1/v1"


def load(env_file=None, has_gpu=lambda: False, **environ):
    return load_settings(environ, env_file, has_gpu)


def mistakes(env_file=None, **environ):
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, env_file, lambda: False)
    return caught.value.mistakes


@pytest.fixture
def env_file(tmp_path):
    """Write a `.env` and return its path."""

    def write(text):
        path = tmp_path / "test.env"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_are_the_documented_ones():
    """Without any setting, the values are the documented defaults."""
    settings = load()
    assert (settings.environment, settings.production) == ("development", False)
    assert (settings.server.host, settings.server.port, settings.server.workers) == ("0.0.0.0", 8085, 1)
    assert settings.model.vibe_model_dir == Path("/mnt/data/avito/vibe/models")
    assert settings.model.vibe_tokenizer_dir == Path("/mnt/data/avito/vibe/tokenizers")
    assert settings.model.vision_model_dir == Path("/mnt/data/avito/vision/models")
    assert (settings.model.device, settings.model.dtype, settings.model.cuda_visible_devices) == ("auto", None, None)
    generation = settings.generation
    assert (generation.max_tokens_avibe, generation.max_tokens_avision) == (256, 200)
    assert (generation.max_tokens_limit, generation.max_model_len) == (2048, 4096)
    assert (generation.temperature, generation.max_prompt_length) == (0.7, 2000)
    limits = settings.limits
    assert (limits.rate_limit_per_minute, limits.rate_limit_per_hour, limits.rate_limit_storage) == (10, 100, "memory")
    engine = settings.engine
    assert (engine.max_num_seqs, engine.max_waiting) == (64, 128)
    assert (engine.queue_timeout, engine.request_timeout, engine.stall_seconds) == (30, 300, 20)
    assert (settings.server.drain_seconds, settings.server.send_timeout, settings.server.trusted_proxies) == (60, 30, 0)
    assert (settings.security.allowed_origins, settings.security.admin_key) == (("*",), None)
    assert (settings.logging.log_level, settings.logging.log_file, settings.logging.log_format) == (
        "INFO",
        None,
        "text",
    )


def test_threads_are_computed_from_what_the_models_hold():
    """Without THREADS there is one for each request of both models and each batch, and 32 more."""
    assert load().server.threads == 2 * (64 + 128) + (64 + 16) + 32
    assert load(MAX_NUM_SEQS="8", MAX_WAITING="4").server.threads == 2 * (8 + 4) + (8 + 16) + 32
    assert load(THREADS="500").server.threads == 500


def test_threads_that_are_set_need_none_for_batches():
    """As many as the models hold and 32 are enough."""
    assert load(THREADS="416").server.threads == 416
    assert mistakes(THREADS="415")


def test_too_few_threads_are_refused_with_the_arithmetic():
    """The message shows the sum and the settings in it."""
    (mistake,) = mistakes(THREADS="100", MAX_NUM_SEQS="64")
    assert mistake.startswith(
        "THREADS=100: expected at least 416 = 2 models x (MAX_NUM_SEQS 64 + MAX_WAITING 128) + 32"
    )


@pytest.mark.parametrize(
    ("devices", "has_gpu", "sequences"),
    [
        ({}, True, 256),
        ({}, False, 64),
        ({"DEVICE": "cpu"}, True, 64),
        ({"DEVICE": "cuda"}, False, 256),
        ({"DEVICE": "cpu", "VISION_DEVICE": "cuda:1"}, False, 256),
        ({"VIBE_DEVICE": "cpu", "VISION_DEVICE": "cpu"}, True, 64),
    ],
)
def test_the_number_of_sequences_follows_the_device(devices, has_gpu, sequences):
    """More on CUDA, where one of the models is; the threads follow, and a number that is set is kept."""
    settings = load(has_gpu=lambda: has_gpu, **devices)
    assert settings.engine.max_num_seqs == sequences
    assert settings.server.threads == 2 * (sequences + 128) + (sequences + 16) + 32
    assert load(has_gpu=lambda: has_gpu, MAX_NUM_SEQS="7", **devices).engine.max_num_seqs == 7


@pytest.mark.parametrize(
    ("text", "tokens", "shown"),
    [
        ("100000", {"avibe": 100_000, "avision": 100_000}, "100000"),
        ("avision=4096, avibe=8192", {"avision": 4096, "avibe": 8192}, "avision=4096,avibe=8192"),
        ("avibe=8192,avision=8192", {"avibe": 8192, "avision": 8192}, "8192"),
        ("avision=4096", {"avision": 4096}, "avision=4096"),
        ("", None, ""),
    ],
)
def test_the_cache_has_one_figure_or_one_each(text, tokens, shown):
    """Without one for a model, its size is computed."""
    settings = load(KV_CACHE_TOKENS=text)
    (setting,) = (setting for setting in SETTINGS if setting.name == "KV_CACHE_TOKENS")
    assert settings.engine.kv_cache_tokens == tokens
    assert settings.show(setting) == shown


def test_all_mistakes_are_reported_at_once():
    """Each message has the value and what was expected."""
    found = mistakes(PORT="70000", TEMPERATURE="nan", DEVICE="gpu", PREFIX_CACHE="maybe", WORKERS="4")
    assert found[:4] == (
        "PORT='70000': expected a whole number from 1 to 65535",
        "DEVICE='gpu': expected auto or cuda or cpu",
        "TEMPERATURE='nan': expected a number from 0 to 2",
        "PREFIX_CACHE='maybe': expected true or false",
    )
    assert found[4].startswith("WORKERS=4: expected 1, because each worker would load the weights again")


@pytest.mark.parametrize(
    ("upstreams", "reason"),
    [
        ({}, "load the weights again"),
        ({"VIBE_UPSTREAM": SERVER}, "load the weights again"),
        ({"VIBE_UPSTREAM": SERVER, "VISION_UPSTREAM": SERVER}, "have limits, streams and stored responses of its own"),
        (
            {"VIBE_UPSTREAM": SERVER, "VISION_UPSTREAM": SERVER, "VISION_UPSTREAM_ROLE": "first"},
            "load the weights again",
        ),
    ],
)
def test_why_there_is_one_worker_depends_on_where_the_models_are(upstreams, reason):
    """No weights are loaded where servers elsewhere answer for every model."""
    (found,) = mistakes(WORKERS="2", **upstreams)
    assert found.startswith(f"WORKERS=2: expected 1, because each worker would {reason}; to serve more, ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", "staging"),
        ("HOST", "127.0.0.1:80"),
        ("HOST", "999.1.1.1"),
        ("HOST", "-x"),
        ("PORT", "0"),
        ("PORT", "8_085"),
        ("PORT", "٨٠٨٥"),
        ("TRUSTED_PROXIES", "-1"),
        ("CUDA_VISIBLE_DEVICES", "-1"),
        ("CUDA_VISIBLE_DEVICES", "0,,1"),
        ("DTYPE", "int8"),
        ("VIBE_DTYPE", "fp16"),
        ("MAX_TOKENS_LIMIT", "0"),
        ("MAX_MODEL_LEN", "15"),
        ("KV_CACHE_TOKENS", "15"),
        ("MAX_TOKENS_AVISION", "0"),
        ("MAX_NUM_BATCHED_TOKENS", "-1"),
        ("MAX_NUM_SEQS", "0"),
        ("KV_CACHE_TOKENS", "0"),
        ("KV_CACHE_TOKENS", "many"),
        ("KV_CACHE_TOKENS", "gpt=4096"),
        ("KV_CACHE_TOKENS", "avibe=4096,4096"),
        ("KV_CACHE_TOKENS", "avibe=4096=1"),
        ("KV_CACHE_TOKENS", "avibe=4096,avibe=8192"),
        ("VIBE_DEVICE", "auto"),
        ("VISION_DEVICE", "cuda:-1"),
        ("VISION_DEVICE", "1"),
        ("TEMPERATURE", "2.1"),
        ("TEMPERATURE", "inf"),
        ("QUEUE_TIMEOUT", "0"),
        ("RATE_LIMIT_STORAGE", "redis:6379"),
        ("RATE_LIMIT_STORAGE", "redis://"),
        ("RATE_LIMIT_STORAGE", "http://host"),
        ("RATE_LIMIT_STORAGE", "redis://host:port"),
        ("ALLOWED_ORIGINS", "example.com"),
        ("ALLOWED_ORIGINS", "https://example.com/path"),
        ("ALLOWED_ORIGINS", "*,https://example.com"),
        ("ALLOWED_ORIGINS", ","),
        ("ADMIN_KEY", "short"),
        ("ADMIN_KEY", "with a space in the middle"),
        ("LOG_LEVEL", "TRACE"),
        ("LOG_FORMAT", "xml"),
        ("VIBE_TOKENIZER_DIR", "demo"),
        ("AUTH", "keyz"),
        ("AUTH", "keys,open"),
        ("AUTH", "open,jwt"),
        ("AUTH", "keys,"),
    ],
)
def test_wrong_value_is_refused_by_name(name, value):
    """An invalid value is one mistake that begins with the setting's name."""
    (mistake,) = mistakes(**{name: value})
    assert mistake.startswith(f"{name}=")
    assert "expected" in mistake


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("ENVIRONMENT", "PRODUCTION", "environment", "production"),
        ("HOST", "::1", "server.host", "::1"),
        ("HOST", "gpu-1.example.com", "server.host", "gpu-1.example.com"),
        ("CUDA_VISIBLE_DEVICES", "0, 1", "model.cuda_visible_devices", "0,1"),
        ("CUDA_VISIBLE_DEVICES", "GPU-8f1c", "model.cuda_visible_devices", "GPU-8f1c"),
        ("CUDA_VISIBLE_DEVICES", "MIG-GPU-8f1c/1/0", "model.cuda_visible_devices", "MIG-GPU-8f1c/1/0"),
        ("DTYPE", "BFloat16", "model.dtype", "bfloat16"),
        ("VIBE_DEVICE", "CPU", "model.vibe_device", "cpu"),
        ("VISION_DEVICE", "cuda:1", "model.vision_device", "cuda:1"),
        ("VIBE_MODEL_DIR", "demo", "model.vibe_model_dir", DEMO),
        ("RATE_LIMIT_PER_MINUTE", "0", "limits.rate_limit_per_minute", 0),
        ("RATE_LIMIT_STORAGE", "rediss://u:p@h:6379/0", "limits.rate_limit_storage", "rediss://u:p@h:6379/0"),
        ("MAX_NUM_BATCHED_TOKENS", "64", "engine.max_num_batched_tokens", 64),
        ("CUDA_GRAPHS", "off", "engine.cuda_graphs", False),
        ("RELOAD_RESERVE", "1", "engine.reload_reserve", True),
        (
            "ALLOWED_ORIGINS",
            "https://a.ru, http://b:3000",
            "security.allowed_origins",
            ("https://a.ru", "http://b:3000"),
        ),
        ("LOG_LEVEL", "debug", "logging.log_level", "DEBUG"),
        ("PORT", " 9000 ", "server.port", 9000),
        ("PORT", "", "server.port", 8085),
    ],
)
def test_right_value_is_taken(name, value, attribute, expected):
    """Words are case-insensitive, and an empty value counts as unset."""
    found = load(**{name: value})
    for part in attribute.split("."):
        found = getattr(found, part)
    assert found == expected


def test_a_price_of_a_version_that_there_is_none_is_a_mistake():
    """Its tokens would cost what others do, in silence."""
    (mistake,) = mistakes(PRICES="avibe=1/2,avibe@v3=3/4", VIBE_MODELS="v1=/a,v2=/b")
    assert mistake == (
        "PRICES: expected the names of models and versions (avibe, avibe@v1, avibe@v2, avision), and not 'avibe@v3'"
    )
    assert load(PRICES="avibe@v2=3/4", VIBE_MODELS="v1=/a,v2=/b").spending.prices == {
        "avibe@v2": (3_000_000, 4_000_000, 3_000_000)
    }


def test_a_price_of_no_model_is_a_mistake():
    """It would leave the tokens of the one that was meant free in silence."""
    (mistake,) = mistakes(PRICES="avibes=1/2")
    assert mistake == "PRICES: expected the names of models and versions (avibe, avision), and not 'avibes'"


def test_settings_that_hold_tables_are_equal_and_hashable():
    """What is made of settings is kept by them, so that any of them has to be a key."""
    tables = {"KV_CACHE_TOKENS": "avibe=4096,avision=8192", "PRICES": "avibe=1/2,avision=3/4"}
    assert hash(load(**tables)) == hash(load(**tables))
    assert load(**tables) == load(**tables)


LENGTHS = ("MAX_TOKENS_AVIBE", "MAX_TOKENS_AVISION", "MAX_TOKENS_LIMIT", "MAX_MODEL_LEN")


def lengths(settings):
    """Return the lengths in force, from the shortest to the longest."""
    return tuple(getattr(settings.generation, name.lower()) for name in LENGTHS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"MAX_MODEL_LEN": 1024}, (256, 200, 1023, 1024)),
        ({"MAX_MODEL_LEN": 2048}, (256, 200, 2047, 2048)),
        ({"MAX_MODEL_LEN": 2049}, (256, 200, 2048, 2049)),
        ({"MAX_MODEL_LEN": 256}, (128, 128, 255, 256)),
        ({"MAX_MODEL_LEN": 128}, (64, 64, 127, 128)),
        ({"MAX_MODEL_LEN": 16}, (8, 8, 15, 16)),
        ({"MAX_MODEL_LEN": 32_768}, (256, 200, 2048, 32_768)),
        ({"MAX_TOKENS_LIMIT": 100}, (100, 100, 100, 4096)),
        ({"MAX_TOKENS_LIMIT": 4095}, (256, 200, 4095, 4096)),
        ({"MAX_TOKENS_LIMIT": 4096}, (256, 200, 4096, 6144)),
        ({"MAX_TOKENS_LIMIT": 8000}, (256, 200, 8000, 10_048)),
        ({"MAX_TOKENS_AVIBE": 3000}, (3000, 200, 3000, 4096)),
        ({"MAX_TOKENS_AVISION": 5000}, (256, 5000, 5000, 7048)),
        ({"MAX_TOKENS_AVIBE": 512, "MAX_MODEL_LEN": 600}, (512, 200, 599, 600)),
        ({"MAX_TOKENS_AVIBE": 3000, "MAX_TOKENS_LIMIT": 3500}, (3000, 200, 3500, 4096)),
        ({"KV_CACHE_TOKENS": 2048}, (256, 200, 2047, 2048)),
        ({"KV_CACHE_TOKENS": "avibe=8192,avision=1024"}, (256, 200, 1023, 1024)),
        ({"KV_CACHE_TOKENS": 100_000}, (256, 200, 2048, 4096)),
        ({"KV_CACHE_TOKENS": 16}, (8, 8, 15, 16)),
        ({"MAX_TOKENS_AVIBE": 20, "MAX_MODEL_LEN": 40}, (20, 20, 39, 40)),
        ({"MAX_TOKENS_AVIBE": 4032}, (4032, 200, 4032, 4096)),
        ({"MAX_TOKENS_AVIBE": 4033}, (4033, 200, 4033, 6081)),
        ({"MAX_TOKENS_AVIBE": 4090, "MAX_TOKENS_LIMIT": 4095}, (4090, 200, 4095, 6143)),
        ({"MAX_TOKENS_AVIBE": 1984, "MAX_MODEL_LEN": 2048}, (1984, 200, 2047, 2048)),
    ],
)
def test_a_default_gives_way_to_what_is_set(given, expected):
    """Each of the lengths starts alone, and what is set stays."""
    settings = load(**{name: str(value) for name, value in given.items()})
    assert lengths(settings) == expected


@configured(deadline=None)
@given(st.dictionaries(st.sampled_from(LENGTHS), st.integers(16, 100_000), min_size=1))
def test_only_lengths_that_are_set_contradict_each_other(given):
    """Whatever is set alone starts; a refusal names two settings, and both of them were set."""
    texts = {name: str(value) for name, value in given.items()}
    try:
        found = lengths(load(**texts))
    except SettingsError as error:
        for mistake in error.mistakes:
            named = {name for name in LENGTHS if name in mistake}
            assert len(named) == 2
            assert named <= given.keys()
    else:
        avibe, avision, limit, context = found
        assert max(avibe, avision) <= limit < context
        assert max(avibe, avision) <= context - min(64, context // 2)
        assert all(found[LENGTHS.index(name)] == value for name, value in given.items())


@pytest.mark.parametrize("name", ["MAX_TOKENS_AVIBE", "MAX_TOKENS_AVISION"])
def test_a_default_of_answers_that_leaves_a_prompt_no_room_stops_the_start(name):
    """Otherwise every request that names no length would be refused."""
    (mistake,) = mistakes(**{name: "2040", "MAX_MODEL_LEN": "2048"})
    assert (
        mistake == f"{name}=2040: expected at most 1984, because MAX_MODEL_LEN, which is 2048, holds the prompt as well"
    )


@pytest.mark.parametrize(
    ("context", "tokens"), [(4096, 4000), (4064, 4000), (4063, 2031), (2048, 1024), (128, 64), (64, 32), (1, 1)]
)
@pytest.mark.parametrize("vision", [True, False])
def test_a_default_of_answers_gives_way_to_the_context_of_the_checkpoint(vision, context, tokens):
    """A model that is loaded may have less than MAX_MODEL_LEN."""
    generation = load(MAX_TOKENS_AVIBE="4000", MAX_TOKENS_AVISION="4000").generation
    assert generation.default_tokens(vision, context) == tokens


def test_fewer_tokens_a_step_are_fewer_sequences():
    """MAX_NUM_SEQS gives way to MAX_NUM_BATCHED_TOKENS, and the threads follow; both set contradict each other."""
    settings = load(MAX_NUM_BATCHED_TOKENS="32")
    assert (settings.engine.max_num_seqs, settings.server.threads) == (32, 2 * (32 + 128) + (32 + 16) + 32)
    assert load(MAX_NUM_BATCHED_TOKENS="300", has_gpu=lambda: True).engine.max_num_seqs == 256
    (mistake,) = mistakes(MAX_NUM_BATCHED_TOKENS="32", MAX_NUM_SEQS="33")
    assert "MAX_NUM_BATCHED_TOKENS=32" in mistake
    assert "MAX_NUM_SEQS, which is 33" in mistake


def test_settings_are_frozen():
    """Settings cannot be changed after the start."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().server.port = 1


def test_environment_wins_over_the_file(env_file):
    """The environment, then `.env`, then the default; an empty variable does not hide the file's."""
    path = env_file("PORT=9001\nHOST=127.0.0.1\nLOG_LEVEL=DEBUG\n")
    settings = load(path, PORT="9002", HOST="")
    assert (settings.server.port, settings.server.host, settings.logging.log_level) == (9002, "127.0.0.1", "DEBUG")
    assert settings.sources == {"PORT": "environment", "HOST": ".env", "LOG_LEVEL": ".env"}


def test_secret_file_stands_between_environment_and_env_file(env_file, tmp_path):
    """ADMIN_KEY in the environment wins over ADMIN_KEY_FILE, which wins over ADMIN_KEY in `.env`."""
    (tmp_path / "key").write_text("key-from-its-own-file\n")
    path = env_file(f"ADMIN_KEY=key-from-the-env-file\nADMIN_KEY_FILE={tmp_path / 'key'}\n")
    assert load(path).security.admin_key == "key-from-its-own-file"
    assert load(path, ADMIN_KEY=KEY).security.admin_key == KEY
    assert load(env_file("ADMIN_KEY=key-from-the-env-file\n")).security.admin_key == "key-from-the-env-file"


@pytest.mark.parametrize(
    ("unusable", "others"),
    [
        ({"JWT_SECRET_KEY": "short"}, {"AUTH": "jwt"}),  # pragma: allowlist secret
        ({"JWT_SECRET_KEY_FILE": "/nothing/here"}, {"AUTH": "keys,jwt"}),
        ({"PRICES": "cheap"}, {"BUDGET_PER_DAY": "5"}),
        ({"VIBE_MODELS": "v1"}, {"VIBE_SPLIT": "v2=10"}),
        ({"VIBE_MODELS": "v1"}, {"MODEL_ALIASES": "gpt-4o=avibe@v2"}),
        ({"VISION_MODELS": "v1"}, {"PRICES": "avision@v2=1/2"}),
        ({"MAX_NUM_SEQS": "four"}, {"THREADS": "40"}),
        ({"DEVICE": "gpu"}, {"THREADS": "40"}),
        ({"MAX_MODEL_LEN": "1k"}, {"MAX_TOKENS_LIMIT": "100000"}),
        ({"MAX_TOKENS_LIMIT": "many"}, {"MAX_TOKENS_AVIBE": "100000"}),
    ],
)
def test_a_setting_that_cannot_be_read_is_one_mistake(unusable, others):
    """What another one is set to beside it may well be right, and is not judged by a default that nobody chose."""
    (mistake,) = mistakes(**unusable, **others)
    assert mistake.startswith(f"{next(iter(unusable))}=")


def test_a_mistake_beside_one_that_cannot_be_read_is_told_too():
    """Where it is one whatever that was to be."""
    assert [found.partition("=")[0] for found in mistakes(MAX_NUM_SEQS="four", WORKERS="2")] == [
        "MAX_NUM_SEQS",
        "WORKERS",
    ]


def test_a_file_of_keys_that_is_not_there_is_warned_of(tmp_path):
    """By its setting; the command that makes its first line needs these settings, so they are no mistake."""
    (tmp_path / "keys").write_text("")
    for name, auth in (("API_KEYS_FILE", "keys"), ("JWT_JWKS_FILE", "jwt")):
        for path in (tmp_path / "nothing", tmp_path):
            (warning,) = load(AUTH=auth, **{name: str(path)}).warnings
            assert warning.startswith(f"{name}={str(path)!r}: expected a file")
        assert load(AUTH=auth, **{name: str(tmp_path / "keys")}).warnings == ()


def test_secret_file_that_cannot_be_used_is_a_mistake(tmp_path):
    """A missing, empty or binary file of a secret stops the start and is named."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (("missing", "No such file"), ("empty", "it is empty"), ("binary", "not UTF-8")):
        (mistake,) = mistakes(ADMIN_KEY_FILE=str(tmp_path / name))
        assert mistake.startswith("ADMIN_KEY_FILE=")
        assert reason in mistake


def test_only_secrets_have_files(tmp_path):
    """PORT_FILE has no effect, since a port is not a secret."""
    (tmp_path / "port").write_text("9000")
    assert load(PORT_FILE=str(tmp_path / "port")).server.port == 8085


def test_unknown_name_in_the_file_is_warned_about_with_the_nearest(env_file):
    """A misspelt name has no effect, and the warning suggests the nearest one."""
    path = env_file("RATE_LIMIT_PER_MINUT=1\nrate_limit_per_hour=1\nSOMETHING_ELSE=1\nTORCH_INDEX_URL=x\n")
    misspelt, other, lower = sorted(load(path).warnings)
    assert misspelt.startswith("RATE_LIMIT_PER_MINUT in")
    assert misspelt.endswith("did you mean RATE_LIMIT_PER_MINUTE?")
    assert other == f"SOMETHING_ELSE in {path} is not a setting and has no effect"
    assert lower.endswith("did you mean RATE_LIMIT_PER_HOUR?")


@pytest.mark.parametrize("name", ["HOSTT", "PORTS", "APORT"])
def test_a_short_name_in_the_environment_is_anothers(name):
    """Many programs have one that differs from ours in a letter."""
    assert load(**{name: "x"}).warnings == ()


def test_the_tokenizer_of_the_demo_fits_its_model():
    """Both may be named."""
    assert load(VIBE_MODEL_DIR="demo", VIBE_TOKENIZER_DIR="demo").model.vibe_tokenizer_dir == DEMO


def test_a_password_of_an_address_without_a_scheme_is_not_shown():
    """What is wrong with it is all the more to be told."""
    (mistake,) = mistakes(OTEL_EXPORTER_OTLP_ENDPOINT="me:pa55word@host:4318")
    assert mistake.startswith("OTEL_EXPORTER_OTLP_ENDPOINT='********@host:4318': ")


def test_file_that_cannot_be_read_is_a_mistake(env_file, tmp_path):
    """An invalid line, a missing file and a binary file are each reported."""
    assert mistakes(env_file("PORT=1\nnonsense\n")) == (f"{tmp_path / 'test.env'}, line 2: expected NAME=value",)
    (missing,) = mistakes(tmp_path / "missing.env")
    assert missing.startswith("ENV_FILE=")
    (tmp_path / "binary.env").write_bytes(b"PORT=\xff\n")
    (binary,) = mistakes(tmp_path / "binary.env")
    assert "not UTF-8" in binary


def test_file_interpolates_nothing(env_file):
    """A dollar sign is a dollar sign, as it is for systemd and Docker."""
    assert load(env_file("ADMIN_KEY=sixteen-letters-${HOME}\n")).security.admin_key == "sixteen-letters-${HOME}"


def test_log_file_must_be_writable(tmp_path):
    """A missing folder, or a folder instead of the file, stops the start; the check creates no file."""
    assert mistakes(LOG_FILE=str(tmp_path / "missing" / "log"))[0].startswith("LOG_FILE=")
    assert mistakes(LOG_FILE=str(tmp_path))[0].startswith("LOG_FILE=")
    assert mistakes(LOG_FILE=str(tmp_path / ("x" * 300)))[0].startswith("LOG_FILE=")
    assert load(LOG_FILE=str(tmp_path / "log")).logging.log_file == tmp_path / "log"
    assert not (tmp_path / "log").exists()


def test_repr_shows_no_secret():
    """Settings can be logged: keys and credentials are masked, all else is shown."""
    shown = repr(load(ADMIN_KEY=KEY, RATE_LIMIT_STORAGE="redis://user:pa55@host:6379/1?password=pa55", PORT="9000"))
    assert KEY not in shown
    assert "pa55" not in shown
    assert "redis://********@host:6379/1?********" in shown
    assert "port='9000'" in shown


@given(st.text(st.characters(codec="utf-8", exclude_characters="@/?#"), min_size=4).filter(lambda s: s.strip() == s))
@pytest.mark.slow
def test_no_credential_is_ever_shown(word):
    """No error message contains the text at the position of a password."""
    urls = (
        f"redis://user{word}zz:{word}zz@host",  # pragma: allowlist secret
        f"rediss://{word}zz@host:bad",
        f"x://a:{word}zz@b?p={word}zz",  # pragma: allowlist secret
    )
    for url in urls:
        try:
            shown = repr(load(RATE_LIMIT_STORAGE=url, ADMIN_KEY=""))
        except SettingsError as error:
            shown = str(error)
        assert f"{word}zz" not in shown


@pytest.mark.parametrize(
    "name", ["BUDGET_PER_DAY", "BUDGET_PER_MONTH", "DEFAULT_MONEY_PER_DAY", "DEFAULT_MONEY_PER_MONTH"]
)
def test_a_budget_of_money_needs_prices(name):
    """Where nothing has a price, a budget would never be spent, and nobody would know."""
    for prices in ({}, {"PRICES": "0/0"}):
        (mistake,) = mistakes(**{name: "2.50"}, **prices)
        assert mistake == f"{name}=2.5: expected PRICES beside it; without prices nothing costs anything"
    assert load(**{name: "2.50"}, PRICES="avibe=0/0.1").spending.prices == {"avibe": (0, 100_000, 0)}


@pytest.mark.parametrize(
    "environ",
    [
        {"VIBE_UPSTREAM": "http://me:hunter2@gpu1:8000/v1"},  # pragma: allowlist secret
        {"VIBE_UPSTREAM": "http://gpu1:8000/v1,http://me:hunter2@gpu2:8000/v1"},  # pragma: allowlist secret
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:hunter2@collector:4318/ v1"},  # pragma: allowlist secret
        {"DATABASE_URL": "hunter2"},
        {"DATABASE_URL": "mysql://me:hunter2@host/name"},  # pragma: allowlist secret
        {"DATABASE_URL": "postgresql:/me:hunter2@host/name"},  # pragma: allowlist secret
        {"RATE_LIMIT_STORAGE": "hunter2"},
        {"RATE_LIMIT_STORAGE": "http://:hunter2@host"},  # pragma: allowlist secret
        {"BUDGET_WEBHOOK_URL": "https:/hooks/hunter2"},
        {"BUDGET_WEBHOOK_URL": "hooks.example.com/hunter2"},
        {"DATABASE_URL": "postgresql://me:hunter2/rest@host/name"},  # pragma: allowlist secret
        {"DATABASE_URL": "postgresql://me:hunter2?rest@host/name"},  # pragma: allowlist secret
        {"DATABASE_URL": "postgresql://me:hunter2#rest@host/name"},  # pragma: allowlist secret
        {"DATABASE_URL": "postgresql://me:hunter2@rest@host/name"},  # pragma: allowlist secret
        {"DATABASE_URL": "postgresql://host:bad/name?password=1@hunter2"},  # pragma: allowlist secret
        {"BUDGET_WEBHOOK_URL": "https://[hook/hunter2"},
        {"RATE_LIMIT_STORAGE": "redis://:hunter2@[host"},  # pragma: allowlist secret
    ],
)
def test_no_mistake_tells_a_secret(environ):
    """Also where a password stands in a setting that has none, or in place of the whole value."""
    with pytest.raises(SettingsError) as refused:
        load_settings(environ, None, lambda: False)
    (name,) = environ
    assert any(mistake.startswith(name) for mistake in refused.value.mistakes)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.secret], ids=lambda one: one.name)
@pytest.mark.parametrize("text", ["x://[", "x://h:bad", "x://u:p@[::1", "x://u:p]@h", "://", "x://h\u2100/", "x://?@["])
def test_no_text_of_a_secret_ends_in_a_traceback(setting, text):
    """Whatever it is, it can be said without the secret."""
    assert text not in setting.safe(text) or "@" not in text


@pytest.mark.parametrize(
    "rest",
    [
        "u:p/a@h/x",
        "u:p#a@h/x",
        "u:p?a@h/x",
        "u:p[@h/x",
        "u:p@a@h/x",
        "u:12?a@h/x",
        "u:12/a@h/x",
        "h:bad/x",
        "h:0/x",
        "h:99999/x",
        "h1:1,h2:2/x",
        "[::1/x",
        "u@h/a#b",
        "h/x?options=a#b",
    ],
)
def test_a_database_that_programs_read_differently_is_refused(rest):
    """What SQLAlchemy refuses, and where a backup would read another password, host, port or name."""
    (mistake,) = mistakes(DATABASE_URL=f"postgresql://{rest}")
    assert mistake.endswith("percent-encoded (/ is %2F)")


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/x",
        "u:p%2F%3F%23%40%5B%25@h:5432/x",
        "u:p:q@h/x",
        "ü:слово@H/x",
        "u@[::1]:5/a%23b",
        "/x?host=/run/postgresql",
        "/x?host=a:1&host=b:2",
        "h/x?password=a@b&options=-c%20a%3D1",
    ],
)
def test_a_database_that_all_read_alike_is_taken(rest):
    """Percent-encoded letters, addresses, sockets and options."""
    assert load(DATABASE_URL=f"postgresql://{rest}").data.database_url == f"postgresql://{rest}"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
def test_a_database_in_memory_is_refused(url):
    """Each thread would have one of its own, without tables."""
    assert mistakes(DATABASE_URL=url)[0].startswith("DATABASE_URL=")
