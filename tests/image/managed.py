"""The instances that AWS would run: PostgreSQL servers at addresses of their own, with certificates for the names that
terraform has in its outputs, and for Aurora with its functions. They fail over as such a cluster does: one reader becomes
the writer, the other follows it, and the old writer comes back as a reader.

The server that the nodes log in to by IAM token takes any: whether a token is good is AWS's to say."""

import glob
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from image import Failed
from machine import BRIDGE, ip
from roles_made import LIKE_RDS, run_it
from workspace import ROOT

ADDRESS = "10.20.255.{}"
SUPERUSER = "rdsadmin"
SETTINGS = """
port = 5432
ssl = on
fsync = off
shared_buffers = 64MB
# The service makes it follow the memory; of the smallest class of the examples it is more than that.
max_connections = 1000
# As the service has it by other means: what was committed is on one of the readers.
synchronous_standby_names = 'ANY 1 (*)'
"""
HBA = f"""
local all {SUPERUSER} trust
hostssl replication {SUPERUSER} 10.20.255.0/24 trust
hostssl all komainu 10.20.0.0/16 trust
hostssl all all 10.20.0.0/16 scram-sha-256
"""
PATIENCE_S = 60


def aurora_functions():
    """As the sandbox's imitation has them."""
    page = (ROOT / "src/sandbox/managed/dress.rs").read_text()
    return re.search(r'AURORA_FUNCTIONS: &str = "(.*?)";', page, re.DOTALL)[1]


