"""The image: Debian as debootstrap makes it, provisioned by ami/provision.sh."""

import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What `systemd-analyze security` may say at most of the services that the network reaches; 10 is the worst.
EXPOSURE = {"komainu": 1.5, "komainu-postgresql": 2.5, "komainu-agent": 2.6}


class Failed(Exception):
    """What should hold does not."""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def valid():
    """As far as it can be told without running them."""
    ami = ROOT / "ami"
    scripts = [ROOT / "terraform" / name for name in ("hand-over", "make-roles", "replace-nodes")]
    scripts += [ROOT / "tests/setup/previous", ami / "package", ami / "release", ami / "provision.sh"]
    scripts += [ami / "debian" / name for name in ("postinst", "prerm", "postrm")]
    scripts += [*(ami / "files" / name for name in ("boot", "node", "server"))]
    run("shellcheck", "--external-sources", *scripts, cwd=ROOT)
    for architecture in ("arm64", "x86_64"):
        given = ("region=eu-central-1", "package=/bin/true", f"architecture={architecture}")
        run("packer", "validate", *(f"-var={variable}" for variable in given), ami / "komainu.pkr.hcl")


def base(directory):
    """A minimal system, made once: it takes a minute and a half, and 260 MB."""
    made = directory / "base"
    if not (directory / "base-complete").exists():
        shutil.rmtree(made, ignore_errors=True)
        packages = "systemd,systemd-sysv,dbus,ca-certificates,iproute2"
        run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", made)
        (directory / "base-complete").touch()
    return made


def copied(directory, name):
    """A system of its own, which can install from Debian's mirror as this host does."""
    system = directory / name
    shutil.rmtree(system, ignore_errors=True)
    run("cp", "-a", "--reflink=auto", base(directory), system)
    run("cp", "-r", "/etc/apt/apt.conf.d", system / "etc/apt/")
    return system


def inside(system, packages, *command):
    return run(
        "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--resolv-conf=copy-host", f"--directory={system}",
        f"--bind-ro={ROOT / 'ami'}:/mnt", f"--bind-ro={packages}:/opt/packages", "--setenv=DEBIAN_FRONTEND=noninteractive",
        *command,
        timeout=1200,
    )


def provisioned(directory, package):
    """A system with everything on it, as Packer would have it done."""
    image = copied(directory, "image")
    for _ in ("installs", "upgrades"):
        inside(image, package.parent, "/mnt/provision.sh", "--package", f"/opt/packages/{package.name}", "--image", "--without-aws")
    return image


def hardened(image):
    for name, most in EXPOSURE.items():
        # The package's own, or of the image alone.
        there = [image / place / f"{name}.service" for place in ("lib/systemd/system", "etc/systemd/system")]
        unit = next(path for path in there if path.exists())
        said = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
        exposure = float(re.search(r"Overall exposure level for .*: ([\d.]+)", said)[1])
        if exposure > most:
            raise Failed(f"{name}.service has an exposure of {exposure}, more than {most}")


def clean(image):
    """Nothing in it is one machine's own."""
    if (image / "etc/machine-id").read_text().strip():
        raise Failed("the image has a machine id")
    keys = list(image.glob("etc/ssh/ssh_host_*")) + list(image.glob("home/*/.ssh/authorized_keys"))
    if keys:
        raise Failed(f"the image has keys: {keys}")
