"""Reads over one to five servers through komainu, each server slowed on purpose.

`make bench-scale` runs it. Every read sleeps in the server, and a pool limits how many sleep at once,
so that the servers and not this machine are the limit: one server answers at most POOL / DELAY reads a
second. What is measured is whether komainu gets more servers to answer more.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import bench
import proxies
from processes import Failed, clean_environment, cpu_seconds
from servers import DATABASE, PASSWORD, TRUST_USER, Servers

MAX_SERVERS = 5
DELAY_MS = 25
# More sessions than all pools have connections, so that every pool is full however they are spread.
CLIENTS = 400
GOAL = 4.5
# Connections are opened at a limited rate, and what the function does is looked up on first use.
WARM_UP_S = 4

# STABLE, as the catalog must say for a read to go to a standby; pg_sleep alone is volatile.
FUNCTION = f"""CREATE FUNCTION slow_balance(account int) RETURNS int LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pg_sleep({DELAY_MS / 1000});
    RETURN (SELECT abalance FROM pgbench_accounts WHERE aid = account);
END $$"""
SCRIPT = "\\set account random(1, 100000)\nSELECT slow_balance(:account);\n"


class KomainuOver(proxies.KomainuSplit):
    """komainu over the first servers, with a consistency."""

    def __init__(self, shared, count, consistency):
        self.count, self.consistency = count, consistency
        self.name = f"komainu over {count} {consistency}"
        super().__init__(shared)

    def servers(self):
        return self.bench.servers.all[:self.count]


def measure(shared, count, consistency, script, seconds):
    target = KomainuOver(shared, count, consistency)
    target.start()
    try:
        run_pgbench(shared, target, script, WARM_UP_S)
        before = [reads(server) for server in shared.servers.all]
        cpu = cpu_seconds(target.child.pid)
        output = run_pgbench(shared, target, script, seconds)
        cpu = cpu_seconds(target.child.pid) - cpu
        # The statistics of a backend arrive a moment after its transaction.
        time.sleep(1.5)
        served = [reads(server) - old for server, old in zip(shared.servers.all, before)]
    finally:
        target.stop()
    transactions = int(re.search(r"actually processed: (\d+)", output)[1])
    return {
        "tps": float(re.search(r"tps = ([\d.]+)", output)[1]),
        "cpu_us": cpu / transactions * 1e6,
        "served": served[:count],
    }


def run_pgbench(shared, target, script, seconds):
    arguments = [shared.servers.binaries / "pgbench", "-n", "-M", "prepared", "-f", script, "-c", CLIENTS]
    arguments += ["-j", 2, "-T", seconds, "-h", "127.0.0.1", "-p", target.port, "-U", TRUST_USER, DATABASE]
    done = subprocess.run(
        [str(argument) for argument in arguments],
        env=clean_environment({"PGPASSWORD": PASSWORD, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}),
        text=True,
        capture_output=True,
    )
    if done.returncode != 0:
        raise Failed(f"pgbench at {target.name}: {done.stderr.strip()[-500:]}")
    return done.stdout


def reads(server):
    """Transactions this server has committed in the database."""
    return int(server.psql(f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{DATABASE}'"))


def markdown(results, seconds):
    limit = proxies.POOL_SIZE * 1000 // DELAY_MS
    lines = [
        f"Each read sleeps {DELAY_MS} ms in the server and a server gets {proxies.POOL_SIZE} at once: at most "
        f"{limit:,} a second each. {CLIENTS} clients, {seconds} s, one worker.",
        "",
        "| servers | consistency | reads per second | to one server | of the limit | CPU µs per read | served by each |",
        "|---:|---|---:|---:|---:|---:|---|",
    ]
    for consistency, runs in results.items():
        for count, figures in runs.items():
            share = figures["tps"] / runs[1]["tps"]
            total = sum(figures["served"]) or 1
            served = ", ".join(f"{100 * n / total:.0f} %" for n in figures["served"])
            lines.append(
                f"| {count} | {consistency} | {figures['tps']:,.0f} | {share:.2f} | "
                f"{figures['tps'] / (limit * count):.2f} | {figures['cpu_us']:.1f} | {served} |"
            )
    for consistency, runs in results.items():
        if MAX_SERVERS in runs:
            share = runs[MAX_SERVERS]["tps"] / runs[1]["tps"]
            verdict = "reached" if share >= GOAL else "**not reached**"
            lines += ["", f"Wanted at {MAX_SERVERS} servers: at least {GOAL} times one server's. "
                          f"`{consistency}`: {share:.2f}, {verdict}."]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--komainu", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=int)
    options = parser.parse_args()
    options.standbys = MAX_SERVERS - 1
    seconds = options.seconds or (3 if options.quick else 10)
    try:
        shared = bench.Bench(options)
        bench.say("starting PostgreSQL")
        shared.servers = Servers(shared.place, options.standbys)
        shared.servers.primary.psql(FUNCTION, DATABASE)
        shared.servers.wait_for_replay()
        script = shared.place.path / "slow.sql"
        script.write_text(SCRIPT)
        results = {}
        for consistency in ("session", "eventual"):
            for count in range(1, MAX_SERVERS + 1):
                bench.say(f"{consistency}: {count} of {MAX_SERVERS} servers")
                figures = measure(shared, count, consistency, script, seconds)
                results.setdefault(consistency, {})[count] = figures
        bench.say("")
        (shared.work / "scale.json").write_text(json.dumps(results, indent=1))
        report = markdown(results, seconds)
        (shared.work / "scale.md").write_text(report)
        print(report)
    except Failed as error:
        sys.exit(f"bench-scale: {error}")


if __name__ == "__main__":
    main()
