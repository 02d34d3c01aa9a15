"""Processes, ports and what /proc says of them.

Owns how a child is started and ended. As root everything runs as an unprivileged user, because
PostgreSQL and PgBouncer refuse to run as root.
"""

import atexit
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20


class Failed(Exception):
    """Something could not be started or measured; says what."""


class Workplace:
    """A temporary directory for one run; everything started from it ends with it."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="komainu-bench-"))
        self.path.chmod(0o711)
        self.children = []
        self.user = unprivileged_user()
        self.ports = set()
        atexit.register(self.close)

    def directory(self, name):
        path = self.path / name
        path.mkdir(mode=0o700)
        self.give(path)
        return path

    def write(self, path, text):
        path.write_text(text)
        path.chmod(0o600)
        self.give(path)
        return path

    def adopt(self, program, name):
        """A copy the unprivileged user can run wherever the original is."""
        path = self.path / "programs" / name
        path.parent.mkdir(mode=0o755, exist_ok=True)
        shutil.copy2(program, path)
        path.chmod(0o755)
        return path

    def give(self, path):
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def command(self, arguments, death_signal="KILL"):
        command = ["setpriv", "--pdeathsig", death_signal]
        if self.user:
            command += [f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--init-groups"]
        return command + ["--"] + [str(argument) for argument in arguments]

    def run(self, arguments, env=None):
        """Runs a program to its end as the unprivileged user."""
        done = subprocess.run(
            self.command(arguments), cwd="/", env=clean_environment(env), text=True, capture_output=True
        )
        if done.returncode != 0:
            raise Failed(f"{arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def start(self, arguments, log, death_signal="KILL", env=None):
        """Starts a long-lived child."""
        output = open(log, "ab")
        self.give(log)
        child = subprocess.Popen(
            self.command(arguments, death_signal),
            cwd="/",
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        output.close()
        self.children.append(child)
        return child

    def stop(self, child, how=signal.SIGTERM):
        if child.poll() is None:
            child.send_signal(how)
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                for pid in [child.pid, *descendants(child.pid)]:
                    kill(pid)
                child.wait()
        if child in self.children:
            self.children.remove(child)

    def close(self):
        for child in reversed(list(self.children)):
            self.stop(child, signal.SIGQUIT)
        shutil.rmtree(self.path, ignore_errors=True)

    def free_port(self):
        """Below the ephemeral range, where no outgoing connection takes it."""
        for port in range(20_000 + os.getpid() % 10_000, 32_000):
            if port in self.ports:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            self.ports.add(port)
            return port
        raise Failed("no free port")


def unprivileged_user():
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise Failed("there is neither a user postgres nor nobody to run the servers as")


def clean_environment(extra=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment["LC_ALL"] = "C"
    environment.update(extra or {})
    return environment


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wait_for(condition, what, child=None, log=None, within=START_TIMEOUT_S):
    deadline = time.monotonic() + within
    while not condition():
        if child is not None and child.poll() is not None:
            raise Failed(f"{what}: it ended with {child.returncode}\n{tail(log)}")
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {within} s\n{tail(log)}")
        time.sleep(0.02)


def tail(log):
    if log is None or not Path(log).exists():
        return ""
    return "\n".join(Path(log).read_text(errors="replace").splitlines()[-15:])


def raise_file_limit(wanted):
    """Returns how many files may be open; root may raise the hard limit too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, wanted), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return limit
        except (ValueError, PermissionError):
            continue
    return soft


def stat_fields(pid):
    """Fields of /proc/<pid>/stat behind the name, which may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def descendants(pid):
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(entry)):
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def cpu_seconds(pid, with_children=False):
    """User and system time of all threads; with children, those that ended and were waited for too."""
    total = 0
    for process in [pid, *(descendants(pid) if with_children else [])]:
        if fields := stat_fields(process):
            total += int(fields[11]) + int(fields[12])
            if with_children and process == pid:
                total += int(fields[13]) + int(fields[14])
    return total / TICKS_PER_SECOND


def memory_kb(pid, with_children=False):
    """Resident memory; with children the proportional share, as they share pages."""
    if not with_children:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError:
            return 0
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)
        return int(found[1]) if found else 0
    total = 0
    for process in [pid, *descendants(pid)]:
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if found := re.search(r"^Pss:\s+(\d+) kB", rollup, re.M):
            total += int(found[1])
    return total
