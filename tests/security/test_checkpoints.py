"""Model folders that ran code in other servers; docs/known-vulnerabilities.md says where."""

import ast
import contextlib
import json
import pickle
from pathlib import Path

import pytest

from engine.errors import StartError, ValidationError
from engine.loading.loader import load_model
from engine.loading.memory_budget import estimate_budget
from engine.text.processor import load_tokenizer
from engine.text.prompt import PromptPreparer
from engine.types import ChatPrompt, EngineConfig
from tests.checkpoints import text_spec

ROOT = Path(__file__).parents[2]
SHIPPED = ["app_production.py", "config.py", "gunicorn_config.py", "health.py", "middleware.py"]
FOLDERS = ["deploy", "edge", "engine", "models", "routes", "serving", "settings", "telemetry"]
# What turns bytes into objects of any class, or text into code.
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle", "joblib", "zmq"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "unsafe_load", "full_load"}


class Bomb:
    """Creates a file if it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def ignore(progress):
    """Take a progress report and do nothing with it."""


def sources():
    files = [ROOT / name for name in SHIPPED]
    return files + [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def test_a_pickle_is_not_opened(text_checkpoint, tmp_path):
    """A folder with pickled weights alone is refused before any byte of them is unpickled."""
    mark = tmp_path / "mark"
    for file in text_checkpoint.glob("*.safetensors*"):
        file.unlink()
    (text_checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(StartError, match=r"safetensors"):
        load_model(text_spec(text_checkpoint), ignore)
    assert not mark.exists()


def test_a_pickle_beside_the_weights_is_left_alone(text_checkpoint, tmp_path):
    """Training state, caches and old weights in the folder are ignored."""
    mark = tmp_path / "mark"
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl", "flax_model.msgpack"):
        (text_checkpoint / name).write_bytes(pickle.dumps(Bomb(mark)))
    load_model(text_spec(text_checkpoint), ignore)
    assert not mark.exists()


def test_code_of_a_checkpoint_is_not_run(text_checkpoint, tmp_path):
    """Whatever `auto_map` names, locally or remotely, the library's own classes are used."""
    mark = tmp_path / "mark"
    (text_checkpoint / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n\nclass Evil:\n    pass\n")
    mapped = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "evil.Evil")
    edit(text_checkpoint / "config.json", auto_map=mapped)
    edit(
        text_checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "stranger/repo--evil.Evil"]}
    )
    spec = text_spec(text_checkpoint)
    estimate_budget(spec, EngineConfig())
    load_model(spec, ignore)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "..\\outside.safetensors", "a/../../b"])
def test_an_index_leads_nowhere_else(text_checkpoint, name):
    """Shards lie in the checkpoint's own folder."""
    (text_checkpoint.parent / "outside.safetensors").write_bytes(b"")
    index = text_checkpoint / "model.safetensors.index.json"
    tensors = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=dict.fromkeys(tensors, name))
    with pytest.raises(StartError):
        load_model(text_spec(text_checkpoint), ignore)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('touch mark').read() }}",
        "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_of_a_checkpoint_stays_in_its_sandbox(text_checkpoint, template, tmp_path, monkeypatch):
    """It reaches no attribute beyond its data, changes nothing and opens nothing: only the request fails."""
    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer(text_checkpoint)
    preparer = PromptPreparer(tokenizer, len(tokenizer), template)
    with pytest.raises(ValidationError, match="chat template"):
        preparer.prepare(ChatPrompt(({"role": "user", "content": "Hello"},)))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ '{0FIELD}'.format(messages) }}x",
        "{{ ('{0FIELD}'|attr('format'))(messages) }}x",
        "{% set show = '{0FIELD}'.format %}{{ show(messages) }}x",
        "{{ '{aFIELD}'.format_map({'a': messages}) }}x",
    ],
)
@pytest.mark.parametrize("hidden", [".__class__", ".__class__.__init__"])
def test_formatting_is_no_way_out_of_the_sandbox(text_checkpoint, template, hidden):
    """Directly, through a filter or later, `format` shows what a template may see and no attribute that is hidden."""
    tokenizer = load_tokenizer(text_checkpoint)

    def shown(field):
        preparer = PromptPreparer(tokenizer, len(tokenizer), template.replace("FIELD", field))
        return tokenizer.decode(preparer.prepare(ChatPrompt(({"role": "user", "content": "Hello"},))).token_ids)

    assert shown("[0][role]") == "userx"
    with contextlib.suppress(ValidationError):
        assert "class" not in shown(hidden)


def test_nothing_that_is_shipped_turns_bytes_into_code():
    """No code path uses pickle, a message queue of objects or `eval`."""
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(path.name, name.name) for name in node.names if name.name.split(".")[0] in FORBIDDEN_MODULES]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
                found.append((path.name, node.module))
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in FORBIDDEN_CALLS or called in ("torch.load", "yaml.load", "numpy.load", "np.load"):
                    found.append((path.name, called))
    assert found == []
