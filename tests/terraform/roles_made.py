"""terraform/make-roles, before a real PostgreSQL server that has what RDS has: a master user who is no superuser, the role
rds_iam, and a certificate for the server's own name."""

import glob
import json
import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from workspace import ROOT, Failed

# What RDS gives its master user, as far as it matters here.
LIKE_RDS = """
CREATE ROLE rds_iam;
CREATE ROLE {master} LOGIN CREATEROLE CREATEDB PASSWORD '{password}';
GRANT rds_iam, pg_monitor TO {master} WITH ADMIN OPTION;
CREATE DATABASE {database} OWNER {master};
"""


def roles_made(workspace, komainu, account, outputs):
    pki = workspace.directory / "pki"
    administrator, database = outputs["administrator"], outputs["database"]
    secret = account.client("secretsmanager").get_secret_value(SecretId=administrator["secret_arn"])["SecretString"]
    with server(komainu, administrator["host"]) as (port, authority, ask):
        ask("rdsadmin", None, "postgres", *LIKE_RDS.format(
            master=administrator["name"], password=json.loads(secret)["password"], database=database
        ).strip().splitlines())
        for _ in range(2):
            run_it(workspace, pki, outputs, account.url, f"127.0.0.1:{port}", authority)
        password = (pki / f"password-{database}").read_text()
        ask(database, password, database, "CREATE TABLE made_by_the_application (id int)")
        found = ask("rdsadmin", None, "postgres",
                    "SELECT r.rolname, r.rolsuper, array_agg(g.rolname ORDER BY g.rolname) FILTER (WHERE g.rolname IS NOT NULL) "
                    "FROM pg_roles r LEFT JOIN pg_auth_members m ON m.member = r.oid LEFT JOIN pg_roles g ON g.oid = m.roleid "
                    f"WHERE r.rolname IN ('komainu', '{database}') GROUP BY 1, 2 ORDER BY 1")
    if found.split() != [f"{database}|f|", "komainu|f|{pg_monitor,rds_iam}"]:
        raise Failed(f"make-roles has made {found}")


def run_it(workspace, pki, outputs, url, at, authority):
    done = subprocess.run(
        [ROOT / "terraform/make-roles", "--pki", str(pki), "--at", at],
        input=json.dumps(outputs),
        cwd=workspace.directory,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(workspace.directory),
            "KOMAINU_AWS_ENDPOINT": url,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "PGSSLROOTCERT": str(authority),
        },
        capture_output=True, text=True, check=False,
    )
    if done.returncode != 0:
        raise Failed(f"make-roles ended with {done.returncode}:\n{done.stdout}{done.stderr}")


@contextmanager
def server(komainu, name):
    """Its port, the authority of its certificate, and how it is asked: (role, password, database, statement …)."""
    binaries = Path(os.environ.get("PG_BIN") or sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
    # PostgreSQL does not run as root.
    who = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    directory = Path(tempfile.mkdtemp(prefix="komainu-roles-"))
    data, pki = directory / "data", directory / "pki"
    try:
        for command in (["init", "--cluster", "rds"], ["node", "--id", "db", "--name", name]):
            subprocess.run([komainu, "pki", command[0], "--dir", str(pki), *command[1:]], check=True, capture_output=True)
        if who:
            subprocess.run(["chown", "-R", "postgres:postgres", str(directory)], check=True)
        run = lambda *command: subprocess.run(command, check=True, capture_output=True, cwd=directory, **who)
        run(binaries / "initdb", "-D", data, "-U", "rdsadmin", "-A", "trust", "--no-sync")
        (data / "pg_hba.conf").write_text("local all rdsadmin trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        port = free_port()
        run(binaries / "pg_ctl", "-D", data, "-w", "-t", "60", "-l", directory / "log", "start", "-o",
            f"-p {port} -k {directory} -c listen_addresses=127.0.0.1 -c fsync=off -c ssl=on "
            f"-c ssl_cert_file={pki}/db.crt -c ssl_key_file={pki}/db.key")

        def ask(role, password, database, *statements):
            where = f"host={directory}" if password is None else f"host=127.0.0.1 sslmode=require password={password}"
            statements = [argument for statement in statements for argument in ("-c", statement)]
            done = subprocess.run(
                ["psql", "-XAtq", f"{where} port={port} user={role} dbname={database}", *statements],
                capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
            )
            if done.returncode != 0:
                raise Failed(f"{role} in {database}: {done.stderr}")
            return done.stdout

        try:
            yield port, pki / "ca.crt", ask
        finally:
            run(binaries / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
