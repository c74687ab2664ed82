#!/usr/bin/env python3
"""How what the crate costs grows with pages, writes, payloads, scopes and workers, and how it stands beside others.

    python3 benches/growth.py run             measures; 8 minutes, two rounds
    python3 benches/growth.py run --quick     shows that everything works; less than a minute
    python3 benches/growth.py compare --server NAME="COMMAND {port}" --server …
                                              servers side by side, at a low rate and at the highest
    python3 benches/growth.py table           medians, as Markdown
    python3 benches/growth.py draw            docs/plots/growth-*.svg; needs matplotlib

Each measurement has a server process of its own (`examples/bench_server.rs`) and pages and writers in another
(`examples/bench_load`). In each round every point is measured once, in random order. A server to compare with takes
handshakes and sockets at `/api/v1` and posts at `/events`, and lets `token` in.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import shlex
import socket
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PLOTS = ROOT / "docs" / "plots"
# The replay is sent a second time, 5 s after a page has subscribed.
REST = 5.5

# What a server and its pages are like where a measurement sets nothing else. A rate of 0 means as many as get through.
USUAL = {"pages": 1000, "rate": 30, "payload": 200, "scopes": 0, "workers": 1, "seconds": 2, "spin": True}
LABELS = {
    "pages": "pages",
    "rate": "writes per second (at the right: as many as get through)",
    "payload": "bytes of an event",
    "scopes": "scopes (each write is published in one of them)",
    "workers": "worker threads",
    "server": "server",
}
CPU, WRITE, P50, P99 = "cpu_us_per_frame", "cpu_us_per_event", "p50_ms", "p99_ms"
# The numbers that are shown.
DRAWN = {CPU: "CPU per frame (µs)", WRITE: "CPU per write (µs)", P50: "median time (ms)", P99: "99th percentile (ms)"}


def grid():
    """The points of each variable: what differs from the usual."""
    return {
        # About 20 000 frames a second, of two writes a second at least.
        "pages": [
            {"pages": pages, "rate": max(2, min(100, 20_000 / pages)), "seconds": 3}
            for pages in (100, 300, 1000, 3000, 10_000, 19_000)
        ],
        "rate": [{"rate": rate, "seconds": max(2, 5 / rate)} for rate in (1, 3, 10, 30, 100, 300)]
        + [{"rate": 0, "seconds": 1}],
        "payload": [{"pages": 200, "payload": payload} for payload in (100, 1024, 4096, 16_384, 65_536)],
        "scopes": [{"scopes": scopes, "rate": 100} for scopes in (1, 10, 100, 1000)],
        # Two workers and a client that never sleeps would be three on two cores.
        "workers": [{"workers": workers, "spin": False} for workers in (1, 2)]
        + [{"workers": workers, "spin": False, "rate": 0, "seconds": 1} for workers in (1, 2)],
    }


def quick():
    """Few small points of the same kinds."""
    return {
        "pages": [{"pages": 100}, {"pages": 1000}],
        "rate": [{"pages": 100, "rate": rate} for rate in (30, 0)],
        "payload": [{"pages": 50, "payload": payload} for payload in (100, 65_536)],
        "scopes": [{"pages": 100, "scopes": scopes} for scopes in (1, 10)],
        "workers": [{"pages": 100, "workers": workers, "spin": False} for workers in (1, 2)],
    }


def side_by_side(names):
    """Each server at a rate that leaves it time, and with as many writes as get through."""
    return {
        "server": [{"server": name} for name in names]
        + [{"server": name, "rate": 0, "seconds": 1, "spin": False} for name in names]
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, port):
    """A server that listens, without a shell between: its CPU is read."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server
        except OSError:
            time.sleep(0.05)
    server.kill()
    raise SystemExit(f"{command} does not listen on port {port}")


def measure(point, rest, commands):
    """One server, its pages, and one line of numbers."""
    examples, port = TARGET / "release" / "examples", str(free_port())
    scopes = ["--scopes", str(point["scopes"])] if point["scopes"] else []
    if "server" in point:
        command = shlex.split(commands[point["server"]].replace("{port}", port))
    else:
        command = [examples / "bench_server", port, str(point["workers"]), *scopes]
    server = start(command, int(port))
    try:
        load = [examples / "bench_load", "--port", port, "--pid", str(server.pid), "--rest", str(rest), *scopes]
        for name in ("pages", "payload", "seconds"):
            load += [f"--{name}", str(point[name])]
        load += ["--rate", str(point["rate"])] if point["rate"] else []
        load += ["--spin"] if point["spin"] else []
        try:
            done = subprocess.run(load, capture_output=True, text=True, timeout=180)
        except subprocess.TimeoutExpired as late:
            return {"ok": False, "error": str(late)}
        return json.loads(done.stdout) if done.returncode == 0 else {"ok": False, "error": done.stderr.strip()}
    finally:
        server.kill()
        server.wait()


