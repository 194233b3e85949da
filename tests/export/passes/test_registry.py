"""Every pass: named, pictured, tested in its own file, and in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.errors import ExportError
from export.passes.base import FunctionPass, GraphPass
from export.passes.registry import PASSES, find_pass, markdown

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "passes.md"
BEGIN, END = "<!-- passes: begin -->\n", "<!-- passes: end -->"


def _picture(entry: type[GraphPass] | type[FunctionPass]) -> bool:
    """Whether the docstring shows a subgraph before and after."""
    text = (entry.__doc__ or "").lower()
    return ("before" in text and "after" in text) or "==>" in text


@pytest.mark.parametrize("entry", PASSES, ids=lambda entry: entry.name)
def test_named_pictured_and_tested(entry: type[GraphPass] | type[FunctionPass]) -> None:
    assert entry.__module__ == f"export.passes.{entry.name}"
    assert _picture(entry), "show the subgraph before and after in the docstring"
    assert 0 < len(entry.summary) <= 90 and not entry.summary.endswith(".")
    assert "def test_" in (HERE / f"test_{entry.name}.py").read_text()
    assert find_pass(entry.name) is entry


def test_names_are_unique() -> None:
    names = [entry.name for entry in PASSES]
    assert len(set(names)) == len(names)


def test_every_pass_is_registered() -> None:
    def below(kind: type) -> set[type]:
        found = {kind}
        for child in kind.__subclasses__():
            found |= below(child)
        return found

    known = {kind for base in (GraphPass, FunctionPass) for kind in below(base)}
    own = {kind for kind in known if kind.__module__.startswith("export.passes.")}
    assert own - {GraphPass, FunctionPass} == set(PASSES)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ExportError, match="nearest is 'float_bias'"):
        find_pass("float_bais")


@pytest.mark.parametrize("name", ["xyzzy", "", "quantum"])
def test_a_name_that_is_close_to_none_gets_no_suggestion(name: str) -> None:
    with pytest.raises(ExportError, match=rf"^no pass '{name}'; --list shows all$"):
        find_pass(name)


def test_documentation_shows_them() -> None:
    text = PAGE.read_text()
    between = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert between.strip() == markdown().strip(), "paste export.passes.registry.markdown()"
