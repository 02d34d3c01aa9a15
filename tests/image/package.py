"""What `make release` makes of a binary, looked through; `make test-image` also installs, upgrades, removes and purges it.

    package.py --work DIRECTORY --komainu BINARY
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from image import ROOT, Failed, copied, inside, run

CONFFILE = "etc/sysctl.d/60-komainu.conf"
# What a node has of its own, which only a purge may take.
OWN = ("etc/komainu/komainu.toml", "var/lib/komainu/raft/raft.redb", "var/log/komainu/komainu.log")


def made(directory, binary):
    """What is released of the binary, looked through: its package, and a newer one that differs in its version alone."""
    output = directory / "packages"
    said = run(ROOT / "ami/release", "--binary", binary, "--output", output)
    package = next(output.glob("*.deb"))
    version = re.fullmatch(r"komainu_(.+)_(?:amd64|arm64)\.deb", package.name)[1]
    told = run(binary, "--version").split()[1]
    if not version.startswith(told) or run("dpkg-deb", "--field", package, "Version").strip() != version:
        raise Failed(f"{package.name} is made of a komainu {told}:\n{said}")
    listed = {line.split()[1] for line in (output / "SHA256SUMS").read_text().splitlines()}
    name = package.name.removesuffix(".deb")
    if listed != {name, f"{name}.deb", f"{name}.debug", f"{name}.cdx.json"}:
        raise Failed(f"SHA256SUMS is of {listed}")
    contains(package)
    is_bill(output / f"{name}.cdx.json", told)

    newer = output / "newer"
    run("dpkg-deb", "--raw-extract", package, newer)
    control = newer / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {version}", f"Version: {version}.1"))
    run("dpkg-deb", "--root-owner-group", "--build", "-Znone", newer, output / "newer.deb")
    shutil.rmtree(newer)
    return package


def contains(package):
    """Everything is root's, nothing is for others to write, and what a node needs is there."""
    lines = run("dpkg-deb", "--contents", package).splitlines()
    listed = {line.split()[-1].removeprefix("./"): line.split() for line in lines}
    units = [f"lib/systemd/system/{name}.service" for name in ("komainu", "komainu-agent")]
    wanted = ["usr/bin/komainu", "etc/komainu/", CONFFILE, *units]
    wanted += [f"usr/share/doc/komainu/{name}" for name in ("copyright", "LICENSE", "README.md", "docs/install.md")]
    if missing := [name for name in wanted if name not in listed]:
        raise Failed(f"the package lacks {missing}")
    for name, (mode, owner, *_) in listed.items():
        if owner != "root/root" or mode[8] == "w" or mode[5] == "w":
            raise Failed(f"{name} is {owner}'s, {mode}")
    for unit in units:
        started = re.findall(r"^Exec\w+=(/\S*komainu) ", (ROOT / "ami/files" / Path(unit).name).read_text(), re.M)
        if set(started) != {"/usr/bin/komainu"}:
            raise Failed(f"{unit} starts {started}")


def is_bill(file, version):
    """By CycloneDX's own schema, with what is compiled in and without what only tests need."""
    text = file.read_text()
    if error := JsonStrictValidator(SchemaVersion.V1_5).validate_str(text):
        raise Failed(f"the bill of materials is none: {error}"[:2000])
    content = json.loads(text)
    names = {component["name"] for component in content["components"]}
    if not {"tokio", "rustls", "komainu-escalation", "aws-sdk-ec2"} <= names or {"proptest", "tokio-postgres"} & names:
        raise Failed(f"the bill of materials lists {sorted(names)}")
    if not content["metadata"]["component"]["version"].startswith(version):
        raise Failed("the bill of materials is of another version")


def installs_and_goes(directory, package):
    """From nothing to nothing, with what an administrator and a node leave in between."""
    system = copied(directory, "package")

    def told(*command):
        return inside(system, package.parent, *command)

    def install(name):
        told("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", f"/opt/packages/{name}")

    before = {path for path in (system / "etc").rglob("*")}
    told("apt-get", "update", "--quiet")
    install(package.name)
    version = told("komainu", "--version")
    if not version.startswith("komainu "):
        raise Failed(f"komainu --version says {version}")
    if "komainu:x:" not in (system / "etc/passwd").read_text():
        raise Failed("there is no user komainu")
    complaints = [line for line in told("dpkg", "--verify", "komainu").splitlines() if re.match(r"\?\?|missing", line)]
    if complaints:
        raise Failed(f"what is installed differs from the package: {complaints}")
    if enabled(system):
        raise Failed("nothing may be enabled before there is a configuration")

    told("systemctl", "enable", "komainu.service")
    (system / CONFFILE).write_text("vm.swappiness = 7\n")
    for name in OWN:
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text("of this node\n")
    install("newer.deb")
    if (system / CONFFILE).read_text() != "vm.swappiness = 7\n":
        raise Failed("an upgrade has taken the administrator's kernel settings back")
    if enabled(system) != ["komainu.service"]:
        raise Failed("an upgrade has disabled the unit")
    kept(system, "an upgrade")

    told("dpkg", "--remove", "komainu")
    if (system / "usr/bin/komainu").exists() or enabled(system):
        raise Failed("something of the program is left after it was removed")
    kept(system, "a removal")
    install(package.name)
    told("dpkg", "--purge", "komainu")
    left = [str(path) for root in ("etc", "usr", "var/lib", "var/log") for path in (system / root).rglob("*komainu*")]
    left = [path for path in left if "/dpkg/" not in path and "/apt/" not in path]
    grown = {path for path in (system / "etc").rglob("*")} - before
    if left or [path for path in grown if "komainu" in path.name] or "komainu" in (system / "etc/passwd").read_text():
        raise Failed(f"something is left after a purge: {left}")
    shutil.rmtree(system)


def enabled(system):
    return [path.name for path in (system / "etc/systemd/system").rglob("komainu*")]


def kept(system, after):
    lost = [name for name in OWN if not (system / name).exists()]
    if lost:
        raise Failed(f"{after} has taken what is the node's own: {lost}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", required=True, type=Path)
    arguments.add_argument("--komainu", required=True, type=Path)
    given = arguments.parse_args()
    try:
        made(given.work.resolve(), given.komainu.resolve())
    except Failed as error:
        print(f"FAILED: {error}\n0 passed, 1 failed")
        sys.exit(1)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
