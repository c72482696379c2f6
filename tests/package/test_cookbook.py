"""docs/cookbook is true: each page runs as it stands there; the service under two workers.

Pages with a dialogue (``>>>``) are run as the other pages of docs/ are.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import jessy_mem as jm
from helpers import HUNG_S

COOKBOOK = Path(__file__).parents[2] / "docs" / "cookbook"
PAGE = COOKBOOK / "two_workers.md"
RUN_HERE = {"two_workers.md", "batch_job.md", "tour.ipynb", "notebook.md"}  # which is about the one before it


def code_of_page(page: Path = PAGE) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return code


def test_each_page_is_run():
    pages = {path.name: path.read_text(encoding="utf-8") for path in COOKBOOK.iterdir() if path.is_file()}
    del pages["index.md"]
    assert {name for name, text in pages.items() if ">>> " not in text} == RUN_HERE


def test_batch_job_adds_each_ticket_once(tmp_path):
    page = COOKBOOK / "batch_job.md"
    (tmp_path / "nightly.py").write_text(code_of_page(page))
    dialogue = re.findall(r"^    (.*)$", page.read_text(encoding="utf-8").rpartition("```")[2], re.MULTILINE)
    at = [i for i, line in enumerate(dialogue) if line.startswith("$ ")]
    runs = [(dialogue[i], dialogue[i + 1 : end]) for i, end in zip(at, [*at[1:], None], strict=True)]
    (shows, tickets), *jobs = runs
    assert shows == "$ cat tickets.jsonl"
    assert len(jobs) == 2
    (tmp_path / "tickets.jsonl").write_text("\n".join(tickets) + "\n")

    def run(command: str) -> list[str]:
        words = [sys.executable, *command.split()[2:]]
        done = subprocess.run(words, cwd=tmp_path, text=True, capture_output=True, timeout=HUNG_S)
        assert done.stderr == ""
        return done.stdout.splitlines()

    for command, output in jobs:
        assert run(command) == output
    with (tmp_path / "tickets.jsonl").open("a") as more:
        more.write('{"id": 74, "customer": "bob", "text": "Thank you."}\n')
    assert run(jobs[0][0]) == ["1 tickets of 2 customers"]
    with jm.MmapManager(base_path=tmp_path / "memory", simulation="never") as memory:
        memory.load_all()
        texts = {
            name: [memory[layer].text for layer in memory.layers(number)] for name, number in memory.names().items()
        }
        assert [str(layer) for layer in memory.layers(keyword="belt")] == ["D1000/L0", "D1000/L1"]
    assert texts == {
        "customer:ann": ["The belt squeaks.", "It squeaks again."],
        "customer:bob": ["Where is my invoice?", "Thank you."],
    }


@pytest.mark.thread_unsafe(reason="it starts a process that listens")
def test_notebook_runs_and_shows_tables_and_a_picture(tmp_path, monkeypatch):
    for needed in ("nbclient", "ipykernel", "matplotlib"):
        pytest.importorskip(needed)
    import nbclient
    import nbformat

    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(COOKBOOK / "tour.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "stored without what it shows"
    for _ in range(2):  # what it wrote is there the second time
        nbclient.NotebookClient(notebook, timeout=HUNG_S, resources={"metadata": {"path": tmp_path}}).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        kinds = {kind for output in outputs for kind in output.get("data", {})}
        assert {"text/plain", "text/html", "image/png"} <= kinds
        assert "stderr" not in {output.get("name") for output in outputs}
        assert "The belt squeaks." in "".join(output.get("text", "") for output in outputs)


def test_page_is_as_short_as_it_says():
    lines = [line for line in code_of_page().splitlines() if line.strip()]
    assert len(lines) <= 45
    compile(code_of_page(), str(PAGE), "exec")


def test_readme_asks_what_the_page_asks():
    assert dialogue(COOKBOOK.parents[1] / "README.md") == dialogue(PAGE)


IN_WORKER = """    with jm.MmapManager(base_path=base, simulation="never") as app.state.memory:
        app.state.memory.ensure_dimension("policies", POLICIES)  # made once
        yield
"""
BEFORE_FORK = """
app.state.memory = jm.MmapManager(base_path=os.environ["MEMORY_BASE"], simulation="never")
app.state.memory.ensure_dimension("policies", POLICIES)
if app.state.memory.find("customer:early") is None:
    app.state.memory.create_proto_dimension("customer:early", [jm.LayerSpec(text="in the parent")], user=True)
