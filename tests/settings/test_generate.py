"""The command that regenerates the example file and the table of settings."""

from pathlib import Path

from config import SETTINGS
from settings.generate import ROOT, generate


def test_both_files_are_rewritten_and_other_text_is_kept(tmp_path: Path) -> None:
    """A changed default appears in both; the page around the table stays as it is."""
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    outdated = page.replace("| `PORT` | `8085` |", "| `PORT` | `80` |")
    assert outdated != page
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/settings.md").write_text(outdated, encoding="utf-8")
    generate(SETTINGS, tmp_path)
    for name in (".env.example", "docs/settings.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")
