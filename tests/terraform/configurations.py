"""komainu's own opinion of the configurations that are in the instances' user data."""

import json
import subprocess
import tempfile
from pathlib import Path

from workspace import Failed

# What the instances' secrets have. The contents are read where they are used, and not here.
USERS = '"komainu" "a"\n"komainu_auth" "b"\n"komainu_operator" "c"\n'
# Before RDS: who applications are, and nobody's password.
USERS_BEFORE_RDS = (
    '"app" "SCRAM-SHA-256$4096:d2FCeVf5Dr/MTlJkWRQn4w==$5hyTk+IP4BQQgMOcF7xAIfzP9Q3OdP2tHx4YVMHXpII=:'
    'Sgyy9HAVQRB9iu/ojeGayxCIQL0FiF08pDlEI7vJgL8="\n'
)


def accepted(komainu, stack):
    """Each node's file, as it is on the node; fails with what komainu says of one that it does not take."""
    checked = 0
    for address, kind, values in stack:
        if kind != "aws_instance":
            continue
        told = json.loads(values["user_data"])["komainu"]
        if told["role"] != "node":
            continue
        checked += 1
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory)
            authority(komainu, place / "pki", told)
            for name, text in told["files"].items():
                # systemd makes this directory on a node.
                # And the image has RDS's authorities.
                text = text.replace("/usr/share/komainu/rds-ca.pem", "pki/ca.crt")
                (place / name).write_text(text.replace("/run/komainu/", f"{directory}/"))
            users = place / "users.txt"
            users.touch(mode=0o600)
            users.write_text(USERS_BEFORE_RDS if "server_user" in told["files"]["komainu.toml"] else USERS)
            done = subprocess.run(
                [komainu, "check-config", str(place / "komainu.toml")], capture_output=True, text=True, check=False
            )
        if done.returncode != 0 or done.stderr:
            raise Failed(f"{address}: komainu check-config says:\n{done.stdout}{done.stderr}")
    if checked != 3:
        raise Failed(f"{checked} nodes have a configuration")


def authority(komainu, directory, told):
    for command in (["init", "--cluster", told["cluster"]], ["node", "--id", told["id"]]):
        subprocess.run(
            [komainu, "pki", command[0], "--dir", str(directory), *command[1:]], check=True, capture_output=True
        )