"""


def code_with_manager_before_the_fork() -> str:
    """The same service, whose manager is made, and has learned something, when it is imported."""
    assert code_of_page().count(IN_WORKER) == 1
    return code_of_page().replace(IN_WORKER, "    yield\n") + BEFORE_FORK


def dialogue(page: Path) -> list[str]:
    """What a page lets the reader ask, and the answer that it shows."""
    return re.findall(r"""^    (curl .*|\{"texts".*)$""", page.read_text(encoding="utf-8"), re.MULTILINE)


GUNICORN = "gunicorn service:app --workers 2 --worker-class uvicorn.workers.UvicornWorker --bind 127.0.0.1:{port}"
POLICY = "Returns are free for 30 days."
SERVERS = {
    "uvicorn": ("uvicorn service:app --workers 2 --port {port}", code_of_page),
    "gunicorn": (GUNICORN, code_of_page),
    "gunicorn --preload": (f"{GUNICORN} --preload", code_of_page),
    "gunicorn --preload, made before": (f"{GUNICORN} --preload", code_with_manager_before_the_fork),
}


@contextmanager
def serving(folder: Path, arguments: str, code: str):
    """A client of the service under two workers; it is ended as a supervisor ends it."""
    httpx = pytest.importorskip("httpx")
    (folder / "service.py").write_text(code)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *arguments.format(port=port).split()]
    env = os.environ | {"MEMORY_BASE": str(folder / "memory")}
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        # A connection for each request, so that both workers get some.
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"connection": "close"}) as client:
            deadline = time.monotonic() + HUNG_S
            while True:
                try:
                    client.get("/metrics").raise_for_status()
                    break
                except httpx.TransportError:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.05)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(HUNG_S)


def of_both_workers(ask) -> list[dict]:
    """Ask until both workers have answered; all answers."""
    answers = []
    deadline = time.monotonic() + HUNG_S
    while len({answer["worker"] for answer in answers}) < 2:
        assert time.monotonic() < deadline, "one worker never answered"
        answers.append(ask().raise_for_status().json())
    return answers


@pytest.mark.thread_unsafe(reason="it starts processes that listen")
@pytest.mark.parametrize("server", SERVERS)
def test_two_workers_know_what_the_other_learned(tmp_path, server):
    arguments, code = SERVERS[server]
    for needed in ("fastapi", "uvicorn", "httpx", arguments.split()[0]):
        pytest.importorskip(needed)
    is_early = code is not code_of_page
    with serving(tmp_path, arguments, code()) as client:
        if is_early:
            for answer in of_both_workers(lambda: client.get("/customers/early/context")):
                assert answer["texts"] == [POLICY, "in the parent"]
        texts: list[str] = []

        def learn():
            texts.append(f"note {len(texts)}")
            return client.post("/customers/ann/notes", params={"text": texts[-1], "topic": "returns"})

        layers = [answer["layer"] for answer in of_both_workers(learn)]
        assert layers == [f"D{1000 + is_early}/L{n}" for n in range(len(texts))]
        for answer in of_both_workers(lambda: client.get("/customers/ann/context", params={"topic": "returns"})):
            assert answer["texts"] == [POLICY, *texts]
        for answer in of_both_workers(lambda: client.get("/customers/ann/context", params={"topic": "lamps"})):
            assert answer["texts"] == []
        client.post("/customers/ann/notes", params={"text": "of something else"})
        for answer in of_both_workers(lambda: client.get("/customers/ann/context")):
            assert answer["texts"] == [POLICY, *texts, "of something else"]
        client.post("/customers/bob/notes", params={"text": "kept"}).raise_for_status()
        assert client.delete("/customers/ann").status_code == 204
        assert [client.get("/customers/ann/context").status_code for _ in range(20)] == 20 * [404]
        assert "jessy_mem_layers" in [sample["name"] for sample in client.get("/metrics").json()]
    with serving(tmp_path, arguments, code()) as client:
        assert client.get("/customers/bob/context").json()["texts"] == [POLICY, "kept"]
        told, asked, shown = dialogue(PAGE)
        client.post(told.split("localhost:8000")[1].strip("'")).raise_for_status()
        answer = client.get(asked.split("localhost:8000")[1].strip("'")).json()
        assert answer["texts"] == json.loads(shown)["texts"]
        if is_early:  # its parent saved it
            assert client.get("/customers/early/context").json()["texts"] == [POLICY, "in the parent"]
            assert (tmp_path / "memory" / "D1000" / "region.mmap").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()
