"""What many machines cost and bring, all of them on this one: `machines.py FOLDER [--rounds N] [--write FILE]`.

Dispatch: batches of 64 KB through NATS JetStream kept by one server and by three, beside bare requests of the same size by the same
servers, the queue of a service on one machine, and Ray and Dask doing the same; in turn, so that what else the machine does hits
all. Agents: a gateway on PostgreSQL, and up to ten agents that join one by one, with batches that sleep.

FOLDER holds the release build (fastmap, its test worker, examples/load and examples/queue). Called by scripts/bench machines.
"""

import argparse
import contextlib
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import cloud
import ledger

WORKERS, IN_FLIGHT = 4, 32
AGENTS, WORKERS_OF_AGENT, SLEEP_MS = 10, 16, 100
SECONDS = 5
ROOT = pathlib.Path(__file__).parent.parent


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


@contextlib.contextmanager
def ended(process):
    """A process that ends with this."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(what, event):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (found := event()) is not None:
            return found
        time.sleep(0.05)
    raise RuntimeError(f"{what} did not come")


@contextlib.contextmanager
def nats(servers):
    """So many NATS servers that keep what is queued together; gives their addresses and processes."""
    ports = free_ports(2 * servers)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[servers:])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        processes, logs = [], []
        for at in range(servers):
            text = f'server_name: nats{at}\nlisten: "127.0.0.1:{ports[at]}"\njetstream {{ store_dir: "{folder}/{at}" }}\n'
            if servers > 1:
                text += f'cluster {{ name: bench, listen: "127.0.0.1:{ports[servers + at]}", routes: [{routes}] }}\n'
            config, log = pathlib.Path(folder, f"{at}.conf"), pathlib.Path(folder, f"{at}.log")
            config.write_text(text)
            with log.open("w") as file:
                process = subprocess.Popen(["nats-server", "--config", config], stderr=file)
            processes.append(stack.enter_context(ended(process)))
            logs.append(log)
        ready = "JetStream cluster new metadata leader" if servers > 1 else "Server is ready"
        wait_for("NATS", lambda: True if any(ready in log.read_text() for log in logs) else None)
        yield ",".join(f"nats://127.0.0.1:{port}" for port in ports[:servers]), processes


def queue(folder, servers):
    """A round of each way of dispatch, and how long a small tenant waits behind a large one (with one server)."""
    with nats(servers) as (url, _):
        command = [f"{folder}/examples/queue", url, "3000", str(cloud.BYTES), str(servers), "1"]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, check=True).stdout
    found = {}
    for name, rate, p50 in re.findall(r"(\w+) +(\d+)/s .*p50 ([\d.]+) ms", said):
        found[name] = {"per_second": float(rate), "p50_ms": float(p50)}
    waits = re.findall(r"p50 ([\d.]+) ms and p99 ([\d.]+) ms", said)
    found["fairness"] = [float(number) for pair in waits for number in pair]
    return found


def join(folder, url, data, number):
    command = [f"{folder}/fastmap", "agent", "--nats", url, "--name", f"a{number}", "--insecure-no-sandbox"]
    command += ["--workers", str(WORKERS_OF_AGENT), "--data", f"{data}/agent{number}", "--log", "error"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("works as")
    return process


def batches(url):
    metrics = subprocess.run(["curl", "-s", f"{url}/metrics"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^fastmap_batches_total (\d+)", metrics, re.M)
    return int(found.group(1)) if found else 0


def agents(folder):
    """Batches a second, and the CPU time that a batch takes of each part, by the number of agents that have joined."""
    rows = []
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory())
        nats_url, servers = stack.enter_context(nats(1))
        script = [ROOT / "scripts" / "postgres", "--durable"]
        postgres = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(lambda: (postgres.stdin.close(), postgres.wait()))
        database = postgres.stdout.readline().strip()
        place = pathlib.Path(re.search(r"host=(.*)", database).group(1))
        postmaster = int((place / "data" / "postmaster.pid").read_text().split()[0])
        environment = os.environ | {"FASTMAP_DATABASE": database, "FASTMAP_SERVICE_DATA": data}
        fastmap = f"{folder}/fastmap"
        command = [fastmap, "serve", "--listen", "127.0.0.1:0", "--nats", nats_url, "--log", "error"]
        command += ["--nats-quota", "4096"]
        gateway = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        stack.enter_context(ended(gateway))
        url = gateway.stdout.readline().removeprefix("listening at ").strip()
        account = [fastmap, "account", "create", "bench", "--credits", "100000"]
        subprocess.run(account, check=True, capture_output=True, env=environment)
        token = cloud.last_json([fastmap, "token", "create", "bench", "--json"], env=environment)
        joined = [stack.enter_context(ended(join(folder, nats_url, data, 0)))]
        load = [f"{folder}/examples/load", f"{folder}/fastmap-service-test-worker", str(10**6)]
        load += [str(2 * AGENTS * WORKERS_OF_AGENT), "0", str(SLEEP_MS)]
        client = {"FASTMAP_CLOUD_URL": url, "FASTMAP_SECRET": token["secret"]}
        client = subprocess.Popen(load, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | client)
        stack.enter_context(ended(client))
        wait_for("batches", lambda: True if batches(url) > 100 else None)
        while True:
            # The newest has its workers.
            begun = batches(url)
            wait_for("batches", lambda: True if batches(url) > begun + 20 * WORKERS_OF_AGENT * len(joined) else None)
            parts = {"gateway": [gateway.pid], "PostgreSQL": [postmaster], "NATS": [each.pid for each in servers]}
            parts |= {"agents and workers": [each.pid for each in joined], "client": [client.pid]}
            used = lambda: {name: sum(map(ledger.cpu, pids)) for name, pids in parts.items()}
            before, at, since = used(), batches(url), time.monotonic()
            time.sleep(SECONDS)
            after, count, took = used(), batches(url) - at, time.monotonic() - since
            cpu = {name: (after[name] - before[name]) / count * 1e6 for name in parts}
            busy = sum(after.values()) - sum(before.values())
            rows.append((len(joined), count / took, busy / took, cpu))
            if len(joined) == AGENTS:
                return rows
            joined.append(stack.enter_context(ended(join(folder, nats_url, data, len(joined)))))


def show(results, fair, rows, rounds):
    ranged = cloud.shown
    lines = [f"{rounds} rounds in turn, {os.cpu_count()} cores for all, commit {cloud.commit()}; medians, ranges in brackets.", ""]
    lines += ["| 64 KB there and back, 32 under way, 4 workers | batches/s | p50, ms | to the bare request | to Ray |", "|---|---|---|---|---|"]
    ratio = lambda name, of: f"{statistics.median(a['per_second'] / b['per_second'] for a, b in zip(results[name], results[of])):.2f}"
    for name, found in results.items():
        copies = re.search(r"\d servers?", name)
        bare = f"bare JetStream request, {copies.group(0)}" if copies else None
        cells = [ranged([each["per_second"] for each in found], 0), ranged([each["p50_ms"] for each in found], 2)]
        cells += [ratio(name, bare) if bare else "–", ratio(name, "ray") if "ray" in results else "–"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| 40 batches of a small tenant | p50, ms | p99, ms |", "|---|---|---|"]
    alone, behind = ([[round_[at + part] for round_ in fair] for part in (0, 1)] for at in (0, 2))
    for name, (p50, p99) in [("alone", alone), ("behind 10,000 of another", behind)]:
        lines.append(f"| {name} | {ranged(p50, 1)} | {ranged(p99, 1)} |")
    lines.append(f"| times | | {ranged([b / a for a, b in zip(alone[1], behind[1])], 2)} |")
    parts = list(rows[0][3])
    one = rows[0][1]
    lines += ["", f"Agents of {WORKERS_OF_AGENT} workers, batches that sleep {SLEEP_MS} ms, {SECONDS} s each:", ""]
    lines += ["| agents | batches/s | of linear | cores busy | " + " | ".join(f"{part}, CPU µs a batch" for part in parts) + " |"]
    lines += ["|---" * (4 + len(parts)) + "|"]
    for count, rate, busy, cpu in rows:
        cells = " | ".join(f"{cpu[part]:.0f}" for part in parts)
        lines.append(f"| {count} | {rate:,.0f} | {rate / (one * count):.2f} | {busy:.2f} | {cells} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", help="a document whose part between the marks is replaced")
    arguments = parser.parse_args()
    results, fair = {}, []
    for _ in range(arguments.rounds):
        for servers in (1, 3):
            found = queue(arguments.folder, servers)
            copies = "1 server" if servers == 1 else f"{servers} servers"
            results.setdefault(f"bare JetStream request, {copies}", []).append(found["bare"])
            results.setdefault(f"fastmap by JetStream, {copies}", []).append(found["jetstream"])
            if servers == 1:
                results.setdefault("fastmap, in one process", []).append(found["embedded"])
                fair.append(found["fairness"])
        for peer in cloud.PEERS:
            command = [sys.executable, cloud.__file__, "peer", peer, str(WORKERS), str(IN_FLIGHT)]
            results.setdefault(peer, []).append(cloud.last_json(command))
    text = show(results, fair, agents(arguments.folder), arguments.rounds)
    print(text)
    if arguments.write:
        cloud.write(arguments.write, text)


if __name__ == "__main__":
    main()
