"""A PostgreSQL primary and its standbys for the benchmark, without TLS."""

import glob
import os
import shutil
import signal
from pathlib import Path

from processes import Failed, wait_for

SUPERUSER = "postgres"
DATABASE = "bench"
# Logs in by SCRAM everywhere; the proxies know its verifier.
SCRAM_USER = "bench_scram"
# Let in without a password, by the proxies and by the servers.
TRUST_USER = "bench_trust"
PASSWORD = "bench-password"
BENCHMARK_SCALE = 10

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "900",
    "shared_buffers": "512MB",
    "fsync": "off",
    "ssl": "off",
    "max_wal_size": "4GB",
    "max_wal_senders": "12",
    "max_replication_slots": "12",
    # A saturated machine must not lose its standbys.
    "wal_sender_timeout": "60s",
    "wal_receiver_timeout": "60s",
    "wal_receiver_status_interval": "1s",
    "autovacuum": "off",
    "jit": "off",
    "log_min_messages": "warning",
}


def find_binaries():
    """The directory with initdb and pgbench."""
    candidates = [os.environ["PG_BIN"]] if "PG_BIN" in os.environ else []
    candidates += os.environ.get("PATH", "").split(":")
    by_version = lambda path: int(path.split("/")[4]) if path.split("/")[4].isdigit() else 0
    candidates += sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=by_version, reverse=True)
    for directory in candidates:
        if all(os.path.exists(os.path.join(directory, name)) for name in ("initdb", "postgres", "pgbench", "psql")):
            return Path(directory)
    raise Failed("PostgreSQL is not installed; PG_BIN may name its bin directory")


class Server:
    def __init__(self, place, binaries, name):
        self.place, self.binaries, self.name = place, binaries, name
        self.directory = place.directory(name)
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.port = place.free_port()
        self.child = None

    def configure(self, settings):
        lines = dict(SETTINGS, port=str(self.port), unix_socket_directories=str(self.directory), **settings)
        with open(self.data / "postgresql.conf", "a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())

    def start(self):
        self.child = self.place.start([self.binaries / "postgres", "-D", self.data], self.log, "QUIT")

        def ready():
            try:
                return (self.data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
            except (FileNotFoundError, IndexError):
                return False

        wait_for(ready, f"start of {self.name}", self.child, self.log)

    def psql(self, sql, database="postgres"):
        arguments = [self.binaries / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.directory]
        arguments += ["-p", self.port, "-U", SUPERUSER, "-d", database, "-c", sql]
        return self.place.run(arguments).strip()

    def stop(self):
        self.place.stop(self.child, signal.SIGINT)


class Servers:
    def __init__(self, place, standbys, settings=None):
        self.place, self.binaries = place, find_binaries()
        self.settings = settings or {}
        self.primary = self.make_primary()
        self.standbys = [self.make_standby(f"pg{number + 2}") for number in range(standbys)]
        self.all = [self.primary, *self.standbys]
        self.verifier = self.primary.psql(
            f"SELECT rolpassword FROM pg_authid WHERE rolname = '{SCRAM_USER}'"
        )

    def make_primary(self):
        server = Server(self.place, self.binaries, "pg1")
        initdb = [self.binaries / "initdb", "--no-sync", "--encoding=UTF8", "--locale=C", "-U", SUPERUSER]
        self.place.run(initdb + ["-D", server.data])
        server.configure(self.settings)
        hba = f"local all all trust\nhost all {TRUST_USER} 127.0.0.1/32 trust\n"
        hba += "host all all 127.0.0.1/32 scram-sha-256\n"
        hba += "host replication all 127.0.0.1/32 trust\n"
        self.place.write(server.data / "pg_hba.conf", hba)
        server.start()
        for user in (SCRAM_USER, TRUST_USER):
            server.psql(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_read_all_data, pg_monitor")
        server.psql(f"CREATE DATABASE {DATABASE}")
        self.pgbench_init(server)
        return server

    def pgbench_init(self, server):
        arguments = [self.binaries / "pgbench", "-i", "-q", "-s", BENCHMARK_SCALE, "-h", server.directory]
        self.place.run(arguments + ["-p", server.port, "-U", SUPERUSER, DATABASE])

    def make_standby(self, name):
        server = Server(self.place, self.binaries, name)
        arguments = [self.binaries / "pg_basebackup", "-D", server.data, "-R", "-X", "stream", "--no-sync"]
        arguments += ["-c", "fast", "-C", "-S", name, "-h", "127.0.0.1", "-p", self.primary.port]
        self.place.run(arguments + ["-U", SUPERUSER])
        server.configure(self.settings)
        server.start()
        return server

    def make_large_table(self, megabytes):
        """Rows of 1 kB. On the standbys too, where some proxies look for it."""
        self.primary.psql(
            "CREATE TABLE large (filler text);"
            "ALTER TABLE large ALTER filler SET STORAGE EXTERNAL;"
            "INSERT INTO large SELECT repeat(md5(n::text), 32) FROM "
            f"generate_series(1, {megabytes * 1024}) n",
            DATABASE,
        )
        self.primary.psql("VACUUM large", DATABASE)
        self.wait_for_replay()

    def wait_for_replay(self):
        lsn = self.primary.psql("SELECT pg_current_wal_flush_lsn()")
        for standby in self.standbys:
            sql = f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"
            wait_for(lambda: standby.psql(sql) == "t", f"replay by {standby.name}")

    def version(self):
        return self.primary.psql("SHOW server_version")


def copy_tree(source, target):
    shutil.copytree(source, target, symlinks=True)
    return target
