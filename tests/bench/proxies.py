"""The proxies that are compared, each with its configuration.

All get the same certificate, the same users and, where they have pools, the same pool size.
"""

import subprocess
from pathlib import Path

import wire
from processes import Failed, cpu_seconds, memory_kb, wait_for
from servers import DATABASE, PASSWORD, SCRAM_USER, SUPERUSER, TRUST_USER, copy_tree

POOL_SIZE = 20
MAX_CLIENTS = 25_000
# Pgpool-II has a process for each client, each with a connection to every server.
PGPOOL_CHILDREN = 210


class Direct:
    """PostgreSQL itself, which every ratio is to."""

    name = "direct"
    has_processes = True
    is_proxy = False
    is_pooler = False
    offers_tls = False

    def __init__(self, bench):
        self.bench = bench

    def start(self):
        self.port = self.bench.servers.primary.port

    def stop(self):
        pass

    def version(self):
        return "PostgreSQL " + self.bench.servers.version()


class Proxy:
    is_proxy = True
    is_pooler = True
    has_processes = False
    offers_tls = True

    def __init__(self, bench):
        self.bench = bench
        self.place = bench.place
        self.directory = bench.place.directory(self.name.replace(" ", "-"))
        self.log = self.directory / "log"
        self.child = None

    def start(self):
        self.port = self.place.free_port()
        self.child = self.place.start(self.command(), self.log, env=self.environment())
        wait_for(self.answers, f"start of {self.name}", self.child, self.log)

    def stop(self):
        if self.child:
            self.place.stop(self.child)
            self.child = None

    def environment(self):
        return {}

    def answers(self):
        try:
            connection = wire.Connection(self.port, SCRAM_USER, PASSWORD, DATABASE, timeout_s=5)
            connection.query("SELECT 1")
            connection.close()
            return True
        except (OSError, wire.ServerError):
            return False

    def cpu_seconds(self):
        return cpu_seconds(self.child.pid, self.has_processes)

    def memory_kb(self):
        return memory_kb(self.child.pid, self.has_processes)


class Relay(Proxy):
    """What passing bytes on costs that nobody reads: a server connection for each client, and no login of its own."""

    name = "bare relay"
    is_pooler = False
    offers_tls = False
    source = Path(__file__).resolve().parent / "relay.c"

    def command(self):
        program = self.directory / "relay"
        done = subprocess.run(["cc", "-O2", "-o", program, self.source], text=True, capture_output=True)
        if done.returncode != 0:
            raise Failed(f"relay.c cannot be compiled: {done.stderr.strip()[-500:]}")
        return [self.place.adopt(program, "bare-relay"), str(self.port), str(self.bench.servers.primary.port)]

    def version(self):
        return "bare relay: tests/bench/relay.c"


class PgBouncer(Proxy):
    name = "PgBouncer"

    def command(self):
        primary = self.bench.servers.primary
        users = self.place.write(
            self.directory / "users.txt",
            f'"{SCRAM_USER}" "{self.bench.servers.verifier}"\n"{TRUST_USER}" "{PASSWORD}"\n',
        )
        hba = self.place.write(
            self.directory / "hba.conf",
            f"host all {TRUST_USER} 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
        )
        config = self.place.write(
            self.directory / "pgbouncer.ini",
            f"""[databases]
{DATABASE} = host=127.0.0.1 port={primary.port} dbname={DATABASE}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = hba
auth_hba_file = {hba}
auth_file = {users}
pool_mode = transaction
max_prepared_statements = 200
default_pool_size = {POOL_SIZE}
max_client_conn = {MAX_CLIENTS}
server_tls_sslmode = disable
client_tls_sslmode = allow
client_tls_cert_file = {self.bench.certificate}
client_tls_key_file = {self.bench.key}
log_connections = 0
log_disconnections = 0
""",
        )
        return [self.bench.pgbouncer(), config]

    def version(self):
        text = subprocess.run([self.bench.pgbouncer(), "-V"], text=True, capture_output=True).stdout
        return text.splitlines()[0]


