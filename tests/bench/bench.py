"""Compares komainu with PostgreSQL itself, PgBouncer and Pgpool-II, side by side on this machine.

`make bench` runs it. Every case is measured in rounds, the targets in turn within a round, so that
what the machine does meanwhile hits all of them; the median of the rounds is reported. The report is
Markdown on stdout and in WORK/bench.md; every single figure is in WORK/bench.json.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import measure
import proxies
import report
from processes import Failed, Workplace, raise_file_limit
from servers import SCRAM_USER, TRUST_USER, Servers

MODES = ("simple", "extended", "prepared")
CLIENTS = (1, 10, 50, 200)
CONNECT_CLIENTS = 10
TLS_CLIENTS = 50
IDLE_CLIENTS = (2_000, 20_000)
# What a proxy or the holder of the clients opens beside them.
SPARE_FILES = 300
# More than its processes can serve at once Pgpool-II would keep waiting.
PGPOOL_IDLE_CLIENTS = 200
SETUP = Path(__file__).resolve().parent.parent / "setup" / "rivals"
GROUPS = ("pgbench", "connect", "tls", "copy", "memory")


class Bench:
    """What all measurements share."""

    def __init__(self, options):
        self.options = options
        self.work = Path(options.work).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.file_limit = raise_file_limit(65_536)
        self.place = Workplace()
        self.place.path.joinpath("tls").mkdir(mode=0o755)
        self.certificate, self.key = self.make_certificate()
        self.results = {}
        self.notes = []

    def make_certificate(self):
        """ECDSA P-256, for all proxies."""
        directory = self.place.path / "tls"
        certificate, key = directory / "server.crt", directory / "server.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-days", "30", "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
        key.chmod(0o600)
        self.place.give(key)
        self.place.give(certificate)
        return certificate, key

    @functools.cache
    def pgbouncer(self):
        if named := os.environ.get("PGBOUNCER"):
            return self.place.adopt(named, "pgbouncer")
        self.fetch("pgbouncer")
        return self.place.adopt(self.work / "pgbouncer" / "pgbouncer", "pgbouncer")

    @functools.cache
    def pgpool_root(self):
        self.fetch("pgpool")
        return proxies.copy_tree(self.work / "pgpool" / "root", self.place.path / "pgpool-root")

    @functools.cache
    def komainu(self):
        return self.place.adopt(self.options.komainu, "komainu")

    def fetch(self, name):
        done = subprocess.run([SETUP, name, self.work], text=True, capture_output=True)
        if done.returncode != 0:
            raise Failed(f"{name} cannot be had: {done.stderr.strip()[-500:]}")

    def start_targets(self):
        """Those that start; the others are reported as missing."""
        targets = []
        for kind in proxies.ALL:
            if self.options.only and kind.name not in self.options.only:
                continue
            try:
                target = kind(self)
                target.start()
                targets.append(target)
            except (Failed, OSError) as error:
                self.note(f"{kind.name} is missing: {error}")
        return targets

    def note(self, text):
        if text in self.notes:
            return
        print(f"note: {text}", file=sys.stderr)
        self.notes.append(text)

    def measure(self, case, targets, function):
        """Runs the function for each target, in rounds, and keeps what it returns."""
        for number in range(self.options.rounds):
            turn = number % len(targets)
            for target in targets[turn:] + targets[:turn]:
                if any(failed == (case, target.name) for failed in self.failed):
                    continue
                say(f"round {number + 1} of {self.options.rounds}: {case}, {target.name}")
                try:
                    figures = function(target)
                except (Failed, OSError, measure.wire.ServerError) as error:
                    self.failed.append((case, target.name))
                    self.note(f"{case}, {target.name}: failed: {str(error)[:600]}")
                    continue
                self.results.setdefault(case, {}).setdefault(target.name, []).append(figures)

    def run(self):
        options = self.options
        self.failed = []
        say("starting PostgreSQL")
        self.servers = Servers(self.place, options.standbys)
        self.servers.wait_for_replay()
        targets = self.start_targets()
        if not targets:
            raise Failed("nothing to measure")
        about = self.describe(targets)
        for group in options.groups:
            getattr(self, f"run_{group}")(targets)
            self.save(about)
        say("")
        return report.markdown(about, self.results, self.notes)

    def run_pgbench(self, targets):
        seconds = self.options.seconds
        for mode in self.options.modes:
            for clients in self.options.clients:
                run = functools.partial(measure.pgbench, self, mode=mode, clients=clients)
                self.warm_up(targets, run)
                self.measure(f"{mode} {clients}", targets, functools.partial(run, seconds=seconds))

    def run_connect(self, targets):
        for tls in (False, True):
            able = [target for target in targets if target.offers_tls or not tls]
            for user, login in ((TRUST_USER, "trust"), (SCRAM_USER, "SCRAM")):
                run = functools.partial(measure.pgbench, self, mode="simple", clients=CONNECT_CLIENTS)
                run = functools.partial(run, connect=True, tls=tls, user=user)
                self.warm_up(able, run)
                case = f"connect {'TLS' if tls else 'plain'} {login}"
                self.measure(case, able, functools.partial(run, seconds=self.options.seconds))

    def run_tls(self, targets):
        able = [target for target in targets if target.offers_tls]
        for mode in ("simple", "prepared"):
            run = functools.partial(measure.pgbench, self, mode=mode, clients=TLS_CLIENTS, tls=True)
            self.warm_up(able, run)
            self.measure(f"TLS {mode} {TLS_CLIENTS}", able, functools.partial(run, seconds=self.options.seconds))

    def run_copy(self, targets):
        megabytes = self.options.copy_mb
        say(f"making a table of {megabytes} MB")
        self.servers.make_large_table(megabytes)
        for format in ("text", "binary"):
            copy = functools.partial(measure.copy_out, self, megabytes=megabytes, format=format)
            self.measure(f"copy {format}", targets, copy)

    def run_memory(self, targets):
        """With fresh processes, which did not grow in the rounds before."""
        for count in self.options.idle:
            for target in [target for target in targets if target.is_pooler]:
                wanted = PGPOOL_IDLE_CLIENTS if target.has_processes else count
                if target.has_processes and count != self.options.idle[0]:
                    continue
                if wanted > self.file_limit - SPARE_FILES:
                    wanted = self.file_limit - SPARE_FILES
                    self.note(
                        f"a process may open {self.file_limit:,} files here, so {wanted:,} idle clients "
                        f"stand for {count:,}"
                    )
                try:
                    target.stop()
                    target.start()
                    progress = lambda number: number % 500 or say(f"idle clients, {target.name}: {number}")
                    figures = measure.idle_clients(target, wanted, progress)
                except (Failed, OSError, measure.wire.ServerError) as error:
                    self.note(f"{count} idle clients, {target.name}: failed: {str(error)[:600]}")
                    continue
                self.results.setdefault(f"idle {wanted}", {})[target.name] = [figures]

    def warm_up(self, targets, run):
        """Server connections, caches and prepared statements are there before the first round."""
        for target in targets:
            try:
                run(target, seconds=1)
            except Failed:
                # The round will fail too, and report it.
                pass

    def describe(self, targets):
        memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
        return {
            "date": time.strftime("%Y-%m-%d"),
            "processor": processor(),
            "processors": os.cpu_count(),
            "memory_gb": round(memory_gb),
            "kernel": os.uname().release,
            "load": os.getloadavg()[0],
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "standbys": self.options.standbys,
            "pool_size": proxies.POOL_SIZE,
            "copy_mb": self.options.copy_mb,
            "targets": [target.name for target in targets],
            "versions": {target.name: target.version() for target in targets},
        }

    def save(self, about):
        everything = {"about": about, "results": self.results, "notes": self.notes}
        (self.work / "bench.json").write_text(json.dumps(everything, indent=1))
        (self.work / "bench.md").write_text(report.markdown(about, self.results, self.notes))


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def say(text):
    """Progress, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [kind.name for kind in proxies.ALL]
    listed = lambda text: [item.strip() for item in text.split(",")]
    numbers = lambda text: [int(item) for item in text.split(",")]
    parser.add_argument("--komainu", required=True, help="the program to measure")
    parser.add_argument("--work", required=True, help="where rivals are kept and reports written")
    parser.add_argument("--quick", action="store_true", help="one short round of everything, to see that it works")
    parser.add_argument("--only", type=listed, help=f"comma-separated targets: {', '.join(names)}")
    parser.add_argument("--groups", type=listed, default=list(GROUPS), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--modes", type=listed, default=list(MODES))
    parser.add_argument("--clients", type=numbers, default=list(CLIENTS))
    parser.add_argument("--idle", type=numbers, help="numbers of idle clients")
    parser.add_argument("--seconds", type=int, help="of each measurement")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--standbys", type=int, default=2)
    parser.add_argument("--copy-mb", type=int, help="size of the table that is copied out")
    options = parser.parse_args()
    for name in options.only or []:
        if name not in names:
            parser.error(f"--only {name}: not one of {', '.join(names)}")
    for group in options.groups:
        if group not in GROUPS:
            parser.error(f"--groups {group}: not one of {', '.join(GROUPS)}")
    options.seconds = options.seconds or (2 if options.quick else 5)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.copy_mb = options.copy_mb or (256 if options.quick else 1024)
    options.idle = options.idle or ([IDLE_CLIENTS[0]] if options.quick else list(IDLE_CLIENTS))
    return options


def main():
    try:
        print(Bench(parse_arguments()).run())
    except Failed as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")


if __name__ == "__main__":
    main()
