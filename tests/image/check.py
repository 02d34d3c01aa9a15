#!/usr/bin/env python3
"""The image of ami/, for real: provisioned, and booted as what terraform made of the examples: `make test-image`.

    check.py --work DIRECTORY --checks DIRECTORY --moto-python PYTHON --komainu BINARY [--boot-only] [EXAMPLE …]

From `terraform apply` to a write through the endpoint after the loss of its owner and after that of the primary. Each
example has a network namespace of its own. As root.
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
from replaced import nodes_replaced


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


def comes_up(appliance, began):
    step("terraform apply, hand-over, and what else is to be done by hand", began)
    appliance.start()
    appliance.until("the first write through the endpoint", 600, lambda: appliance.write(1))
    step("all machines booted; the first write through the endpoint", began)
    appliance.until("all nodes find all well", 300, appliance.all_is_well)
    step("three nodes, two standbys that stream", began)


def loses(appliance, began, name, was, number):
    """A machine's power is cut, a client writes on, and a new instance with the machine's volume takes its place."""
    appliance.machines[name].kill()
    appliance.until(f"a write after the loss of {name}", 180, lambda: appliance.write(number))
    step(f"{name}, {was}, was lost; a write through the endpoint", began)
    appliance.machines[name].start()
    appliance.until(f"{name} is back", 600, appliance.all_is_well)
    step(f"a new instance with {name}'s volume is {name}", began)


def ends_well(appliance, began, written=(1, 2, 3)):
    if appliance.rows() != [*written]:
        raise Failed(f"what was written is {appliance.rows()}")
    appliance.nothing_failed()
    appliance.nothing_is_wrong()
    appliance.logs_are_as_the_alarms_read_them()
    appliance.plan_is_empty()
    step("every row is there, no unit has failed, and terraform plan finds nothing to do", began)
    appliance.destroy()
    step("terraform destroy", began)


def on_ec2(appliance, began):
    comes_up(appliance, began)
    loses(appliance, began, appliance.owner(), "the endpoint's owner", 2)
    loses(appliance, began, appliance.primary(), "the primary", 3)

    appliance.restore()
    appliance.until("every row is back", 300, lambda: appliance.rows() == [1, 2, 3])
    step("everything was lost, and restored from a snapshot of the primary's volume", began)
    appliance.until("all is well after the restore", 600, appliance.all_is_well)
    ends_well(appliance, began)


def in_a_network_of_ones_own(appliance, began):
    """Its network was there before terraform. And once: all nodes get another image."""
    comes_up(appliance, began)
    written = nodes_replaced(appliance, 2)
    step("replace-nodes has replaced all three, one after the other, and a client wrote on", began)
    appliance.until("all is well with the new instances", 300, appliance.all_is_well)
    ends_well(appliance, began, range(1, written))


def at_length(appliance, began):
    """Once: instances, secrets and volumes are the same in all of them."""
    comes_up(appliance, began)
    loses(appliance, began, appliance.owner(), "the endpoint's owner", 2)
    loses(appliance, began, appliance.primary(), "the primary", 3)

    founder = appliance.told["founder"]
    appliance.machines[founder].lose_volume()
    appliance.machines[founder].start()
    appliance.until("the founder has copied the database", 600, appliance.all_is_well)
    step(f"{founder} founded the database, lost its volume, and copied it from the primary", began)

    appliance.renew()
    appliance.until("all is well with new certificates", 300, appliance.all_is_well)
    step("certificates renewed", began)
    appliance.other_password()
    step("another password for the applications", began)
    ends_well(appliance, began)


def before_a_managed_service(appliance, began):
    """The servers are AWS's, which makes the writer; nodes come from the image."""
    comes_up(appliance, began)
    loses(appliance, began, appliance.owner(), "the endpoint's owner", 2)

    lost = appliance.database.fail_over()
    appliance.until("a write after the service's failover", 120, lambda: appliance.write(3))
    if appliance.primary() != appliance.database.writer:
        raise Failed(f"{appliance.primary()} is taken for the writer, and {appliance.database.writer} is it")
    step(f"{lost} was the writer and was lost; a write through the endpoint", began)
    appliance.database.bring_back(lost)
    appliance.until("the old writer is a reader", 120, appliance.all_is_well)
    ends_well(appliance, began)


EXAMPLES = {
    "ec2-route-table": at_length,
    "ec2-elastic-ip": on_ec2,
    "existing-vpc": in_a_network_of_ones_own,
    "rds-route-table": before_a_managed_service,
    "aurora-route53": before_a_managed_service,
}


def alone(example):
    """In a network of its own. It ends with this process, and with it its network, names of namespaces included."""
    print(f"{example}:", flush=True)
    own = ["unshare", "--net", "--mount", "setpriv", "--pdeathsig", "TERM", sys.executable]
    inside = {**os.environ, "KOMAINU_IMAGE_INSIDE": example}
    return subprocess.run([*own, *sys.argv], env=inside, check=False).returncode == 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", required=True, type=Path)
    arguments.add_argument("--checks", required=True, type=Path)
    arguments.add_argument("--moto-python", required=True, type=Path)
    arguments.add_argument("--komainu", required=True, type=Path)
    arguments.add_argument("--boot-only", action="store_true", help="the image of the last run")
    arguments.add_argument("examples", nargs="*", help="these only")
    given = arguments.parse_args()
    wanted = given.examples or list(EXAMPLES)
    if set(wanted) - set(EXAMPLES):
        arguments.error(f"there are {', '.join(EXAMPLES)}")
    if os.getuid() != 0:
        sys.exit("the image can be made and booted by root only")
    given.work.mkdir(parents=True, exist_ok=True)
    for name in ("work", "checks", "komainu"):
        setattr(given, name, getattr(given, name).resolve())
    given.moto_python = given.moto_python.absolute()
    try:
        inside = os.environ.get("KOMAINU_IMAGE_INSIDE")
        if inside:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            began = time.monotonic()
            with Appliance(given, inside) as appliance:
                return EXAMPLES[inside](appliance, began)
        if not given.boot_only:
            build(given)
    except Failed as error:
        sys.exit(f"FAILED: {error}")
    failed = [example for example in wanted if not alone(example)]
    print(f"{len(wanted) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
