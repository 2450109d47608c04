"""What the cloud service costs a batch, beside Ray and Dask doing the same: `cloud.py FOLDER [--rounds N] [--write FILE]`.

FOLDER holds the release build (fastmap, its test worker, examples/load). Each batch is 64 KB in and 64 KB out, no
compute, closed loop: as many callers as twice the workers, each waiting for its answer before it asks again. All on this
machine, over loopback, in turn, so that what else it does hits all. With `--beside OTHER` (the release build of another
checkout) the two services are compared with each other instead. Called by scripts/bench cloud.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

BYTES = 65536
SECONDS = 3.0
PEERS = ["ray", "dask"]


def echo(data):
    return data


def closed_loop(callers, call):
    """Batches a second and the median of their times, over some seconds after a warm-up."""
    data = b"x" * BYTES
    times, stop = [], time.monotonic() + 1 + SECONDS
    begin = stop - SECONDS

    def ask():
        while (sent := time.monotonic()) < stop:
            assert len(call(data)) == BYTES
            if sent >= begin:
                times.append(time.monotonic() - sent)

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"per_second": len(times) / SECONDS, "p50_ms": statistics.median(times) * 1000}


def peer(tool, workers, callers):
    """Measures one peer, in this process."""
    if tool == "ray":
        import ray

        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        run = ray.remote(echo)
        print(json.dumps(closed_loop(callers, lambda data: ray.get(run.remote(data)))))
        ray.shutdown()
    else:
        from distributed import Client

        with Client(n_workers=workers, threads_per_worker=1, dashboard_address=None) as client:
            print(json.dumps(closed_loop(callers, lambda data: client.submit(echo, data, pure=False).result())))


def last_json(command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, **more)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}")
    return json.loads(lines[-1])


def service(folder, workers, tls, jailed, certificate):
    """Starts a service on a free port, sends it batches for some seconds, and ends it."""
    fastmap = os.path.join(folder, "fastmap")
    with tempfile.TemporaryDirectory() as data:
        subprocess.run([fastmap, "account", "create", "bench", "--data", data], check=True, capture_output=True)
        token = last_json([fastmap, "token", "create", "bench", "--data", data, "--json"])
        command = [fastmap, "serve", "--data", data, "--listen", "127.0.0.1:0", "--workers", str(workers)]
        command += ["--log", "error"] + ([] if jailed else ["--insecure-no-sandbox"])
        if tls:
            command += ["--tls-cert", certificate + "/cert.pem", "--tls-key", certificate + "/key.pem"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                url = process.stdout.readline().removeprefix("listening at ").strip()
                url = url.replace("127.0.0.1", "localhost") if tls else url
                environment = {"FASTMAP_CLOUD_URL": url, "FASTMAP_SECRET": token["secret"]}
                environment |= {"SSL_CERT_FILE": certificate + "/cert.pem"} if tls else {}
                load = [folder + "/examples/load", folder + "/fastmap-service-test-worker"]
                arguments = [str(int(1500 * SECONDS)), str(2 * workers), str(BYTES)]
                return last_json(load + arguments, env=os.environ | environment)
            finally:
                process.terminate()


# The service's kinds of operation: name, TLS, jails.
KINDS = [("fastmap", False, False), ("fastmap, jailed", False, True), ("fastmap, TLS, jailed", True, True)]


def compare(folder, other, rounds, certificate):
    """This build over another one, in pairs that change their order; the report's text."""
    lines = ["| | workers | batches/s over the other build's | p50 over the other build's |", "|---|---|---|---|"]
    for name, tls, jailed in KINDS:
        for workers in (2, 4):
            speeds, medians = [], []
            for at in range(rounds):
                order = (folder, other) if at % 2 == 0 else (other, folder)
                found = {each: service(each, workers, tls, jailed, certificate) for each in order}
                speeds.append(found[folder]["per_second"] / found[other]["per_second"])
                medians.append(found[folder]["p50_ms"] / found[other]["p50_ms"])
            lines.append(f"| {name} | {workers} | {shown(speeds, 3)} | {shown(medians, 3)} |")
    return "\n".join([f"{rounds} pairs of each, {os.cpu_count()} cores, commit {commit()}; medians, ranges in brackets.", "", *lines])


