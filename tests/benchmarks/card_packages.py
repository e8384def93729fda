"""Hides, from the process that imports this, every package that a machine with a card need not have.

benchmarks/README.md names those that it needs: PACKAGES, what they require, and Triton, which torch for CUDA brings.
"""

from __future__ import annotations

import re
import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

PACKAGES = ("torch", "transformers", "llguidance", "psutil", "Pillow", "pytest")


def with_requirements(names):
    """Return the normalized names of packages, and of all that they require without extras."""
    found, left = set(), list(names)
    while left:
        if (name := normalized(left.pop())) in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        left += [re.match(r"[\w.-]+", line).group() for line in lines if "extra ==" not in line]
    return found


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


PRESENT = with_requirements((*PACKAGES, "triton"))
HIDDEN = {
    module
    for module, distributions in packages_distributions().items()
    if PRESENT.isdisjoint(map(normalized, distributions))
}


class Finder(PathFinder):
    """Finds nothing of a hidden package."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in HIDDEN else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
