#!/usr/bin/env python3
"""A bill of materials in CycloneDX 1.5: every crate that is compiled into the binary, or into what builds it.

    sbom.py --binary FILE --target TRIPLE [--at SECONDS] > komainu.cdx.json

From `cargo metadata` and Cargo.lock, so it says what was resolved, with licences and checksums. Tests' crates are not in it.
"""

import argparse
import datetime
import hashlib
import json
import re
import subprocess
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def metadata(target):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def compiled(known):
    """What each crate needs, from komainu on."""
    nodes = {node["id"]: node for node in known["resolve"]["nodes"]}
    found, rest = {}, [known["resolve"]["root"]]
    while rest:
        crate = rest.pop()
        if crate in found:
            continue
        needs = {
            needed["pkg"]
            for needed in nodes[crate]["deps"]
            if any(kind["kind"] in (None, "build") for kind in needed["dep_kinds"])
        }
        found[crate] = sorted(needs)
        rest += needs
    return found


def component(crate, checksums):
    name, version = crate["name"], crate["version"]
    described = {
        "type": "library",
        "bom-ref": f"pkg:cargo/{name}@{version}",
        "purl": f"pkg:cargo/{name}@{version}",
        "name": name,
        "version": version,
    }
    if crate["license"]:
        # Older crates write a slash for OR.
        described["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", crate["license"])}]
    if checksum := checksums.get((name, version)):
        described["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if crate["repository"]:
        described["externalReferences"] = [{"type": "vcs", "url": crate["repository"]}]
    return described


def bill(binary, target, at):
    known = metadata(target)
    crates = {crate["id"]: crate for crate in known["packages"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(each["name"], each["version"]): each.get("checksum") for each in lock["package"]}
    needs = compiled(known)
    described = {crate: component(crates[crate], checksums) for crate in needs}
    content = binary.read_bytes()
    told = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout.split(" ", 1)[1].strip()
    root = described.pop(known["resolve"]["root"])
    root |= {"type": "application", "version": told}
    root["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}]
    ref = {crate: f"pkg:cargo/{crates[crate]['name']}@{crates[crate]['version']}" for crate in needs}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        # The same binary has the same bill.
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(at, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": root,
        },
        "components": [described[crate] for crate in sorted(described, key=ref.get)],
        "dependencies": [
            {"ref": ref[crate], "dependsOn": sorted(ref[needed] for needed in needs[crate])} for crate in sorted(needs, key=ref.get)
        ],
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--binary", required=True, type=Path)
    arguments.add_argument("--target", required=True)
    arguments.add_argument("--at", type=int, default=0)
    given = arguments.parse_args()
    print(json.dumps(bill(given.binary.resolve(), given.target, given.at), indent=1))


if __name__ == "__main__":
    main()
