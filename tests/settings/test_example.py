"""The example file and the table for documents match the settings of the code."""

import re
from pathlib import Path

import pytest

from config import SETTINGS, load_settings
from settings.example import PROFILES, env_example
from settings.table import markdown

EXAMPLE = (Path(__file__).parents[2] / ".env.example").read_text(encoding="utf-8")


def test_example_is_the_one_the_settings_make():
    """`.env.example` is up to date; `python -m settings.generate` updates it."""
    assert env_example(SETTINGS) == EXAMPLE


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_has_one_line_and_one_comment(setting):
    """Each setting occurs once in the example, with its default, below one line of comment."""
    lines = EXAMPLE.splitlines()
    (at,) = [i for i, line in enumerate(lines) if re.match(rf"#?{setting.name}=", line)]
    assert lines[at - 1].startswith("# ")
    assert lines[at - 2] == ""
    if lines[at].startswith("#"):
        default = "" if setting.default is None else setting.kind.show(setting.default)
        assert lines[at] == f"#{setting.name}={default}"


def test_the_file_of_a_secret_has_a_line_below_the_secret():
    """deploy.sh takes the names that it writes from here, so each secret has one, and no other setting."""
    found = re.findall(r"(?m)^#?([A-Z_]+)=.*\n#([A-Z_]+_FILE)=$", EXAMPLE)
    pointers = [(name, pointer) for name, pointer in found if pointer == f"{name}_FILE"]
    assert [name for name, _ in pointers] == [setting.name for setting in SETTINGS if setting.secret]


def test_example_reads_alike_for_every_reader():
    """No inline comment, quote, export or interpolation, so that Docker, systemd and python-dotenv agree."""
    for line in EXAMPLE.splitlines():
        assert line == "" or line.startswith("#") or re.fullmatch(r"[A-Z_]+=[^\s'\"#$\\]*", line), line


def test_example_chooses_the_second_gpu_and_nothing_else(tmp_path):
    """The file sets the GPU only; with all lines uncommented it sets the defaults."""
    path = tmp_path / "test.env"
    path.write_text(EXAMPLE)
    assert load_settings({}, path).sources == {"CUDA_VISIBLE_DEVICES": ".env"}
    path.write_text(re.sub(r"(?m)^#(?=[A-Z_]+=)", "", EXAMPLE))
    settings = load_settings({"CUDA_VISIBLE_DEVICES": ""}, path)
    assert settings.warnings == ()
    defaults = load_settings({}, None)
    for setting in SETTINGS:
        if setting.name != "CUDA_VISIBLE_DEVICES":
            assert settings.show(setting) == defaults.show(setting)


@pytest.mark.parametrize("purpose", PROFILES)
def test_profiles_are_usable(purpose):
    """Each profile of the example is in the file and loads without a mistake."""
    assert f"# Profile: {purpose}" in EXAMPLE
    settings = load_settings(PROFILES[purpose], None)
    shown = {setting.name: settings.show(setting) for setting in SETTINGS}
    assert shown.items() >= PROFILES[purpose].items()


def test_markdown_table_has_a_row_for_each_setting():
    """The table has every setting with its default and meaning, in one cell each."""
    header, _, *rows = markdown(SETTINGS).splitlines()
    assert header == "| setting | default | meaning |"
    assert [row.split("`")[1] for row in rows] == [setting.name for setting in SETTINGS]
    assert all(row.count(" | ") == 2 for row in rows)
    assert "| `THREADS` | `2 x (MAX_NUM_SEQS + MAX_WAITING) + MAX_NUM_SEQS + 48` |" in markdown(SETTINGS)
