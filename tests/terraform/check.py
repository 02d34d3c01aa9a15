#!/usr/bin/env python3
"""Every check of terraform/ that needs no AWS account: `make test-terraform`.

    check.py --work DIRECTORY --moto-python PYTHON --komainu BINARY [NAME …]

The directory is what tests/setup/install made for it. NAME restricts it to modules, examples and checks of these names.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import account
import configurations
import costs
import in_the_double
import metrics
from cloud import Cloud
from examples import COMMON, variables
from made_up import MadeUp
from moto_server import moto_server
from workspace import ROOT, Failed, Workspace

def expect(condition, message):
    if not condition:
        raise Failed(message)


def formatted():
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", "-recursive", str(ROOT / "terraform")],
        capture_output=True, text=True, check=False, env={**os.environ, "TF_CLI_CONFIG_FILE": "/dev/null"},
    )
    expect(done.returncode == 0, f"terraform fmt would change:\n{done.stdout}{done.stderr}")


def linted(workspace):
    """What checkov finds and terraform/checkov.yaml does not explain."""
    done = subprocess.run(
        [Path(sys.executable).with_name("checkov"), "--config-file", str(ROOT / "terraform/checkov.yaml"),
         "--directory", str(workspace.copy / "examples")],
        capture_output=True, text=True, check=False,
    )
    expect(done.returncode == 0 and "Passed checks: " in done.stdout, f"{done.stdout}{done.stderr}")


def module(workspace, name):
    with workspace.in_world(MadeUp()):
        tested(workspace, name)


def tested(workspace, name):
    where = f"modules/{name}"
    workspace.terraform(where, "init")
    workspace.terraform(where, "validate")
    said = workspace.terraform(where, "test")
    expect("Success!" in said and " 0 passed" not in said, f"{where}: no test ran:\n{said}")


def example(workspace, komainu, name):
    with workspace.in_world(MadeUp()):
        made(workspace, komainu, name)


def made(workspace, komainu, name):
    where = f"examples/{name}"
    given = variables(name)
    workspace.terraform(where, "init")
    workspace.terraform(where, "validate")
    workspace.terraform(where, "plan", *given)
    workspace.terraform(where, "apply", "-auto-approve", *given)
    shown = json.loads(workspace.terraform(where, "show", "-json"))
    broken = list(account.broken_rules(shown))
    expect(not broken, f"{where}:\n  " + "\n  ".join(broken))
    stack = account.resources(shown)
    problems = [*metrics.unknown(stack), *metrics.unexplained(stack)]
    if name == costs.EXAMPLE:
        problems += costs.wrong(stack)
    expect(not problems, f"{where}:\n  " + "\n  ".join(problems))
    configurations.accepted(komainu, stack)
    workspace.terraform(where, "plan", "-detailed-exitcode", *given)
    replaced_one_by_one(workspace, where, given)
    workspace.terraform(where, "destroy", "-auto-approve", *given)


def replaced_one_by_one(workspace, where, given):
    """Another image and type change no instance by themselves, and one when it is told to."""
    newer = [argument for argument in given if not argument.startswith("-var=image_id=")]
    newer += ["-var=image_id=ami-newer", "-var=node_instance_type=c7g.2xlarge"]
    workspace.terraform(where, "plan", "-detailed-exitcode", *newer)
    target = 'module.nodes.aws_instance.this["b"]'
    workspace.terraform(where, "plan", f"-replace={target}", "-out=replace.plan", *newer)
    changes = json.loads(workspace.terraform(where, "show", "-json", "replace.plan"))["resource_changes"]
    replaced = {change["address"]: change["change"]["after"] for change in changes if "delete" in change["change"]["actions"]}
    instances = [address for address in replaced if ".aws_instance." in address]
    expect(instances == [target], f"{where}: replacing {target} replaces {sorted(replaced)}")
    expect(replaced[target]["ami"] == "ami-newer", f"{where}: the new instance has the old image")
    expect(replaced[target]["instance_type"] == "c7g.2xlarge", f"{where}: the new instance is of the old type")
    kept = ("aws_network_interface", "aws_ebs_volume", "aws_secretsmanager_secret")
    lost = [address for address in replaced if any(f".{kind}." in address for kind in kept)]
    expect(not lost, f"{where}: a replaced node loses {lost}")


def in_double(workspace, python, komainu, name):
    with moto_server(python) as url, workspace.in_world(Cloud(url)):
        account = in_the_double.Account(url, COMMON["region"])
        there = account.network() if name == "existing-vpc" else {}
        in_the_double.applied(workspace, komainu, name, variables(name, **there), account)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", required=True)
    arguments.add_argument("--moto-python", required=True, type=Path)
    arguments.add_argument("--komainu", required=True, type=Path)
    arguments.add_argument("names", nargs="*")
    given = arguments.parse_args()
    komainu = given.komainu.resolve()
    workspace = Workspace(given.work)
    checks = [("format", formatted), ("checkov", lambda: linted(workspace))]
    checks += [(f"modules/{name}", lambda name=name: module(workspace, name)) for name in workspace.names("modules")]
    checks += [(f"examples/{name}", lambda name=name: example(workspace, komainu, name)) for name in workspace.names("examples")]
    checks += [
        (f"in the AWS double/{name}", lambda name=name: in_double(workspace, given.moto_python, komainu, name))
        for name in workspace.names("examples")
    ]
    if given.names:
        checks = [(name, check) for name, check in checks if name in given.names or Path(name).name in given.names]
    failed = 0
    for name, check in checks:
        began = time.monotonic()
        try:
            check()
        except Exception as error:
            failed += 1
            print(f"{name}: FAILED\n{error if isinstance(error, Failed) else traceback.format_exc()}", flush=True)
            continue
        print(f"{name}: ok, {time.monotonic() - began:.1f} s", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not checks else 0)


if __name__ == "__main__":
    main()
