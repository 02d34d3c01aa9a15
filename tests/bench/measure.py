"""One measurement each: a pgbench run, a large COPY, idle clients.

Every function returns plain numbers; what they mean together is `report`'s.
"""

import re
import subprocess
import threading
import time
from pathlib import Path

import wire
from processes import Failed, clean_environment
from servers import DATABASE, PASSWORD, SCRAM_USER, TRUST_USER

# Of the transactions whose latency is written down for the percentiles.
SAMPLING_RATE = 0.1
SETTLE_S = 2


def pgbench(bench, target, *, mode, clients, seconds, connect=False, tls=False, user=TRUST_USER):
    """Throughput, latency, and the proxy's CPU time for each transaction."""
    prefix = bench.place.path / "latency"
    arguments = [bench.servers.binaries / "pgbench", "-n", "-S", "-M", mode, "-c", clients]
    arguments += ["-j", min(2, clients), "-T", seconds, "-h", "127.0.0.1", "-p", target.port, "-U", user]
    arguments += ["-l", "--log-prefix", prefix, "--sampling-rate", SAMPLING_RATE]
    arguments += ["-C"] if connect else []
    env = {"PGPASSWORD": PASSWORD, "PGSSLMODE": "require" if tls else "disable", "PGGSSENCMODE": "disable"}
    machine, cpu = machine_busy_seconds(), cpu_seconds(target)
    done = subprocess.run(
        [str(argument) for argument in [*arguments, DATABASE]],
        env=clean_environment(env),
        cwd=bench.place.path,
        text=True,
        capture_output=True,
    )
    cpu, machine = cpu_seconds(target) - cpu, machine_busy_seconds() - machine
    latencies = read_latencies(prefix)
    if done.returncode != 0:
        raise Failed(f"pgbench at {target.name}: {done.stderr.strip()[-500:]}")
    transactions = int(find(r"actually processed: (\d+)", done.stdout))
    if transactions == 0:
        raise Failed(f"pgbench at {target.name}: no transaction: {done.stderr.strip()[-500:]}")
    return {
        "tps": float(find(r"tps = ([\d.]+)", done.stdout)),
        "latency_ms": float(find(r"latency average = ([\d.]+)", done.stdout)),
        "p99_ms": percentile(latencies, 0.99),
        "cpu_us": cpu / transactions * 1e6,
        "machine_us": machine / transactions * 1e6,
    }


def copy_out(bench, target, *, megabytes, format):
    """Rate of one COPY of the large table, and how much the proxy grew meanwhile."""
    connection = wire.Connection(target.port, SCRAM_USER, PASSWORD, DATABASE, timeout_s=300)
    connection.query("SELECT 1")
    before = memory_kb(target)
    peak, done = [before], threading.Event()

    def watch():
        while not done.wait(0.02):
            peak.append(memory_kb(target))

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu, begun = cpu_seconds(target), time.monotonic()
    try:
        received = connection.drain_copy(f"COPY large TO STDOUT (FORMAT {format})", megabytes << 20)
    finally:
        elapsed, cpu = time.monotonic() - begun, cpu_seconds(target) - cpu
        done.set()
        watcher.join()
        connection.close()
    gigabytes = received / (1 << 30)
    return {
        "mb_per_s": received / (1 << 20) / elapsed,
        "cpu_s_per_gb": cpu / gigabytes,
        "growth_kb": max(peak) - before,
    }


def idle_clients(target, count, report=lambda number: None):
    """Memory for each client that is logged in, has asked once, and idles."""
    before = memory_kb(target)
    clients = []
    try:
        for number in range(count):
            client = wire.Connection(target.port, SCRAM_USER, PASSWORD, DATABASE)
            clients.append(client)
            client.query("SELECT 1")
            report(number + 1)
        time.sleep(SETTLE_S)
        return {"kb_per_client": (memory_kb(target) - before) / count}
    finally:
        for client in clients:
            client.close()


def cpu_seconds(target):
    return target.cpu_seconds() if target.is_proxy else 0.0


def memory_kb(target):
    return target.memory_kb() if target.is_proxy else 0


def machine_busy_seconds():
    """All time this machine's processors were not idle, whoever used them."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, interrupt, soft_interrupt, _steal = fields
    return (user + nice + system + interrupt + soft_interrupt) / 100


def read_latencies(prefix):
    """Of the sampled transactions, in ms; the files are removed."""
    latencies = []
    for path in prefix.parent.glob(prefix.name + ".*"):
        latencies += [int(line.split()[2]) / 1000 for line in path.read_text().splitlines()]
        path.unlink()
    return latencies


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else None


def find(pattern, text):
    if not (found := re.search(pattern, text)):
        raise Failed(f"pgbench did not say {pattern}:\n{text}")
    return found[1]
