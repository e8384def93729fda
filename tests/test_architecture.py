"""The direction of imports: down only, and who may import torch or read the environment."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = (
    "checks",
    "database",
    "engine",
    "edge",
    "keys",
    "models",
    "routes",
    "serving",
    "settings",
    "telemetry",
    "upstream",
    "usage",
)
TOP = ("app_production", "config", "gunicorn_config", "health", "middleware", "terminal")

# A part may import those that stand after it in its row, and the outside.
MAY_IMPORT = {
    "app_production": {
        "checks",
        "health",
        "middleware",
        "routes",
        "edge",
        "keys",
        "usage",
        "database",
        "telemetry",
        "models",
        "engine",
        "config",
    },
    "routes": {"edge", "keys", "usage", "database", "telemetry", "models", "engine", "config"},
    "health": {"checks", "edge", "usage", "telemetry", "models", "engine", "config"},
    "middleware": {"edge", "keys", "usage", "telemetry", "models", "engine", "config"},
    "edge": {"keys", "usage", "telemetry", "models", "engine", "config"},
    "usage": {"keys", "database", "telemetry", "engine", "config"},
    "keys": {"database", "engine", "config"},
    "checks": {"models", "database", "engine", "config", "settings"},
    "database": set(),
    "gunicorn_config": {"serving", "terminal", "telemetry", "models", "engine", "config"},
    "serving": {"edge", "telemetry", "models", "engine", "config"},
    "models": {"upstream", "telemetry", "engine", "config"},
    "upstream": {"engine", "config"},
    "telemetry": {"engine", "config"},
    "config": {"settings"},
    "settings": set(),
    "engine": set(),
    "terminal": set(),
}
WEB = {"flask", "werkzeug", "gunicorn", "flask_cors", "limits", "jinja2", "pydantic"}
HEAVY = {"torch", "transformers"}
MAY_IMPORT_HEAVY = {"engine"}
# Within the engine, these rooms and modules load torch; engine/schedule, the rest of the root and of the rooms do not.
LOADS_TORCH = ("engine.llm_engine", "engine.model", "engine.loading", "engine.text.processor", "engine.text.prompt")
WITHOUT_TORCH = {
    "engine.model.choice", "engine.model.kernels.build",
    "engine.model.cuda.attention_plan", "engine.loading.checkpoint", "engine.loading.device",
}  # fmt: skip


def modules():
    """Return our source files."""
    files = [ROOT / f"{name}.py" for name in TOP]
    files += [file for folder in OURS for file in sorted((ROOT / folder).rglob("*.py"))]
    return [file for file in files if file.exists()]


def imported(file):
    """Return the full names that a file imports, wherever in it but where it runs as a program of its own."""
    names, tree = set(), ast.parse(file.read_text())
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def part(file):
    """Return the part of the tree that a file belongs to."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down_only(file):
    """No module imports from a layer above; the engine knows no HTTP, settings or logging configuration."""
    own = part(file)
    reached = {name.split(".")[0] for name in imported(file)}
    ours = (reached & {*OURS, *TOP}) - {own}
    assert ours <= MAY_IMPORT[own]
    if own in ("engine", "settings", "config"):
        assert not reached & WEB
    if own not in MAY_IMPORT_HEAVY:
        assert not reached & HEAVY
    if ROOT / "engine" / "model" / "cuda" not in file.parents:
        assert "triton" not in reached


def test_what_protocols_share_knows_none_of_them():
    """routes/chat imports no protocol and no model of its JSON; protocols do not import each other."""
    for file in (ROOT / "routes" / "chat").glob("*.py"):
        assert not {
            name for name in imported(file) if name.startswith(("routes.openai", "routes.anthropic", "pydantic"))
        }
    for file in (ROOT / "routes" / "anthropic").glob("*.py"):
        assert not {name for name in imported(file) if name.startswith("routes.openai")}


def test_types_errors_and_backend_import_nothing_else_of_the_engine():
    """engine/types, errors and backend can be read, and faked, alone."""
    types = {f"engine.types.{file.stem}" for file in (ROOT / "engine" / "types").glob("*.py")}
    assert len(types) > 1
    for name, allowed in (("types/*", types), ("errors", set()), ("backend", {"engine.errors", "engine.types"})):
        for file in (ROOT / "engine").glob(f"{name}.py"):
            ours = {module for module in imported(file) if module.split(".")[0] in OURS}
            assert ours <= allowed


def test_scheduling_and_the_seam_load_without_torch():
    """Packages that only do accounting are imported and tested without torch, which takes seconds to import."""
    files = (file for file in (ROOT / "engine").rglob("*.py") if file.name != "__init__.py")
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    light = [name for name in names if name in WITHOUT_TORCH or not name.startswith(LOADS_TORCH)]
    assert WITHOUT_TORCH | {"engine.schedule.scheduler", "engine.engine_core", "engine.text.detokenizer"} <= {*light}
    program = f"import sys, {', '.join(light)}; print(*{HEAVY} & {{*sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=600
    )
    assert loaded.stdout.split() == []


FLOATS = {"empty", "zeros", "ones", "rand", "randn", "linspace", "eye"}


def test_every_tensor_of_the_engine_names_its_dtype():
    """While a model loads, transformers sets the default one of the whole process, in which another may be serving."""
    for file in (ROOT / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in FLOATS}:
                assert "dtype" in {keyword.arg for keyword in node.keywords}, f"{file}:{node.lineno}"


def reads_environment(file):
    """True if a file reads the process's environment."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and ast.unparse(node.value) == "os":
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            if {alias.name for alias in node.names} & {"environ", "getenv"}:
                return True
    return False


def test_the_environment_is_read_in_two_places():
    """A setting that is read elsewhere would be neither checked nor documented."""
    readers = {str(file.relative_to(ROOT)) for file in modules() if reads_environment(file)}
    assert readers <= {"config.py", "gunicorn_config.py"}


def loggers(file):
    """Return what the loggers of a module are named by."""
    calls = [node.value for node in ast.parse(file.read_text()).body if isinstance(node, ast.Assign)]
    return [
        ast.unparse(call.args[0])
        for call in calls
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "logging.getLogger"
    ]


def test_every_logger_is_a_topic_that_the_documents_name():
    """Operators can distinguish lines by topic, whichever module logs them."""
    named = set(re.findall(r"^\| `(avito_ai\.\w+)` \|", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE))
    used = {name.strip("'") for file in modules() for name in loggers(file)}
    assert used | {"avito_ai.gunicorn"} == named


def test_no_text_of_a_visitor_stands_in_the_code():
    """Russian is in the locale files; code and its messages are English."""
    for file in modules():
        if part(file) == "engine":  # what models are asked at start is no text of a visitor
            continue
        strings = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
        assert not any("а" <= letter.lower() <= "я" for text in strings if isinstance(text, str) for letter in text), (
            file
        )


@pytest.mark.parametrize("folder", ["engine/text", "routes/chat", "routes/openai", "routes/anthropic"])
def test_nothing_of_a_request_is_kept_for_all_clients(folder):
    """Where requests are read, no memo of the process has arguments: by its time, others would learn what was asked."""
    memos = [
        f"{path}: {function.name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef) and function.args.args
        for decorator in function.decorator_list
        if re.search(r"\b(lru_)?cache\b", ast.unparse(decorator))
    ]
    assert memos == []
