"""deploy/backup.sh reads settings as the service does, also where neither release nor library is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from dotenv.parser import parse_stream

from deploy.database_copy import main, read
from deploy.named_files import moved

LINES = (
    "A_FILE=/a",
    "A_FILE = /a b ",
    'A_FILE="/a b" # why',
    "A_FILE='/a\\'b'",
    "export A_FILE=/a#b  # why",
    "  A_FILE=/a\r\nB_FILE='/b'\r\n",
    "# A_FILE=/no",
    "#A_FILE=/no\nA_FILE=",
    "A_FILE=/a\nA_FILE=/b",
    "OTHER='one\nA_FILE=/no\n'\nA_FILE=/a",
    "\ufeffA_FILE=/a",
    "A_FILE=\n\nB_FILE=/b",
)


@pytest.mark.parametrize("text", LINES)
def test_a_line_of_settings_is_read_as_the_service_reads_it(tmp_path: Path, text: str) -> None:
    """Quotes, spaces, comments, `export`, a byte order mark, and values of several lines."""
    settings = tmp_path / "settings"
    settings.write_text(text, encoding="utf-8", newline="")
    with settings.open(encoding="utf-8-sig") as stream:
        expected = {one.key: (one.value or "").strip() for one in parse_stream(stream) if one.key}
    assert read(settings) == expected


def test_only_whole_paths_are_moved(tmp_path: Path) -> None:
    """One that begins like another stays what it is, and so does one that is to be written."""
    settings = tmp_path / "settings"
    settings.write_text("A_FILE=/srv/a\nB_FILE='/srv/a.b'\nLOG_FILE=/srv/a.log\nOTHER=/srv/a/c\n")
    changed = moved(settings, Path("/"), Path("/new"))
    assert changed == "A_FILE=/new/srv/a\nB_FILE='/new/srv/a.b'\nLOG_FILE=/srv/a.log\nOTHER=/srv/a/c\n"


@pytest.mark.parametrize("in_file", [True, False])
def test_a_setting_of_the_database_is_what_the_service_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_file: bool
) -> None:
    """A file comes before a value, and `postgres` is PostgreSQL, which was not dumped otherwise."""
    settings, secret = tmp_path / "settings", tmp_path / "secret"
    secret.write_text("postgres://user@db.example/keys\n")
    lines = ["DATABASE_URL=sqlite:////srv/x.db", f"DATABASE_URL_FILE={secret}"]
    settings.write_text("\n".join(lines) if in_file else "DATABASE_URL=postgres://user@db.example/keys")
    assert main("setting", str(settings), "DATABASE_URL") == 0
    assert capsys.readouterr().out == "postgresql://user@db.example/keys\n"
