"""docs/cookbook is true: the service runs as it stands there, under two workers."""

from __future__ import annotations

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

from helpers import HUNG_S

PAGE = Path(__file__).parents[2] / "docs" / "cookbook" / "two_workers.md"


def code_of_page() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return code


def test_page_is_as_short_as_it_says():
    lines = [line for line in code_of_page().splitlines() if line.strip()]
    assert len(lines) <= 45
    compile(code_of_page(), str(PAGE), "exec")


IN_WORKER = """    with jm.MmapManager(base_path=base, simulation="never") as app.state.memory:  # one for each worker
        yield
"""
BEFORE_FORK = """
app.state.memory = jm.MmapManager(base_path=os.environ["MEMORY_BASE"], simulation="never")
if app.state.memory.find("user:early") is None:
    app.state.memory.create_proto_dimension("user:early", [jm.LayerSpec(text="in the parent")], user=True)
"""


def code_with_manager_before_the_fork() -> str:
    """The same service, whose manager is made, and has learned something, when it is imported."""
    assert code_of_page().count(IN_WORKER) == 1
    return code_of_page().replace(IN_WORKER, "    yield\n") + BEFORE_FORK


GUNICORN = "gunicorn service:app --workers 2 --worker-class uvicorn.workers.UvicornWorker --bind 127.0.0.1:{port}"
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
            for answer in of_both_workers(lambda: client.get("/users/early/context")):
                assert answer["texts"] == ["in the parent"]
        texts: list[str] = []

        def learn():
            texts.append(f"note {len(texts)}")
            return client.post("/users/ann/notes", params={"text": texts[-1], "topic": "tea"})

        layers = [answer["layer"] for answer in of_both_workers(learn)]
        assert layers == [f"D{1000 + is_early}/L{n}" for n in range(len(texts))]
        for answer in of_both_workers(lambda: client.get("/users/ann/context", params={"topic": "tea"})):
            assert answer["texts"] == texts
        client.post("/users/ann/notes", params={"text": "of something else"})
        for answer in of_both_workers(lambda: client.get("/users/ann/context")):
            assert answer["texts"] == [*texts, "of something else"]
        client.post("/users/bob/notes", params={"text": "kept"}).raise_for_status()
        assert client.delete("/users/ann").status_code == 204
        assert [client.get("/users/ann/context").status_code for _ in range(20)] == 20 * [404]
        assert "jessy_mem_layers" in [sample["name"] for sample in client.get("/metrics").json()]
    with serving(tmp_path, arguments, code()) as client:
        assert client.get("/users/bob/context").json()["texts"] == ["kept"]
        if is_early:  # its parent saved it
            assert client.get("/users/early/context").json()["texts"] == ["in the parent"]
            assert (tmp_path / "memory" / "D1000" / "region.mmap").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()
