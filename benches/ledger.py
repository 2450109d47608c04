#!/usr/bin/env python3
"""What a batch costs the ledger: batches a second and CPU time of each side, on SQLite and on PostgreSQL (one that syncs its commits).

scripts/bench ledger [ROUNDS]   prints the table of docs/scaling.md
"""

import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile

CASES = [  # gateways, accounts, batches in flight at each
    (1, 1, 1), (1, 1, 8), (1, 1, 64), (1, 8, 64), (2, 1, 64), (2, 8, 64), (4, 8, 64),
]
TICKS = os.sysconf("SC_CLK_TCK")


def cpu(root):
    """CPU seconds of a process and all below it, also of those that have ended."""
    stats = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        stats[int(path.parent.name)] = (int(words[1]), sum(map(int, words[11:15])) / TICKS)
    def below(pid):
        return stats[pid][1] + sum(below(child) for child, (parent, _) in stats.items() if parent == pid)
    return below(root)


def run(program, database, case, batches):
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run([program, database, *map(str, case), str(batches)], check=True, capture_output=True, text=True).stdout
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    rate, reserve, settle = map(float, re.search(r"([\d.]+) batches/s, p50 ([\d.]+) ms to reserve, ([\d.]+)", said).groups())
    gateway = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
    return rate, reserve, settle, gateway / batches * 1e6


def main():
    program, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    script = pathlib.Path(__file__).parent.parent / "scripts" / "postgres"
    found = {}
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
        [script, "--durable"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        url = server.stdout.readline().strip()
        place = re.search(r"host=(.*)", url).group(1)
        postmaster = int(pathlib.Path(place, "data", "postmaster.pid").read_text().split()[0])
        psql = ["psql", "-q", f"--host={place}", "--username=fastmap", "postgres", "-c"]
        for n in range(rounds):
            for case in CASES:
                batches = 2000 if case[2] == 1 else 10_000
                if case[0] == 1:
                    name = f"sqlite://{folder}/{n}-{'-'.join(map(str, case))}"
                    found.setdefault(("SQLite", case), []).append((*run(program, name, case, batches), 0.0))
                schema = f"s{n}_{'_'.join(map(str, case))}"
                subprocess.run([*psql, f"CREATE SCHEMA {schema}"], check=True)
                before = cpu(postmaster)
                measured = run(program, f"{url}&options[search_path]={schema}", case, batches)
                found.setdefault(("PostgreSQL", case), []).append((*measured, (cpu(postmaster) - before) / batches * 1e6))
        server.stdin.close()
    print("| database | gateways | accounts | in flight at each | batches/s | reserve, p50 ms | settle, p50 ms | CPU of the gateway, µs | CPU of the server, µs |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (database, case), values in sorted(found.items(), key=lambda entry: (entry[0][0] != "SQLite", CASES.index(entry[0][1]))):
        cells = []
        for at, column in enumerate(zip(*values)):
            digits = 2 if at in (1, 2) else 0
            middle, low, high = statistics.median(column), min(column), max(column)
            cells.append(f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})" if middle else "in the gateway")
        print("|", " | ".join([database, *map(str, case), *cells]), "|")


if __name__ == "__main__":
    main()
