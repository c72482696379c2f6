"""Several processes in one scrape: the real client library, and the real server where it is installed."""

from __future__ import annotations

import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec

import pytest

import jessy_mem as jm
from helpers import HUNG_S

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from jessy_mem.exporters import BOUNDS_NS, prometheus_collector
from jessy_mem.workers import claim_number

APPLICATION = """
import os
import jessy_mem as jm
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from jessy_mem.exporters import prometheus_collector

memory = jm.MmapManager(base_path=os.environ["BASE"], simulation="never")
memory.load_dimension(1)
collector = prometheus_collector()
REGISTRY.register(collector)

def scrape():
    registry = CollectorRegistry()
    registry.register(collector)
    MultiProcessCollector(registry)
    return generate_latest(registry)

def application(environ, start_response):
    body = scrape() if environ["PATH_INFO"] == "/metrics" else bytes(memory.access_layer((1, 0)))
    start_response("200 OK", [("Worker", str(os.getpid())), ("Connection", "close")])
    return [body]
"""


@pytest.fixture
def folder(tmp_path, world):
    """A folder with the application, the base folder of its managers, and a folder for the client library."""
    world.write_all(1, 2)
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "shared").mkdir()
    return tmp_path


def environment(folder):
    return {**os.environ, "BASE": str(folder / "base"), "PROMETHEUS_MULTIPROC_DIR": str(folder / "shared")}


