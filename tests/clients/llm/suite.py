"""llm, the program for terminals, with models of `extra-openai-models.yaml`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NO_KEY = "none"  # the client insists on one, the service does not
IMAGE = Path(__file__).parents[3] / "docs" / "red-square.png"
MODELS = """
- {model_id: avibe, model_name: avibe, api_base: BASE, supports_schema: true, supports_tools: true}
- {model_id: avision, model_name: avision, api_base: BASE, vision: true}
- {model_id: continued, model_name: avibe, api_base: BASE, completion: true}
- {model_id: missing, model_name: gpt-4o, api_base: BASE}
"""


@pytest.fixture
def llm(tmp_path, base_url):
    """Run the program; return what it prints."""
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.replace("BASE", base_url))
    environ = os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": NO_KEY}
    program = shutil.which("llm", path=str(Path(sys.executable).parent))

    def run(*options, fails=False):
        done = subprocess.run([program, *options], env=environ, capture_output=True, text=True, check=False, input="")
        assert bool(done.returncode) is fails, done.stderr
        return done.stderr if fails else done.stdout

    return run


def test_a_text(llm):
    """Streamed, whole, with a system prompt, and a second turn of the same conversation."""
    assert llm("-m", "avibe", "Привет!").strip()
    assert llm("-m", "avibe", "--no-stream", "-s", "Be brief.", "Привет!").strip()
    assert llm("-c", "-m", "avibe", "Короче!").strip()


def test_an_object(llm):
    """With the program's short form of a schema; a bound of the text makes the demo end it."""
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}, "required": ["name"]}
    assert set(json.loads(llm("-m", "avibe", "--schema", json.dumps(schema), "Привет!"))) == {"name"}


def test_tools_and_pictures(llm):
    """A tool that the model may call; a picture for Avision."""
    assert llm("-m", "avibe", "-T", "llm_time", "Привет!") is not None
    assert llm("-m", "avision", "-a", str(IMAGE), "What?").strip()


def test_a_completion(llm):
    """Over /v1/completions."""
    assert llm("-m", "continued", "Продаётся").strip()


def test_an_error_is_shown(llm):
    """With our sentence."""
    assert "no model of this name" in llm("-m", "missing", "Привет!", fails=True)