def make_certificate(folder):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
    command = command.split() + ["-keyout", folder + "/key.pem", "-out", folder + "/cert.pem"]
    subprocess.run(command, check=True, capture_output=True)


def shown(values, digits):
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def report(results, rounds):
    lines = []
    for workers in sorted({key[0] for key in results}):
        lines += [f"### {workers} workers, {2 * workers} callers", ""]
        lines += ["| | batches/s | p50, ms | throughput to Ray's | p50 to Ray's |", "|---|---|---|---|---|"]
        ray = results.get((workers, "ray"))
        for (of, name), found in results.items():
            if of != workers:
                continue
            speeds, medians = ([each[key] for each in found] for key in ("per_second", "p50_ms"))
            ratio = ["–", "–"]
            if ray:
                theirs = ([each[key] for each in ray] for key in ("per_second", "p50_ms"))
                both = zip((speeds, medians), theirs)
                ratio = [f"{statistics.median(ours) / statistics.median(their):.2f}" for ours, their in both]
            lines.append(f"| {name} | {shown(speeds, 0)} | {shown(medians, 2)} | {ratio[0]} | {ratio[1]} |")
        lines.append("")
        lines += shares({name: found for (of, name), found in results.items() if of == workers})
    cores = os.cpu_count()
    head = f"{rounds} rounds in turn, {cores} cores; medians, ranges in brackets."
    return "\n".join([head, "", *lines])


def shares(results):
    """Where the mean batch of a jailed service with TLS spends its time."""
    mean = lambda name, of: statistics.median([of(each) for each in results[name]])
    total = lambda name: mean(name, lambda each: each["mean_ms"])
    stage = lambda name, key: mean(name, lambda each: each["stages"][key] * 1000)
    whole, plain, bare = "fastmap, TLS, jailed", "fastmap, jailed", "fastmap"
    rows = [
        ("ledger: reserve", stage(whole, "reserve")),
        ("dispatch: queue, agent, channel, worker", min(stage(bare, "dispatch"), stage(whole, "dispatch"))),
        ("jail: what dispatch takes longer than without", max(0, stage(whole, "dispatch") - stage(bare, "dispatch"))),
        ("answer: digest, spool", stage(whole, "spool")),
        ("ledger: settle", stage(whole, "settle")),
    ]
    rows.append(("gateway: signatures, digests, the rest", stage(whole, "request") - sum(row[1] for row in rows)))
    outside = {name: total(name) - stage(name, "request") for name in (whole, plain)}
    tls = min(max(0, outside[whole] - outside[plain]), outside[whole])
    rows.append(("TLS: what the way takes longer than without", tls))
    rows.append(("client, and the way over loopback", outside[whole] - tls))
    lines = ["| stage, TLS and jails | ms | share |", "|---|---|---|"]
    lines += [f"| {name} | {ms:.2f} | {100 * ms / total(whole):.0f} % |" for name, ms in rows]
    return [*lines, ""]


def commit():
    """The commit that is measured."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def write(path, text):
    """Replaces the part of a document between the marks."""
    with open(path, encoding="utf-8") as file:
        before, _, rest = file.read().partition("<!-- measured -->\n")
    after = rest.partition("<!-- end -->")[2]
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}<!-- measured -->\n{text}\n<!-- end -->{after}")


def main():
    if sys.argv[1] == "peer":
        return peer(sys.argv[2], *map(int, sys.argv[3:]))
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", metavar="OTHER", help="the release build of another checkout, instead of the peers")
    parser.add_argument("--write", help="a document whose part between the marks is replaced")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as certificate:
        make_certificate(certificate)
        if arguments.beside:
            return print(compare(arguments.folder, arguments.beside, arguments.rounds, certificate))
        for _ in range(arguments.rounds):
            for workers in (2, 4):
                for name in PEERS:
                    command = [sys.executable, __file__, "peer", name, str(workers), str(2 * workers)]
                    results.setdefault((workers, name), []).append(last_json(command))
                for name, tls, jailed in KINDS:
                    found = service(arguments.folder, workers, tls, jailed, certificate)
                    results.setdefault((workers, name), []).append(found)
    text = report(results, arguments.rounds)
    print(text)
    if arguments.write:
        write(arguments.write, text)


if __name__ == "__main__":
    main()