class Database:
    def __init__(self, appliance, configuration):
        """`configuration` is a node's, parsed."""
        self.appliance, self.told = appliance, appliance.told
        self.aurora = configuration["failover"]["mode"] == "aurora"
        self.hosts = {server["id"]: server["host"] for server in configuration["server"]}
        self.addresses = {name: ADDRESS.format(number) for number, name in enumerate(self.hosts, start=1)}
        self.binaries = Path(os.environ.get("PG_BIN") or sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        self.directory = Path(tempfile.mkdtemp(prefix="komainu-rds-"))
        self.authority = self.directory / "pki/ca.crt"
        appliance.stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.writer = next(iter(self.hosts))
        self.certify(appliance.given.komainu)
        self.found()
        for name in self.readers():
            self.copy(name)

    def readers(self):
        return [name for name in self.hosts if name != self.writer]

    def readers_but(self, lost):
        return [name for name in self.readers() if name != lost]

    def names(self):
        """Where each name leads now, the cluster's own among them."""
        cluster = {self.told["administrator"]["host"]: self.addresses[self.writer]}
        return {**{host: self.addresses[name] for name, host in self.hosts.items()}, **cluster}

    def certify(self, komainu):
        pki = self.directory / "pki"
        pki_of = lambda *command: subprocess.run([komainu, "pki", *command, "--dir", str(pki)], check=True, capture_output=True)
        pki_of("init", "--cluster", "rds")
        for name, host in self.hosts.items():
            self.socket(name).mkdir(parents=True)
            pki_of("node", "--id", name, "--name", host, "--name", self.told["administrator"]["host"])
            ip("address", "add", f"{self.addresses[name]}/32", "dev", BRIDGE)
        subprocess.run(["chown", "-R", "postgres:postgres", str(self.directory)], check=True)
        self.directory.chmod(0o755)

    def run(self, program, *arguments):
        # PostgreSQL does not run as root.
        other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        done = subprocess.run(
            [*other, self.binaries / program, *arguments], cwd=self.directory,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )
        if done.returncode != 0:
            raise Failed(f"{program} {arguments} ended with {done.returncode}:\n{done.stdout}\n{self.logs()}")
        return done.stdout

    def logs(self):
        return "\n".join(log.read_text()[-2000:] for log in self.directory.glob("*.log"))

    def data(self, name):
        return self.directory / name

    def socket(self, name):
        """Not among the data, which are copied."""
        return self.directory / "sockets" / name

    def found(self):
        data = self.data(self.writer)
        self.run("initdb", "-D", data, "-U", SUPERUSER, "-A", "trust", "--no-sync")
        (data / "pg_hba.conf").write_text(HBA)
        self.configure(self.writer, SETTINGS)
        self.start(self.writer)
        self.sql(self.writer, "SET synchronous_commit = local")
        if self.aurora:
            for database in ("template1", "postgres"):
                self.sql(self.writer, aurora_functions(), database)
        secret = self.told["administrator"]["secret_arn"]
        password = json.loads(self.appliance.secret(secret))["password"]
        wanted = LIKE_RDS.format(
            master=self.told["administrator"]["name"], password=password, database=self.told["database"]
        )
        for statement in wanted.strip().splitlines():
            self.sql(self.writer, statement)

    def copy(self, name):
        """A reader, of whoever is the writer."""
        shutil.rmtree(self.data(name), ignore_errors=True)
        self.run("pg_basebackup", "-D", self.data(name), "-R", "-c", "fast", "--no-sync", "-d", self.conninfo())
        self.start(name)

    def conninfo(self):
        return f"host={self.addresses[self.writer]} port=5432 user={SUPERUSER} sslmode=require"

    def configure(self, name, text):
        with (self.data(name) / "postgresql.conf").open("a") as file:
            file.write(f"\n{text}\n")

    def start(self, name):
        """What a copy has of the server that it was copied from is overwritten: the last line counts."""
        pki, here = self.directory / "pki", self.directory
        self.configure(name, (
            f"listen_addresses = '{self.addresses[name]}'\nunix_socket_directories = '{self.socket(name)}'\n"
            f"ssl_cert_file = '{pki}/{name}.crt'\nssl_key_file = '{pki}/{name}.key'"
        ))
        self.tell_names([name])
        self.run("pg_ctl", "-D", self.data(name), "-w", "-t", str(PATIENCE_S), "-l", here / f"{name}.log", "start")
        self.appliance.stack.callback(self.stop, name)

    def stop(self, name):
        if (self.data(name) / "postmaster.pid").exists():
            self.run("pg_ctl", "-D", self.data(name), "-w", "-m", "immediate", "stop")

    def tell_names(self, names):
        """What instances of Aurora say of each other."""
        all_names = ",".join(f"{name}*" if name == self.writer else name for name in self.hosts)
        for name in names if self.aurora else []:
            self.configure(name, f"aurora.instance = '{name}'\naurora.lag = '10'\naurora.instances = '{all_names}'")

    def sql(self, name, statement, database="postgres"):
        # No reader is there yet that could acknowledge what makes the first one possible.
        where = f"host={self.socket(name)} port=5432 user={SUPERUSER} dbname={database} options='-c synchronous_commit=local'"
        return self.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", where, "-c", statement).strip()

    def make_roles(self):
        made_by = self.appliance
        run_it(made_by.workspace, made_by.pki, self.told, made_by.url, f"{self.addresses[self.writer]}:5432", self.authority)

    def fail_over(self):
        """The writer is lost, and the reader that has the most takes its place; the lost one is a reader again later."""
        lost = self.writer
        self.stop(lost)
        # What has arrived is written down before the receiver ends; only then do positions say who has the most.
        for name in self.readers_but(lost):
            self.until(name, "SELECT count(*) = 0 FROM pg_stat_wal_receiver", "receives from the lost writer")
        position = lambda name: self.sql(name, "SELECT pg_last_wal_receive_lsn() - '0/0'")
        self.writer = max(self.readers_but(lost), key=lambda name: float(position(name)))
        self.tell_names(self.hosts)
        self.run("pg_ctl", "-D", self.data(self.writer), "-w", "-t", str(PATIENCE_S), "promote")
        for name in self.readers_but(lost):
            self.sql(name, f"ALTER SYSTEM SET primary_conninfo = '{self.conninfo()}'")
            self.run("pg_ctl", "-D", self.data(name), "reload")
        self.run("pg_ctl", "-D", self.data(self.writer), "reload")
        return lost

    def bring_back(self, lost):
        self.copy(lost)
        both = "SELECT count(*) = 2 FROM pg_stat_replication WHERE state = 'streaming'"
        self.until(self.writer, both, "is not followed by both readers")

    def until(self, name, question, otherwise):
        deadline = time.monotonic() + PATIENCE_S
        while self.sql(name, question) != "t":
            if time.monotonic() > deadline:
                raise Failed(f"{name} {otherwise}:\n{self.logs()}")
            time.sleep(0.2)
