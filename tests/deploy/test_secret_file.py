"""A secret of a program comes from a variable or from a file, as those of the service do."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.secret_file import NoSecret, read_secret


def test_the_variable_precedes_the_file(tmp_path: Path) -> None:
    """Without the line end that editors add; neither is no secret."""
    file = tmp_path / "key"
    file.write_text("of the file\n")
    assert read_secret("KEY", {"KEY": " given ", "KEY_FILE": str(file)}) == "given"
    assert read_secret("KEY", {"KEY": "", "KEY_FILE": str(file)}) == "of the file"
    assert read_secret("KEY", {"OTHER": "x"}) == ""


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b" \n", "is empty"), (b"\xff\xfe", "it is no text")]
)
def test_a_file_that_has_none_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    """With the variable, and without what is in it: a program must not go on without its secret."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(NoSecret, match=f"^KEY_FILE={file} .*{said}"):
        read_secret("KEY", {"KEY_FILE": str(file)})
