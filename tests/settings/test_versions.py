"""Versions of models, their shares and others' names for them: what is accepted, and what is told at the start."""

import pytest

from config import SettingsError, load_settings
from settings.versions import count_of, full_names

BASE = {"VIBE_MODELS": "v1=demo,v2=/models/two"}


def mistakes(**environ):
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, None)
    return caught.value.mistakes


def test_versions_have_full_names_and_the_first_is_the_default():
    """The default answers to the model's own name and to its full one."""
    model = load_settings(BASE, None).model
    names = full_names(model)
    assert (names["avibe"], names["avibe@v1"], names["avibe@v2"]) == ("avibe", "avibe", "avibe@v2")
    assert names["AvitoTech/avision"] == "avision"
    assert count_of(model) == 3


def test_threads_count_every_version():
    """The default grows with the versions, and too few are refused with the arithmetic."""
    few = {"MAX_NUM_SEQS": "4", "MAX_WAITING": "6"}
    assert load_settings(few, None).server.threads == 2 * 10 + (4 + 16) + 32
    assert load_settings(BASE | few, None).server.threads == 3 * 10 + (4 + 16) + 32
    (mistake,) = mistakes(**BASE, **few, THREADS="52")
    assert "at least 62 = 3 models x (MAX_NUM_SEQS 4 + MAX_WAITING 6) + 32" in mistake


def test_all_mistakes_are_told_at_once():
    """Duplicates, a share of what is not there, shares over 100, unknown targets, names of our own."""
    found = mistakes(
        VIBE_MODELS="v1=demo,v2=/a,v2=/b", VIBE_SPLIT="v2=70,v3=40", VISION_SPLIT="v2=1",
        MODEL_ALIASES="gpt-4o=avibe@v9,a=b,a=avibe,avision=avibe,avibe@v7=avibe,AvitoTech/avibe=avision,avibe-demo=avibe",
    )  # fmt: skip
    text = "\n".join(found)
    for told in (
        "VIBE_MODELS: expected each version once, but v2 is there more than once",
        "VIBE_SPLIT: expected versions of VIBE_MODELS (v1, v2, v2), and 'v3' is none of them",
        "VIBE_SPLIT: expected shares of at most 100 percent together, not 110",
        "VISION_SPLIT: expected versions of VISION_MODELS (none, because it is not set), and 'v2' is none of them",
        "MODEL_ALIASES: expected each name once, but a is there more than once",
        "MODEL_ALIASES=gpt-4o=avibe@v9: expected one of",
        "MODEL_ALIASES: expected names that are not this service's own, and 'avision' is",
        "MODEL_ALIASES: expected names that are not this service's own, and 'avibe@v7' is",
        "MODEL_ALIASES: expected names that are not this service's own, and 'AvitoTech/avibe' is",
        "MODEL_ALIASES: expected names that are not this service's own, and 'avibe-demo' is",
    ):
        assert told in text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("VIBE_MODELS", "/models/one"),
        ("VIBE_MODELS", "v1="),
        ("VIBE_MODELS", "a@b=/x"),
        ("VISION_MODELS", ","),
        ("VIBE_SPLIT", "v2=101"),
        ("VIBE_SPLIT", "v2=-1"),
        ("VIBE_SPLIT", "v2=nan"),
        ("VIBE_SPLIT", "v2"),
        ("MODEL_ALIASES", "gpt 4=avibe"),
        ("MODEL_ALIASES", "=avibe"),
        ("VIBE_NAME", "a b"),
    ],
)
def test_what_does_not_parse_is_named(setting, value):
    """The setting, its value and an example of what was expected."""
    assert any(one.startswith(f"{setting}={value!r}: expected") for one in mistakes(**{setting: value}))


def test_a_folder_beside_the_versions_is_warned_of():
    """VIBE_MODELS decides; the start says that VIBE_MODEL_DIR does not."""
    found = load_settings(BASE | {"VIBE_MODEL_DIR": "/x", "VISION_MODEL_DIR": "/y"}, None)
    assert found.warnings == ("VIBE_MODEL_DIR has no effect beside VIBE_MODELS, which names the folders",)


def test_values_are_shown_as_they_are_written():
    """`python config.py` prints what could be set again."""
    from config import SETTINGS

    given = BASE | {"VIBE_SPLIT": "v2=12.5", "MODEL_ALIASES": "gpt-4o=avision,x=avibe@v2"}
    found = load_settings(given, None)
    shown = {setting.name: found.show(setting) for setting in SETTINGS}
    assert {name: shown[name] for name in given} == given
