"""What other tools are told about the package agrees with pyproject.toml, and what publishes it holds no secret."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CONDA_NAMES = {"xxhash": "python-xxhash"}


def in_conda(requirement: str) -> str:
    """A requirement as conda writes it: "setuptools >=77"."""
    name, rest = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
    return f"{CONDA_NAMES.get(name, name)} {rest}".strip()


def test_recipe_for_conda_follows_the_requirements():
    recipe = (ROOT / ".ci" / "conda-forge" / "recipe.yaml").read_text(encoding="utf-8")
    run = re.search(r"^  run:\n((?:    - .*\n)+)", recipe, re.MULTILINE)[1]
    assert set(re.findall(r"- (.*)", run)) == {"python", *map(in_conda, PYPROJECT["project"]["dependencies"])}
    host = re.search(r"^  host:\n((?:    - .*\n)+)", recipe, re.MULTILINE)[1]
    assert set(re.findall(r"- (.*)", host)) == {"python", "pip", *map(in_conda, PYPROJECT["build-system"]["requires"])}
    assert f"  version: {PYPROJECT['project']['version']}\n" in recipe


def test_wheels_are_built_for_the_versions_that_are_promised():
    promised = re.findall(r"Python :: 3\.(\d+)", "\n".join(PYPROJECT["project"]["classifiers"]))
    built = set(re.findall(r"cp3(\d+)-", PYPROJECT["tool"]["cibuildwheel"]["build"]))
    assert built == set(promised)
    assert set(PYPROJECT["tool"]["cibuildwheel"]["test-extras"]) <= set(PYPROJECT["project"]["optional-dependencies"])


def test_version_is_one():
    import jessy_mem

    assert jessy_mem.__version__ == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_may_read_only_and_knows_no_secret(path):
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    assert "\npermissions:\n  contents: read\n" in text
    assert re.findall(r"^ +(\S+): write", text, re.MULTILINE) == {
        "ci": [],
        "release": ["id-token"],
        "scorecard": ["security-events", "id-token"],
    }.get(path.stem)


def test_hooks_are_checks_of_the_ci():
    hooks = re.findall(r"entry: ([^,]+),", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert len(hooks) == 4
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [hook for hook in hooks if hook not in checks] == []
