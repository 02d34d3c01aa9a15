"""One instance: the image booted by systemd-nspawn, in a network namespace with the instance's address."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

BRIDGE = "image0"
GATEWAY = "10.20.255.254"
METADATA = "169.254.169.254"
RESOLVER = "169.254.169.253"


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def network():
    """The bridge that every machine hangs on; the metadata's address is here, and the resolver's."""
    Path("/run/netns").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)
    ip("link", "set", "lo", "up")
    # With an address of its own it keeps it when a machine goes; else those that stay would send to the old one for a while.
    ip("link", "add", BRIDGE, "address", "02:00:00:00:00:01", "type", "bridge")
    ip("address", "add", f"{GATEWAY}/16", "dev", BRIDGE)
    for address in (METADATA, RESOLVER):
        ip("address", "add", f"{address}/32", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")


class Machine:
    """Its root is thrown away at each start, as a replaced instance's; its volume and its address stay."""

    def __init__(self, name, number, address, image, directory, aws, given=()):
        """`given` are files for it, as pairs of where they are and where it finds them."""
        self.name, self.number, self.address, self.image, self.aws = name, number, address, image, aws
        self.given = given
        self.directory = Path(directory) / name
        self.volume = self.directory / "volume"
        self.volume.mkdir(parents=True)
        self.process = None
        self.namespace = f"machine{number}"
        self.wired = False

    def wire(self):
        near, far = f"near{self.number}", f"far{self.number}"
        ip("netns", "add", self.namespace)
        ip("link", "add", near, "type", "veth", "peer", "name", far)
        ip("link", "set", near, "master", BRIDGE, "up")
        ip("link", "set", far, "netns", self.namespace, "name", "eth0")
        for command in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{self.address}/16", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", METADATA, "dev", "eth0"],
            ["route", "add", RESOLVER, "dev", "eth0"],
        ):
            ip("-n", self.namespace, *command)
        self.wired = True

    def start(self):
        self.wire()
        defaults = self.directory / "komainu-boot"
        defaults.write_text(f"KOMAINU_AWS_ENDPOINT={self.aws}\nKOMAINU_BOOT_SECONDS=1\n")
        self.process = subprocess.Popen(
            [
                "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--volatile=overlay",
                f"--machine={self.name}", f"--directory={self.image}", "--console=pipe",
                f"--network-namespace-path=/run/netns/{self.namespace}", "--capability=CAP_NET_ADMIN",
                f"--bind={self.volume}:/var/lib/komainu-data",
                f"--bind-ro={defaults}:/etc/default/komainu-boot",
                *(f"--bind-ro={here}:{there}" for here, there in self.given),
            ],
            stdin=subprocess.DEVNULL,
            stdout=(self.directory / "console.log").open("ab"),
            stderr=subprocess.STDOUT,
        )

    def init(self):
        """The process id of its systemd."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def run(self, *command, timeout=30):
        """A command inside, and what it says."""
        return subprocess.run(
            ["nsenter", "-t", str(self.init()), "--all", *command],
            capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )

    def is_active(self, unit):
        return self.run("systemctl", "is-active", unit).stdout.strip() == "active"

    def kill(self):
        """As if its power were cut: no process of it does anything any more."""
        init = self.init()
        if init:
            os.kill(init, signal.SIGKILL)
        self.process.wait(timeout=60)
        self.process = None
        self.unwire()

    def lose_volume(self):
        """The instance ends, and the next one gets an empty volume."""
        self.kill()
        shutil.rmtree(self.volume)
        self.volume.mkdir()

    def unwire(self):
        """The wire first: the kernel may keep the namespace for a while."""
        if self.wired:
            ip("link", "delete", f"near{self.number}")
            ip("netns", "delete", self.namespace)
            self.wired = False

    def remove(self):
        if self.process and self.process.poll() is None:
            self.kill()
        self.unwire()
        shutil.rmtree(self.directory, ignore_errors=True)

    def journal(self):
        if not self.process or self.process.poll() is not None or not self.init():
            return (self.directory / "console.log").read_text(errors="replace")[-4000:]
        said = self.run("journalctl", "--no-pager", "-n", "60", "-o", "short-precise", "-u", "komainu*", timeout=60)
        log = self.run("sh", "-c", "tail -n 25 /var/log/komainu*/komainu.log")
        return f"{said.stdout}{said.stderr}\n{log.stdout}"