class Pgpool(Proxy):
    name = "Pgpool-II"
    has_processes = True

    def command(self):
        lines = {
            "backend_clustering_mode": "streaming_replication",
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "socket_dir": self.directory,
            "pcp_port": self.place.free_port(),
            "pcp_socket_dir": self.directory,
            "wd_ipc_socket_dir": self.directory,
            "work_dir": self.directory,
            "logdir": self.directory,
            "pid_file_name": self.directory / "pgpool.pid",
            "num_init_children": PGPOOL_CHILDREN,
            "max_pool": 1,
            "load_balance_mode": "on",
            "enable_pool_hba": "on",
            "pool_passwd": "pool_passwd",
            "sr_check_user": SCRAM_USER,
            "sr_check_password": PASSWORD,
            "sr_check_database": DATABASE,
            "ssl": "on",
            "ssl_cert": self.bench.certificate,
            "ssl_key": self.bench.key,
            "log_min_messages": "warning",
        }
        for number, server in enumerate(self.bench.servers.all):
            lines[f"backend_hostname{number}"] = "127.0.0.1"
            lines[f"backend_port{number}"] = server.port
            lines[f"backend_weight{number}"] = 1
            lines[f"backend_data_directory{number}"] = server.data
        text = "".join(f"{name} = '{value}'\n" for name, value in lines.items())
        config = self.place.write(self.directory / "pgpool.conf", text)
        hba = f"host all {TRUST_USER} 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        self.place.write(self.directory / "pool_hba.conf", hba)
        users = "".join(f"{user}:TEXT{PASSWORD}\n" for user in (SCRAM_USER, TRUST_USER))
        self.place.write(self.directory / "pool_passwd", users)
        pcp = self.place.write(self.directory / "pcp.conf", "")
        root = self.bench.pgpool_root()
        arguments = [root / "usr/sbin/pgpool", "-n", "-f", config, "-F", pcp]
        return arguments + ["-a", self.directory / "pool_hba.conf"]

    def environment(self):
        return {"LD_LIBRARY_PATH": library_path(self.bench.pgpool_root())}

    def version(self):
        program = self.bench.pgpool_root() / "usr/sbin/pgpool"
        done = subprocess.run([program, "--version"], text=True, capture_output=True, env=self.environment())
        return (done.stdout + done.stderr).strip().splitlines()[0]


class Komainu(Proxy):
    """One of komainu's ways to run; see the subclasses."""

    workers = 1
    split = False
    consistency = "session"
    extra = ""

    def servers(self):
        return self.bench.servers.all if self.split else [self.bench.servers.primary]

    def command(self):
        write = lambda name, text: self.place.write(self.directory / name, text)
        users = write(
            "users.txt",
            f'"{SCRAM_USER}" "{self.bench.servers.verifier}"\n"{TRUST_USER}" "{PASSWORD}"\n',
        )
        hba = write(
            "hba.conf",
            f"host all {TRUST_USER} 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
        )
        text = f"""workers = {self.workers}
# The benchmark reads how much memory it has.
core_dumps = true
[listen]
addresses = ["127.0.0.1:{self.port}"]
[admin]
socket = "{self.directory}/admin.sock"
[limits]
max_client_connections = {MAX_CLIENTS}
max_unauthenticated_per_address = {MAX_CLIENTS}
[client_tls]
mode = "allow"
cert_file = "{self.bench.certificate}"
key_file = "{self.bench.key}"
[server_tls]
mode = "disable"
[auth]
hba_file = "{hba}"
user_file = "{users}"
[pool]
size = {POOL_SIZE}
[split]
enabled = {str(self.split).lower()}
consistency = "{self.consistency}"
[health]
user = "{TRUST_USER}"
database = "{DATABASE}"
{self.extra}
"""
        for server in self.servers():
            text += f'[[server]]\nid = "{server.name}"\nhost = "127.0.0.1"\nport = {server.port}\n'
        return [self.bench.komainu(), "serve", "--config", write("komainu.toml", text)]

    def version(self):
        done = subprocess.run([self.bench.komainu(), "--version"], text=True, capture_output=True)
        return done.stdout.strip() or "komainu"


class KomainuOff(Komainu):
    name = "komainu"


class KomainuTwo(Komainu):
    name = "komainu 2 workers"
    workers = 2


class KomainuSplit(Komainu):
    name = "komainu split"
    split = True


ALL = [Direct, Relay, PgBouncer, Pgpool, KomainuOff, KomainuTwo, KomainuSplit]


def library_path(root):
    return ":".join(sorted({str(path.parent) for path in Path(root).rglob("*.so*")}))
