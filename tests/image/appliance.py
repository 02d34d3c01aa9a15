"""What terraform made, come alive: a machine for each instance, and a network that leads where AWS says."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
import tomllib
from contextlib import ExitStack
from itertools import count
from threading import Event, Thread

from cloud import Cloud
from examples import variables
from image import Failed
from in_the_double import Account
from machine import BRIDGE, GATEWAY, Machine, ip, network
from managed import Database
from metadata import Metadata, pages
from moto_server import moto_server
from names import Names
from workspace import ROOT, Workspace

REGION = "eu-central-1"
# Six machines on a small one: the only settings of this test's own, beside the double's address.
SETTINGS = {"shared_buffers": "64MB"}
POLL = 0.2


class Appliance:
    def __init__(self, given, example):
        self.given, self.example = given, example
        self.database = None
        self.stack = ExitStack()
        self.machines = {}
        self.numbers = count()
        # What the metadata service tells, by an instance's address; and which instance a machine is.
        self.served, self.ids = {}, {}
        self.ended = Event()

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.stack.close()

    def make(self):
        network()
        self.url = self.stack.enter_context(moto_server(self.given.moto_python, GATEWAY))
        self.account = Account(self.url, REGION)
        self.workspace = Workspace(self.given.checks, self.given.work / "terraform")
        self.stack.enter_context(self.workspace.in_world(Cloud(self.url)))
        # On the machines' bridge.
        self.there = self.account.network("10.20") if self.example == "existing-vpc" else {}
        self.terraform("init", variables=False)
        self.apply()
        self.hand_over()
        self.names = Names(lambda: self.database.names() if self.database else {}, self.account.client("route53"))
        if "administrator" in self.told:
            self.database = self.managed(self.instances())
        self.make_machines()
        Metadata(self.served)
        # In the network an Elastic IP is the address that it is translated to.
        if self.told["addresses"] and "elastic" not in self.example:
            Thread(target=self.lead_clients, daemon=True).start()

    def apply(self, *more):
        self.terraform("apply", "-auto-approve", *more)
        self.told = json.loads(self.terraform("output", "-json", "hand_over", variables=False))

    def make_machines(self):
        files = [(self.database.authority, "/usr/share/komainu/rds-ca.pem")] if self.database else []
        directory = self.given.work / "machines"
        shutil.rmtree(directory, ignore_errors=True)
        for name, instance in sorted(self.instances().items()):
            address = self.serve(name, instance)
            image = self.given.work / "image"
            self.machines[name] = Machine(name, next(self.numbers), address, image, directory, self.url, files)
            self.stack.callback(self.machines[name].remove)

    def serve(self, name, instance):
        """From now on the machine at the instance's address is told that it is this one."""
        [interface] = instance["NetworkInterfaces"]
        address = interface["PrivateIpAddress"]
        self.served[address] = pages(instance, self.interface(interface), self.user_data(instance), REGION)
        self.ids[name] = instance["InstanceId"]
        return address

    def follow_instances(self):
        """What terraform has replaced ends, and the new instance boots with its volume; answers these."""
        found = []
        for name, instance in self.instances().items():
            if instance["InstanceId"] != self.ids[name] and instance["NetworkInterfaces"]:
                self.machines[name].kill()
                self.serve(name, instance)
                self.machines[name].start()
                found.append(instance["InstanceId"])
        return found

    def machine_of(self, instance):
        return next((self.machines[name] for name, known in self.ids.items() if known == instance), None)

    def managed(self, instances):
        """The instances that AWS would run, with the roles in them, as a node's configuration knows them."""
        node = next(instance for name, instance in instances.items() if name in self.told["nodes"])
        configuration = json.loads(self.attribute(node))["komainu"]["files"]["komainu.toml"]
        database = Database(self, tomllib.loads(configuration))
        database.make_roles()
        return database

    def secret(self, arn):
        return self.account.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]

    def terraform(self, *arguments, variables=True):
        given = self.given_to_terraform() if variables else []
        return self.workspace.terraform(f"examples/{self.example}", *arguments, *given)

    def given_to_terraform(self, **instead):
        return variables(self.example, **self.there, **instead)

    def where(self):
        return self.workspace.copy / "examples" / self.example

    def hand_over(self, *options, again=False):
        self.pki = self.given.work / "pki"
        if not options and not again:
            shutil.rmtree(self.pki, ignore_errors=True)
        done = subprocess.run(
            [ROOT / "terraform/hand-over", "--pki", str(self.pki), *options],
            input=json.dumps(self.told),
            cwd=self.given.work,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.given.work),
                "KOMAINU": str(self.given.komainu),
                "KOMAINU_AWS_ENDPOINT": self.url,
                "AWS_ACCESS_KEY_ID": "x",
                "AWS_SECRET_ACCESS_KEY": "x",
            },
            capture_output=True, text=True, check=False,
        )
        if done.returncode != 0:
            raise Failed(f"hand-over: {done.stdout}{done.stderr}")

    def renew(self):
        """As once a year, and each instance's timer at once."""
        self.hand_over("--renew")
        for name, machine in self.machines.items():
            certificate = f"{name}.crt" if name in self.told["nodes"] else f"agent-{name}.crt"
            done = machine.run("systemctl", "start", "komainu-refresh.service", timeout=120)
            taken = machine.run("cat", f"/etc/komainu/pki/{certificate}").stdout
            if done.returncode != 0 or taken != (self.pki / certificate).read_text():
                raise Failed(f"{name} has not taken up its new certificate: {done.stderr}\n{machine.journal()}")

    def restore(self):
        """As docs/manual.md says, after everything was lost: by a snapshot of the primary's volume, and the old directory."""
        primary, snapshot = self.machines[self.primary()], self.given.work / "snapshot"
        self.destroy()
        shutil.rmtree(snapshot, ignore_errors=True)
        subprocess.run(["cp", "-a", primary.volume, snapshot], check=True)
        for machine in self.machines.values():
            machine.remove()
        self.machines.clear()
        self.served.clear()
        self.apply("-var=snapshot_id=snap-0123456789abcdef0")
        self.hand_over(again=True)
        self.make_machines()
        first = self.machines[self.told["founder"]]
        first.volume.rmdir()
        subprocess.run(["cp", "-a", snapshot, first.volume], check=True)
        self.start()
        self.until("the agent beside the restored data", 300, lambda: first.init() and first.is_active("komainu-agent"))
        for command in (
            ["systemctl", "stop", "komainu-agent"],
            ["rm", "-f", "/var/lib/komainu-data/agent/agent.json"],
            ["systemctl", "start", "komainu-agent"],
        ):
            done = first.run(*command)
            if done.returncode != 0:
                raise Failed(f"{command}: {done.stderr}")

    def other_password(self):
        """As docs/manual.md says: another one in directory and secret, then, by the old one, on the servers."""
        role = self.told["database"]
        file, verifier = self.pki / f"password-{role}", self.pki / f"verifier-{role}"
        old = file.read_text()
        file.unlink()
        self.hand_over(again=True)
        new = file.read_text()
        file.write_text(old)
        self.until("the role's new password", 30, lambda: self.sql(f"ALTER ROLE {role} PASSWORD '{verifier.read_text().strip()}'") is not None)
        file.write_text(new)
        if json.loads(self.secret(self.told["application"]))["password"] != new or new == old:
            raise Failed("the applications' secret has not the new password")
        self.until("a login with the new password", 60, lambda: self.sql("SELECT 1") == "1")

    def instances(self):
        """By what terraform calls them: a, b, c, pg1, …"""
        found = {}
        for reservation in self.account.client("ec2").describe_instances()["Reservations"]:
            for instance in reservation["Instances"]:
                if instance["State"]["Name"] == "terminated":
                    continue
                told = json.loads(self.attribute(instance))["komainu"]
                found[told["id"]] = instance
        return found

    def attribute(self, instance):
        answer = self.account.client("ec2").describe_instance_attribute(
            InstanceId=instance["InstanceId"], Attribute="userData"
        )
        return base64.b64decode(answer["UserData"]["Value"]).decode()

    def interface(self, seen):
        answer = self.account.client("ec2").describe_network_interfaces(
            NetworkInterfaceIds=[seen["NetworkInterfaceId"]]
        )
        return answer["NetworkInterfaces"][0]

    def user_data(self, instance):
        told = json.loads(self.attribute(instance))
        if told["komainu"]["role"] == "node":
            told["komainu"]["files"]["komainu.toml"] += f'\n[aws]\nendpoint_url = "{self.url}"\n'
        else:
            told["komainu"]["settings"] = SETTINGS
        return json.dumps(told)

    def start(self):
        for machine in self.machines.values():
            machine.start()

    def lead_clients(self):
        """As a VPC's router: what is for the endpoint goes where AWS's route says."""
        ec2 = self.account.client("ec2")
        endpoint = f"{self.told['addresses'][0]}/32"
        led = None
        addresses = {
            interface["NetworkInterfaceId"]: interface["PrivateIpAddress"]
            for interface in ec2.describe_network_interfaces()["NetworkInterfaces"]
        }
        while not self.ended.wait(POLL):
            for table in ec2.describe_route_tables()["RouteTables"]:
                for route in table["Routes"]:
                    target = addresses.get(route.get("NetworkInterfaceId"))
                    if route.get("DestinationCidrBlock") == endpoint and target and target != led:
                        ip("route", "replace", endpoint, "via", target, "dev", BRIDGE)
                        led = target

    def leads_to(self):
        """The address that an application's packets go to."""
        if not self.told["addresses"]:
            return self.names.find(self.told["host"])
        if "elastic" in self.example:
            ec2 = self.account.client("ec2")
            [address] = ec2.describe_addresses(PublicIps=self.told["addresses"])["Addresses"]
            interface = address.get("NetworkInterfaceId")
            return self.interface({"NetworkInterfaceId": interface})["PrivateIpAddress"] if interface else None
        return self.told["addresses"][0]

    def sql(self, statement):
        """Through the endpoint, as the connection string that terraform prints says; None if it fails."""
        leads = self.leads_to()
        if leads is None:
            self.said = "the endpoint leads nowhere"
            return None
        place = f"host={self.told['host']} hostaddr={leads} port={self.told['port']} connect_timeout=5"
        who = f"user={self.told['database']} dbname={self.told['database']} sslmode=verify-full"
        authority = self.given.work / f"{self.told['cluster']}-ca.crt"
        try:
            done = subprocess.run(
                ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, f"{place} {who} sslrootcert={authority}"],
                env={
                    **os.environ,
                    "PGPASSWORD": (self.pki / f"password-{self.told['database']}").read_text(),
                },
                capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return None
        self.said = done.stderr
        return done.stdout.strip() if done.returncode == 0 else None

    def write(self, number):
        """Whether the row is there: an attempt whose outcome is not known may have written it."""
        self.sql("CREATE TABLE IF NOT EXISTS written (number int PRIMARY KEY)")
        return self.sql(f"INSERT INTO written VALUES ({number}) ON CONFLICT DO NOTHING") is not None

    def rows(self):
        return [int(row) for row in (self.sql("SELECT number FROM written ORDER BY 1") or "").split()]

    def status(self):
        """As a node sees the cluster; None if none answers."""
        for name, machine in self.machines.items():
            if name in self.told["nodes"] and machine.process and machine.init():
                done = machine.run("komainu", "status", "--json", "--admin", "/run/komainu/admin.sock")
                if done.stdout.startswith("{"):
                    return done.returncode, json.loads(done.stdout)
        return None

    def all_is_well(self):
        answer = self.status()
        if answer is None:
            return False
        code, status = answer
        servers = {server["id"]: server for server in status["servers"]}
        self.said = f"{code}: {json.dumps(servers)}"
        streaming = all(server["health"] == "up" for server in servers.values())
        roles = sorted(server["role"] for server in servers.values())
        attached = all(server["administrative"] == "attached" for server in servers.values())
        return code == 0 and streaming and attached and roles == ["primary", "standby", "standby"]

    def owner(self):
        return self.status()[1]["endpoints"][0]["owner"]

    def primary(self):
        return self.status()[1]["primary"]

    def until(self, what, seconds, holds):
        deadline = time.monotonic() + seconds
        self.said = ""
        while not holds():
            if time.monotonic() > deadline:
                journals = "\n".join(f"--- {name}\n{m.journal()}" for name, m in self.machines.items())
                raise Failed(f"{what} did not come within {seconds} s: {self.said}\n{journals}")
            time.sleep(POLL)

    def nothing_failed(self):
        for name, machine in self.machines.items():
            failed = machine.run("systemctl", "list-units", "--failed", "--no-legend", "--plain", "komainu*").stdout.strip()
            if failed:
                raise Failed(f"on {name}: {failed}\n{machine.journal()}")

    def nothing_is_wrong(self):
        """By each node's own doctor."""
        for name in self.told["nodes"]:
            said = self.machines[name].run("komainu", "doctor", "--json", "--admin", "/run/komainu/admin.sock").stdout
            wrong = [found for found in json.loads(said)["findings"] if found["verdict"] == "wrong"]
            if wrong:
                raise Failed(f"{name} finds wrong: {wrong}")

    def logs_are_as_the_alarms_read_them(self):
        """Every field that a metric filter of the log group asks for is in a line of a node's log, and of an agent's; and no
        machine has a log that CloudWatch's agent is not told of."""
        filters = self.account.client("logs").describe_metric_filters(logGroupName=f"/komainu/{self.told['cluster']}")
        asked = {field for found in filters["metricFilters"] for field in re.findall(r"\$\.([\w.]+)", found["filterPattern"])}
        told = json.loads((ROOT / "ami/files/cloudwatch-agent.json").read_text())["logs"]["logs_collected"]["files"]["collect_list"]
        sent = " ".join(entry["file_path"] for entry in told)
        logs = {"komainu": self.told["nodes"], "komainu-agent": self.told["servers"], "postgresql": self.told["servers"]}
        for log, machines in logs.items():
            for name in machines:
                lines = self.machines[name].run("sh", "-c", f"cat $(ls {sent} 2>/dev/null | grep /{log}/)").stdout.splitlines()
                if not lines:
                    raise Failed(f"CloudWatch's agent is told of no file on {name} that has {log}'s log")
                there = {field for line in lines if line.startswith("{") for field in json.loads(line)}
                if log != "postgresql" and (not asked or asked - there):
                    raise Failed(f"alarms look at {sorted(asked)} of the log on {name}, which has {sorted(there)}")

    def plan_is_empty(self):
        self.terraform("plan", "-detailed-exitcode")

    def destroy(self):
        for machine in self.machines.values():
            machine.kill()
        if self.database:
            self.terraform("apply", "-auto-approve", "-var=deletion_protection=false")
            return self.terraform("destroy", "-auto-approve", "-var=deletion_protection=false")
        return self.terraform("destroy", "-auto-approve")
