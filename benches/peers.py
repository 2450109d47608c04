"""The Python peers of the benchmark: `peers.py TOOL WORKLOAD` writes the seconds that a workload took.

`peers.py list WORKLOAD` writes the tools that are installed and that the workload makes sense for, `map` first.
Workloads: start (process start to first result), tiny (a million square roots, warm), coarse-N (N items of 1 ms, from
nothing to nothing), large (200 x 1 MiB there and back, warm). Two workers everywhere; called by src/python.rs.
"""

import contextlib
import importlib.util
import math
import os
import sys
import time

WORKERS = 2


def turns_of_a_millisecond():
    """Turns of `spin` that take 1 ms on a core of this machine: the fastest of ten trials decides."""
    trial = 100_000
    best = min(timed(lambda: spin(trial)) for _ in range(10))
    return int(trial / best / 1000)


def timed(run):
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def spin(turns):
    state = 1
    for turn in range(turns):
        state = (state * 5 + turn) & 0xFFFF
    return state


def echo(data):
    return data[:-1] + b"x"


# One context manager a tool: gives a function like `map` that takes a chunk size as well and returns a list.


@contextlib.contextmanager
def map_(_chunk):
    yield lambda function, items, chunk: list(map(function, items))


@contextlib.contextmanager
def multiprocessing_(_chunk):
    import multiprocessing

    with multiprocessing.Pool(WORKERS) as pool:
        yield lambda function, items, chunk: pool.map(function, items, chunk)


@contextlib.contextmanager
def executor(_chunk):
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as pool:
        yield lambda function, items, chunk: list(pool.map(function, items, chunksize=chunk))


@contextlib.contextmanager
def loky(_chunk):
    import loky as library

    pool = library.ProcessPoolExecutor(WORKERS)
    try:
        yield lambda function, items, chunk: list(pool.map(function, items, chunksize=chunk))
    finally:
        pool.shutdown()


@contextlib.contextmanager
def joblib(chunk):
    from joblib import Parallel, delayed

    with Parallel(n_jobs=WORKERS, batch_size=chunk) as pool:
        yield lambda function, items, chunk: pool(delayed(function)(item) for item in items)


@contextlib.contextmanager
def mpire(_chunk):
    from mpire import WorkerPool

    with WorkerPool(WORKERS, keep_alive=True) as pool:
        yield lambda function, items, chunk: pool.map(function, list(items), chunk_size=chunk)


@contextlib.contextmanager
def ray(_chunk):
    import ray as library

    library.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    run = library.remote(lambda function, items: [function(item) for item in items])

    def map_chunks(function, items, chunk):
        items = list(items)
        calls = [run.remote(function, items[at : at + chunk]) for at in range(0, len(items), chunk)]
        return [result for results in library.get(calls) for result in results]

    try:
        yield map_chunks
    finally:
        library.shutdown()


@contextlib.contextmanager
def dask(_chunk):
    from distributed import Client

    with Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as client:

        def map_chunks(function, items, chunk):
            items = list(items)
            chunks = [items[at : at + chunk] for at in range(0, len(items), chunk)]
            calls = client.map(lambda items: [function(item) for item in items], chunks, pure=False)
            return [result for results in client.gather(calls) for result in results]

        yield map_chunks


# What must be installed, by tool.
TOOLS = {
    "map": (map_, None),
    "multiprocessing": (multiprocessing_, None),
    "ProcessPoolExecutor": (executor, None),
    "loky": (loky, "loky"),
    "joblib": (joblib, "joblib"),
    "mpire": (mpire, "mpire"),
    "ray": (ray, "ray"),
    "dask": (dask, "distributed"),
}


def installed():
    return [name for name, (_, module) in TOOLS.items() if module is None or importlib.util.find_spec(module)]


def warm(tool, function, items, chunk):
    with tool(chunk) as mapped:
        mapped(function, items[: 2 * WORKERS * chunk], chunk)
        return timed(lambda: mapped(function, items, chunk))


def cold(tool, function, items, chunk):
    def run():
        with tool(chunk) as mapped:
            mapped(function, items, chunk)

    return timed(run)


def start(name):
    """From outside: a Python that starts, imports, and has a first result."""
    import subprocess

    command = [sys.executable, __file__, name, "first"]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout.read(1) == b"1", "no result"
        return time.perf_counter() - begun


def main(name, workload):
    if name == "list":
        print(" ".join(installed()))
        return
    tool = TOOLS[name][0]
    if workload == "start":
        seconds = start(name)
    elif workload == "first":
        with tool(1) as mapped:
            mapped(math.sqrt, range(WORKERS), 1)
            os.write(1, b"1")
        return
    elif workload == "tiny":
        seconds = warm(tool, math.sqrt, range(1_000_000), 20_000)
    elif workload.startswith("coarse-"):
        count = int(workload.removeprefix("coarse-"))
        turns = turns_of_a_millisecond()
        seconds = cold(tool, spin, [turns] * count, max(1, count // 40))
    elif workload == "large":
        seconds = warm(tool, echo, [bytes([7]) * (1 << 20)] * 200, 1)
    else:
        sys.exit(f"no such workload: {workload}")
    print(seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
