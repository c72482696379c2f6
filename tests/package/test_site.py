"""Every public name is on a page of the site, with its methods and fields; what the site takes from the code is right.

Here without Sphinx: what the pages ask for, and what they would be given. `.ci/check_site.py` looks at the built pages.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

import jessy_mem as jm
from jessy_mem import errors

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
ASKED = Counter(name for text in PAGES.values() for name in re.findall(r"^\.\. public:: (\S+)$", text, re.MULTILINE))
PYTHONS = ("builtins", "collections.abc")  # what comes from there, Python documents
pytestmark = pytest.mark.thread_unsafe(reason="ast.parse of CPython 3.11 counts its depth for all threads together")


@pytest.fixture(scope="module")
def from_code():
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        import from_code

        yield from_code
    finally:
        sys.path.remove(str(DOCS / "_ext"))


def test_each_public_name_is_on_one_page():
    wanted = set(jm.__all__) - {"errors"} - set(errors.__all__)
    wanted |= {f"errors.{name}" for name in errors.__all__}
    assert wanted - set(ASKED) == set()
    assert [name for name, n in ASKED.items() if n > 1] == []


@pytest.mark.parametrize("name", sorted(ASKED))
def test_page_names_all_methods_and_fields(from_code, name):
    thing = from_code.public(name)
    text = "\n".join(from_code.described(name))
    assert inspect.getdoc(thing).splitlines()[0].split("`")[0] in text
    if isinstance(thing, type):
        pythons = {each for base in thing.__mro__ if base.__module__ in PYTHONS for each in dir(base)}
        wanted = {each for each in dir(thing) if not each.startswith("_")} - pythons
        wanted |= {"keys", "values", "items", "get"} if thing is jm.MmapManager else set()
        entries = set(re.findall(r"^ +\.\. py:(?:method|property|attribute):: (\w+)", text, re.MULTILINE))
        assert wanted <= entries
        unsaid = [each for each in from_code.members(thing) if not is_said(from_code, thing, each)]
        assert not unsaid, "a docstring, or a comment behind the field, says what it is"


def is_said(from_code, kind: type, name: str) -> bool:
    """Whether the reference says what a member is: in its own entry, or in the text of its class."""
    _, *lines = from_code.member(kind, name)
    own = [line for line in lines if line.strip() and not line.strip().startswith(":")]
    return bool(own) or f"`{name}`" in inspect.getdoc(kind) or name in from_code.field_texts(kind)


def test_reference_tells_types_defaults_and_overloads(from_code):
    lines = list(from_code.described("MmapManager"))
    assert any(line.lstrip().startswith(".. py:method:: access_layer(layer_id: tuple[int, int], /)") for line in lines)
    assert any("exist_ok: bool=False) -> MmapRegion" in line for line in lines)
    text = "\n".join(from_code.described("MemoryConfig"))
    assert ".. py:attribute:: durability\n      :type: 'each' | 'batch'\n      :value: 'each'" in text
    assert "* **" not in text, "the fields of a dataclass are told once"
    assert "* **path** (path-like):" in "\n".join(from_code.described("MmapRegion"))
    assert next(from_code.described("LayerView")) == ".. py:class:: LayerView", "others make it"
    assert next(from_code.described("PoolAllocator")).startswith(".. py:class:: PoolAllocator(pools: ")


def test_each_field_of_the_configuration_is_explained(from_code):
    texts = from_code.field_texts(jm.MemoryConfig)
    assert list(texts) == list(inspect.signature(jm.MemoryConfig).parameters)
    assert all(texts.values())


def test_commands_are_on_a_page():
    assert ".. commands::" in PAGES[DOCS / "reference" / "commands.md"]


def test_each_page_is_in_the_contents():
    contents = set()
    for path, text in PAGES.items():
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            contents |= {(path.parent / f"{entry}.md").resolve() for entry in entries}
    assert contents == {path.resolve() for path in PAGES} - {DOCS.resolve() / "index.md"}
