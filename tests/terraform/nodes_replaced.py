"""terraform/replace-nodes, for a stack that is in the AWS double, and nodes that answer as this test says: one after the
other, who has the endpoint last, none while the cluster is not well, and nothing else with them."""

import json
import subprocess
import tempfile
from pathlib import Path

from workspace import ROOT, Failed

# In the place of the AWS CLI's `ssm`, which the double has no machines for. A file for each instance says how often it is
# yet to answer that the cluster is not well; one without a file answers as often as `new` says.
ANSWERS = r"""#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")"
option() {
    local name=$1
    shift
    while [ "$1" != "$name" ]; do shift; done
    echo "$2"
}
case "$1 $2" in
    "ssm send-command")
        instance=$(option --instance-ids "$@")
        option --parameters "$@" | grep -q 'komainu status --json' || exit 9
        echo "of-$instance" ;;
    "ssm get-command-invocation")
        instance=$(option --instance-id "$@")
        [ "$(option --command-id "$@")" = "of-$instance" ] || exit 9
        [ -f "left-$instance" ] || cp new "left-$instance"
        left=$(cat "left-$instance")
        echo $((left > 0 ? left - 1 : 0)) >"left-$instance"
        jq -n --arg status "$(cat status)" --argjson code $((left > 0 ? 2 : 0)) \
            '{Status: (if $code == 0 then "Success" else "Failed" end), ResponseCode: $code, StandardOutputContent: $status}' ;;
    *) exit 9 ;;
esac
"""
FOR_EVER = 10**6


def nodes_replaced(workspace, where, account, given):
    newer = [argument for argument in given if not argument.startswith("-var=image_id=")] + ["-var=image_id=ami-newer"]
    forgotten = [argument for argument in newer if not argument.startswith("-var=alarm_topic_arn=")]
    nodes = lambda: json.loads(workspace.terraform(where, "output", "-json", "nodes"))
    before = nodes()
    with tempfile.TemporaryDirectory() as directory:
        answers = Path(directory)
        (answers / "aws").write_text(ANSWERS)
        (answers / "aws").chmod(0o755)
        (answers / "status").write_text(json.dumps({"leader": "b", "endpoints": [{"name": "app", "owner": "a"}]}))

        def run(*options, old, new, patience, arguments=newer):
            for left in answers.glob("left-*"):
                left.unlink()
            for instance in nodes().values():
                (answers / f"left-{instance}").write_text(str(old))
            (answers / "new").write_text(str(new))
            environment = {
                **workspace.environment,
                "PATH": f"{directory}:{workspace.environment['PATH']}",
                "KOMAINU_PATIENCE_S": str(patience),
                "KOMAINU_POLL_S": "0.1",
            }
            done = subprocess.run(
                [ROOT / "terraform/replace-nodes", *options, *arguments],
                cwd=workspace.copy / where, env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, check=False, timeout=600,
            )
            said = done.stdout + done.stderr
            return done.returncode, [line.split()[-1] for line in said.splitlines() if line.startswith("replacing node")], said

        code, replaced, said = run(old=FOR_EVER, new=0, patience=1)
        if code == 0 or replaced or nodes() != before:
            raise Failed(f"{where}: nodes of a cluster that is not well are replaced: {said}")
        if (answers / f"left-{before['a']}").read_text().strip() == str(FOR_EVER):
            raise Failed(f"{where}: no node was asked: {said}")
        code, _, said = run(old=0, new=0, patience=60, arguments=forgotten)
        if code == 0 or "foreign_change" not in said or nodes() != before:
            raise Failed(f"{where}: what a forgotten argument had made is taken away: {said}")
        code, replaced, said = run("--nodes", "b,c", old=0, new=FOR_EVER, patience=1)
        if code == 0 or replaced != ["c"] or [node for node in before if nodes()[node] != before[node]] != ["c"]:
            raise Failed(f"{where}: it goes on from a node that has not come back: {said}")
        # Who has the variables in a file gives no arguments.
        file = workspace.copy / where / "terraform.tfvars.json"
        file.write_text(json.dumps(dict(argument.removeprefix("-var=").split("=", 1) for argument in newer)))
        code, replaced, said = run("--nodes", "a,b,c", old=0, new=3, patience=60, arguments=())
        file.unlink()
        if code != 0 or replaced != ["c", "a", "b"]:
            raise Failed(f"{where}: replace-nodes ended with {code}, after {replaced}:\n{said}")
    after = nodes()
    kept = [node for node in before if before[node] == after[node]]
    if kept:
        raise Failed(f"{where}: {kept} have the instances of before")
    found = account.client("ec2").describe_instances(InstanceIds=list(after.values()))["Reservations"]
    images = {instance["ImageId"] for reservation in found for instance in reservation["Instances"]}
    if images != {"ami-newer"}:
        raise Failed(f"{where}: the new instances are of {images}")