def run(folder, code):
    """What a program prints that has the application at hand, as JSON."""
    code = f"import json, os, sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    # numpy's threads are there, too, and Python 3.12 warns of a fork beside any.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", code]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def samples(text):
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def by_worker(text, name, **labels):
    """{worker: value} of the samples of that name and those labels; each worker is there once."""
    found = [
        (each.labels["worker"], each.value)
        for each in samples(text)
        if each.name == name and labels.items() <= each.labels.items()
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


SCRAPE = """
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry)
json.dump(generate_latest(registry).decode(), sys.stdout)
"""


def scraped(folder):
    """What the processes have left that have all ended."""
    return run(folder, SCRAPE)


class Server:
    """Two workers of gunicorn behind one port."""

    def __init__(self, folder, *options):
        self.listening = socket.create_server(("127.0.0.1", 0))
        fd = self.listening.fileno()
        command = [sys.executable, "-m", "gunicorn", "--workers=2", f"--bind=fd://{fd}", f"--chdir={folder}"]
        self.process = subprocess.Popen(
            [*command, "--log-level=error", *options, "application:application"],
            env=environment(folder),
            cwd=folder,  # gunicorn looks for modules where it is started, too
            pass_fds=[fd],
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()
        self.listening.close()

    def get(self, path):
        """(process that answered, text)."""
        connection = http.client.HTTPConnection(*self.listening.getsockname(), timeout=HUNG_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200
            return int(answer.headers["Worker"]), answer.read().decode()
        finally:
            connection.close()

    def read(self, *workers):
        """Read a layer until each of `workers`, or two of them, have; {process: how often}."""
        answered = Counter()
        while not (set(workers) <= answered.keys() if workers else len(answered) == 2):
            answered[self.get("/")[0]] += 1
        return answered

    def scrape(self, workers):
        """The last scrape of some in which each of `workers` was asked, and so has published what it counted."""
        asked = set()
        while not set(workers) <= asked:
            worker, text = self.get("/metrics")
            asked.add(worker)
        return text


@pytest.mark.skipif(find_spec("gunicorn") is None, reason="gunicorn is not installed")
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each imports", "one imports and forks"])
def test_two_workers_of_gunicorn_add_up_and_a_third_goes_on(folder, options):
    with Server(folder, *options) as server:
        first = server.read()
        text = server.scrape(first)
        accesses = by_worker(text, "jessy_mem_accesses_total")
        numbers = {"1", "2"} if options else {"0", "1"}
        assert Counter(accesses.values()) - Counter({0: 1}) == Counter(first.values())
        assert {number for number, n_accesses in accesses.items() if n_accesses} == numbers
        # Who loaded counts it, and a process that was forked afterwards does not count it again.
        assert sum(by_worker(text, "jessy_mem_loads_total").values()) == (1 if options else 2)
        timed = by_worker(text, "jessy_mem_operation_seconds_bucket", operation="first_touch", le="+Inf")
        assert {number for number, n_timed in timed.items() if n_timed == 1} == numbers

        gone = min(first)
        os.kill(gone, signal.SIGTERM)
        while gone in (second := server.read()):  # until another one has taken its place
            first += second
        text = server.scrape(second)
        assert sum(by_worker(text, "jessy_mem_accesses_total").values()) == sum((first + second).values())
        assert by_worker(text, "jessy_mem_accesses_total").keys() == accesses.keys()


def test_number_is_the_lowest_that_is_free(tmp_path):
    claims = [claim_number(str(tmp_path)) for _ in range(4)]
    assert [number for number, _ in claims] == [0, 1, 2, 3]
    for number in (2, 1):
        os.close(claims[number][1])
    claims[1:3] = [claim_number(str(tmp_path)) for _ in range(2)]
    assert [number for number, _ in claims] == [0, 1, 2, 3]
    for _, fd in claims:
        os.close(fd)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_number_of_a_killed_process_is_free(tmp_path, end):
    code = "import sys; from jessy_mem import workers as w; print(w.claim_number(sys.argv[1])[0], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"0\n"
        number, fd = claim_number(str(tmp_path))
        os.close(fd)
        assert number == 1
        holder.send_signal(end)
        holder.wait()
    number, fd = claim_number(str(tmp_path))
    os.close(fd)
    assert number == 0


def test_claim_that_fails_leaves_no_descriptor(tmp_path, inject):
    with inject(OSError(errno.ENOLCK, "No locks available"), "fcntl.flock"), pytest.raises(OSError, match="No locks"):
        claim_number(str(tmp_path))


def test_number_is_not_claimed_through_a_link(tmp_path):
    (tmp_path / "jessy_mem_worker_0.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        claim_number(str(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def test_manager_that_ended_at_once_is_counted_and_another_takes_its_label(folder):
    run(
        folder,
        """
from application import memory, collector, jm
memory.close()
for _ in range(3):
    with jm.MmapManager(base_path=os.environ["BASE"]) as other:
        other.load_dimension(2)
    del other
    collector.collect() and list(collector.collect())
json.dump(None, sys.stdout)
""",
    )
    text = scraped(folder)
    assert by_worker(text, "jessy_mem_loads_total", manager="1") == {"0": 4}
    assert by_worker(text, "jessy_mem_limit_bytes", manager="1") == {"0": 0}
    assert {each.labels["manager"] for each in samples(text)} == {"1"}


def test_what_the_end_of_the_process_does_is_counted(folder):
    run(
        folder,
        """
from application import memory, jm
memory.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke")])
json.dump(None, sys.stdout)
""",
    )
    assert by_worker(scraped(folder), "jessy_mem_crystallizations_total") == {"0": 1}


def test_only_managers_that_were_named_are_published(folder):
    run(
        folder,
        """
import jessy_mem as jm
from jessy_mem.exporters import prometheus_collector
one, two = (jm.MmapManager(base_path=os.environ["BASE"]) for _ in range(2))
prometheus_collector(two)
one.load_dimension(1)
two.load_dimension(1)
two.load_dimension(2)
del two
json.dump(None, sys.stdout)
""",
    )
    assert by_worker(scraped(folder), "jessy_mem_loads_total") == {"0": 2}


def test_forked_child_counts_what_it_did_itself(folder):
    forks = """
from application import memory, collector
memory.access_layer((1, 0))
for n_accesses in (0, 5):
    child = os.fork()
    if child == 0:
        for _ in range(n_accesses):
            memory.access_layer((1, 0))
        list(collector.collect())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
memory.access_layer((1, 0))
json.dump(None, sys.stdout)
"""
    run(folder, forks)
    assert by_worker(scraped(folder), "jessy_mem_accesses_total") == {"0": 2, "1": 5}
    assert by_worker(scraped(folder), "jessy_mem_loads_total") == {"0": 1, "1": 0}


LISTENS = """
import logging
lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("jessy_mem").addHandler(handler)
"""


def test_folder_that_is_gone_is_logged_once_and_stops_nothing(folder):
    lines = run(
        folder,
        LISTENS
        + """
os.environ["PROMETHEUS_MULTIPROC_DIR"] += "/not there"
from application import memory, collector
for _ in range(3):
    list(collector.collect())
memory.access_layer((1, 0))
json.dump(lines, sys.stdout)
""",
    )
    assert [line.partition(":")[0] for line in lines] == [
        "the numbers of this worker cannot be published: [Errno 2] No such file or directory".partition(":")[0]
    ]


def test_worker_without_a_thread_is_counted_when_it_is_scraped_and_at_its_end(folder):
    """The limit of threads would hold for all that the user runs, so `start` is replaced."""
    lines = run(
        folder,
        LISTENS
        + """
import threading
start, is_refused = threading.Thread.start, [True]
def refuse(thread):
    if is_refused[0]:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refuse
from application import jm, memory, scrape
from jessy_mem.exporters import prometheus_collector
assert b"jessy_mem" in scrape()
child = os.fork()  # which begins one of its own, in vain as well
if not child:
    os._exit(0 if b"jessy_mem" in scrape() else 1)
assert os.waitpid(child, 0)[1] == 0
is_refused[0] = False
prometheus_collector()
assert "jessy_mem metrics" in [each.name for each in threading.enumerate()]
memory.create_proto_dimension("Humor", [jm.LayerSpec(text="a joke")])
json.dump(lines, sys.stdout)
""",
    )
    assert lines == ["no thread publishes the numbers of this worker between scrapes: can't start new thread"]
    assert by_worker(scraped(folder), "jessy_mem_crystallizations_total") == {"0": 1}


def test_buckets_count_what_the_histograms_did(world):
    from prometheus_client import CollectorRegistry, generate_latest

    world.write_all(1)
    with jm.MmapManager(base_path=world.base) as memory:
        memory.load_dimension(1)
        loads = memory._loads  # private: how long a load takes is not the test's to say
        loads.merge(known := jm.LatencyHistogram())
        for t_ns in (0, 63, 64, 300, 2_000_000, 61_000_000_000):
            known.record(t_ns)
        before = loads.counts
        loads.merge(known)
        registry = CollectorRegistry()
        registry.register(prometheus_collector(memory))
        text = generate_latest(registry).decode()
        edges = loads.bucket_bounds_ns[:-1]
        found = {
            float(each.labels["le"]): each.value
            for each in samples(text)
            if each.name == "jessy_mem_operation_seconds_bucket" and each.labels["operation"] == "load"
        }
    counts = before + known.counts
    assert found.pop(float("inf")) == counts.sum() + 1  # and one that is longer than any bucket
    assert found == {bound / 1e9: counts[edges < bound].sum() for bound in BOUNDS_NS}
