"""The error trees drawn in two docstrings match the classes."""

import inspect
import re

import pytest

import edge.errors
import engine.errors

LINE = re.compile(r"^ {4}((?:│   |    )*(?:[├└]── )?)(\w+)(?: {2,}|$)")


def documented(module):
    """Return the lines of the tree in a module's docstring, without the descriptions."""
    return [match[1] + match[2] for line in module.__doc__.splitlines() if (match := LINE.match(line))]


def branches(kind, module, before=""):
    """Yield the lines below a class: its subclasses of that module."""
    children = [child for child in kind.__subclasses__() if child.__module__ == module.__name__]
    for child in children:
        last = child is children[-1]
        yield f"{before}{'└── ' if last else '├── '}{child.__name__}"
        yield from branches(child, module, before + ("    " if last else "│   "))


def drawn(module):
    """Return the tree of a module's errors, below each class that is its own root or another module's."""
    own = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Exception)]
    bases = {kind.__base__ for kind in own if kind.__module__ == module.__name__}
    own_roots = {kind for kind in own if kind.__module__ == module.__name__ and kind.__base__ is Exception}
    foreign = {base for base in bases if base.__module__ not in (module.__name__, "builtins")}
    return {kind.__name__: [kind.__name__, *branches(kind, module)] for kind in own_roots | foreign}


@pytest.mark.parametrize("module", [engine.errors, edge.errors], ids=lambda module: module.__name__)
def test_the_drawn_tree_is_the_one_of_the_classes(module):
    """Every class is in the drawing, below its base, in the order of definition."""
    found, roots = documented(module), drawn(module)
    ordered = [line for name in found if name in roots for line in roots[name]]
    assert found == ordered
    assert {name for name in found if name in roots} == set(roots)
