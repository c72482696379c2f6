"""The pages of docs/ are run as tests: in an empty folder, and without the warnings that simulated dimensions give."""

from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec("prometheus_client") and find_spec("opentelemetry") else ["metrics.md"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def pytest_collection_modifyitems(items):
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.filterwarnings("ignore:dimension.* simulated:UserWarning"))
