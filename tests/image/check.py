#!/usr/bin/env python3
"""The image of ami/, for real: provisioned, booted six times, and a cluster of what terraform made: `make test-image`.

    check.py --work DIRECTORY --checks DIRECTORY --moto-python PYTHON --komainu BINARY

From `terraform apply` to a write through the endpoint after the loss of its owner and after that of the primary. Everything
that follows the provisioning happens in a network namespace of its own. As root.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "terraform"))

import image
import package
from appliance import Appliance
from image import Failed


def step(text, began):
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


def build(given):
    began = time.monotonic()
    image.valid()
    step("scripts and Packer template are valid", began)
    made = package.made(given.work, given.komainu)
    package.installs_and_goes(given.work, made)
    step("the package is installed, upgraded, removed and purged", began)
    built = image.provisioned(given.work, made)
    step("provisioned, twice", began)
    image.hardened(built)
    image.clean(built)
    step("units are as hardened as stated, and nothing in it is one machine's own", began)


def boot(given):
    began = time.monotonic()
    with Appliance(given) as appliance:
        step("terraform apply, and hand-over", began)
        appliance.start()
        appliance.until("the first write through the endpoint", 600, lambda: appliance.write(1))
        step("nodes and servers booted; the first write through the endpoint", began)
        appliance.until("all nodes find all well", 300, appliance.all_is_well)
        step("three nodes, two standbys that stream", began)

        owner = appliance.owner()
        appliance.machines[owner].kill()
        appliance.until("a write after the owner's loss", 120, lambda: appliance.write(2))
        step(f"{owner} owned the endpoint and was lost; a write through the endpoint", began)
        appliance.machines[owner].start()
        appliance.until("the new instance is the old node", 300, appliance.all_is_well)
        step(f"a new instance with {owner}'s volume is {owner}", began)

        primary = appliance.primary()
        appliance.machines[primary].kill()
        appliance.until("a write after the primary's loss", 180, lambda: appliance.write(3))
        step(f"{primary} was the primary and was lost; a write through the endpoint", began)
        appliance.machines[primary].start()
        appliance.until("the old primary is a standby", 600, appliance.all_is_well)
        step(f"a new instance with {primary}'s volume is a standby", began)

        founder = appliance.told["founder"]
        appliance.machines[founder].lose_volume()
        appliance.machines[founder].start()
        appliance.until("the founder has copied the database", 600, appliance.all_is_well)
        step(f"{founder} founded the database, lost its volume, and copied it from the primary", began)

        appliance.renew()
        appliance.until("all is well with new certificates", 300, appliance.all_is_well)
        step("certificates renewed", began)

        if appliance.rows() != [1, 2, 3]:
            raise Failed(f"what was written is {appliance.rows()}")
        appliance.nothing_failed()
        appliance.log_is_as_the_alarms_read_it()
        appliance.plan_is_empty()
        step("every row is there, no unit has failed, and terraform plan finds nothing to do", began)
        appliance.destroy()
        step("terraform destroy", began)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", required=True, type=Path)
    arguments.add_argument("--checks", required=True, type=Path)
    arguments.add_argument("--moto-python", required=True, type=Path)
    arguments.add_argument("--komainu", required=True, type=Path)
    arguments.add_argument("--boot-only", action="store_true", help="the image of the last run")
    given = arguments.parse_args()
    if os.getuid() != 0:
        sys.exit("the image can be made and booted by root only")
    given.work.mkdir(parents=True, exist_ok=True)
    for name in ("work", "checks", "komainu"):
        setattr(given, name, getattr(given, name).resolve())
    given.moto_python = given.moto_python.absolute()
    try:
        if "KOMAINU_IMAGE_INSIDE" not in os.environ:
            if not given.boot_only:
                build(given)
            inside = {**os.environ, "KOMAINU_IMAGE_INSIDE": "1"}
            # It ends with this process, and its network, names of namespaces included, with it.
            own = ["unshare", "--net", "--mount", "setpriv", "--pdeathsig", "TERM", sys.executable]
            done = subprocess.run([*own, *sys.argv], env=inside, check=False)
            sys.exit(done.returncode)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        boot(given)
    except Failed as error:
        print(f"FAILED: {error}\n0 passed, 1 failed")
        sys.exit(1)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