def run(options):
    build = "cargo build --release --features axum --example bench_server --example bench_load"
    subprocess.run(build.split(), cwd=ROOT, check=True)
    commands = dict(server.split("=", 1) for server in options.server)
    if options.command == "compare":
        plan = side_by_side(commands)
    else:
        plan = quick() if options.quick else grid()
    short, rest = ({"seconds": 0.5}, 0.2) if options.quick else ({}, REST)
    began = time.monotonic()
    with open(options.results, "a" if options.append else "w") as results:
        for number in range(1 if options.quick else options.rounds):
            points = [(variable, {**USUAL, **point, **short}) for variable in plan for point in plan[variable]]
            # A fixed order would let the machine's other work meet the same points in every round.
            random.shuffle(points)
            for variable, point in points:
                line = {"variable": variable, "round": number, **measure(point, rest, commands), **point}
                results.write(json.dumps(line) + "\n")
                results.flush()
                shown = {name: round(line[name], 3) for name in (CPU, P50, P99) if line.get(name) is not None}
                print(f"{time.monotonic() - began:4.0f} s", variable, point[variable], point["rate"] or "max", shown, end=" ", flush=True)
                print("ok" if line["ok"] else f"FAILED {line}")
    if not all(line["ok"] for line in read(options.results)):
        raise SystemExit("some measurements are not complete")


def read(path):
    with open(path) as results:
        return [json.loads(line) for line in results]


def series(lines, variable):
    """What is distinguished besides the variable, and the rows of medians that belong together."""
    groups = {}
    for line in lines:
        if line["variable"] == variable and line["ok"]:
            apart = ""
            if variable in ("workers", "server"):
                apart = f"{line['rate']} writes per second" if line["rate"] else "as many as get through"
            groups.setdefault(apart, {}).setdefault(line[variable], []).append(line)
    for apart, points in sorted(groups.items()):
        rows = [
            {"value": value, "runs": len(runs)}
            | {name: statistics.median(run[name] for run in runs) for name in DRAWN}
            for value, runs in points.items()
        ]
        # As many writes as get through stand behind all others; servers, behind those that cost less.
        yield apart, sorted(rows, key=lambda row: row[CPU] if variable == "server" else row["value"] or float("inf"))


def table(options):
    lines = read(options.results)
    for variable in LABELS:
        for apart, rows in series(lines, variable):
            print(f"\n### {variable}{', ' + apart if apart else ''}\n")
            print(f"| {variable} | runs | " + " | ".join(DRAWN.values()) + " | CPU, ratio to the first |")
            print("|---:" * (3 + len(DRAWN)) + "|")
            for row in rows:
                numbers = " | ".join(f"{row[name]:.3g}" for name in DRAWN)
                print(f"| {row['value'] or 'max'} | {row['runs']} | {numbers} | {row[CPU] / rows[0][CPU]:.2f} |")


def draw(options):
    import matplotlib

    matplotlib.use("svg")
    # The same numbers give the same files.
    matplotlib.rcParams["svg.hashsalt"] = "growth"
    from matplotlib import pyplot

    lines = read(options.results)
    PLOTS.mkdir(parents=True, exist_ok=True)
    for variable, label in LABELS.items():
        if variable == "server" or not any(line["variable"] == variable for line in lines):
            continue
        figure, (cpu, times) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        for apart, rows in series(lines, variable):
            positions = [row["value"] or 2 * rows[-2]["value"] for row in rows]
            # Where few pages receive a write, what it costs besides its frames is what counts.
            for axes, names in ((cpu, (CPU, WRITE) if variable == "scopes" else (CPU,)), (times, (P50, P99))):
                for name in names:
                    legend = f"{DRAWN[name]}, {apart}" if apart else DRAWN[name]
                    axes.plot(positions, [row[name] for row in rows], marker="o", label=legend)
        for axes in (cpu, times):
            axes.set(xscale="log", yscale="log", xlabel=label)
            axes.grid(which="both", alpha=0.3)
            axes.legend(fontsize="small")
        figure.savefig(PLOTS / f"growth-{variable}.svg", metadata={"Date": None})
        pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "compare", "table", "draw"])
    parser.add_argument("--server", action="append", default=[], metavar="NAME=COMMAND", help="for compare")
    parser.add_argument("--results", type=pathlib.Path, help="where the numbers are kept; target/growth.jsonl and so on")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--append", action="store_true", help="keep the results of earlier rounds")
    options = parser.parse_args()
    if options.command == "compare" and not options.server:
        parser.error("compare needs servers: --server NAME=\"COMMAND {port}\"")
    kind = "compare" if options.command == "compare" else "growth-quick" if options.quick else "growth"
    options.results = options.results or TARGET / f"{kind}.jsonl"
    options.results.parent.mkdir(exist_ok=True)
    # Each page is a file that is open, in the server's process and in that of the pages.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    {"run": run, "compare": run, "table": table, "draw": draw}[options.command](options)


if __name__ == "__main__":
    main()
