"""Writes the licences of everything that is installed with spikedeploy, as its packages state them.

python tests/packaging/licenses.py docs/licenses.md
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

HEADER = """\
# Licences

spikedeploy is under the MIT licence. What `make demo` and `make test` install beside it, with the
licence that each package states; `make licenses` writes this page anew. Nothing of these packages
is copied into this repository or its wheel.

| package | licence | needed by |
| --- | --- | --- |
"""


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(distribution: metadata.Distribution) -> str:
    """What a package states: the SPDX expression, its classifiers, or its licence field."""
    fields = distribution.metadata
    expression = fields.get("License-Expression")
    if expression:
        return expression
    classifiers = [
        value.rpartition(" :: ")[2]
        for value in fields.get_all("Classifier") or []
        if value.startswith("License :: ") and not value.endswith("OSI Approved")
    ]
    if classifiers:
        return ", ".join(classifiers)
    return (fields.get("License") or "not stated").strip().partition("\n")[0][:60]


def direct() -> dict[str, set[str]]:
    """The extras, or "base", that ask for a package by name."""
    users: dict[str, set[str]] = {}
    for line in metadata.requires("spikedeploy") or []:
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"]([\w-]+)", str(requirement.marker or ""))
        users.setdefault(normal(requirement.name), set()).add(extra[1] if extra else "base")
    return users


def page() -> str:
    """The page, Markdown."""
    users = direct()
    rows = {}
    for distribution in metadata.distributions():
        name = normal(distribution.metadata["Name"])
        if name != "spikedeploy":
            needed = ", ".join(sorted(users.get(name, ()))) or "another package"
            rows[name] = f"| {name} | {licence(distribution)} | {needed} |\n"
    return HEADER + "".join(rows[name] for name in sorted(rows))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
