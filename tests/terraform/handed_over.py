"""terraform/hand-over, for a stack that is in the AWS double: every secret is filled, and a second authority is refused."""

import json
import os
import subprocess

from workspace import ROOT, Failed


def handed_over(workspace, komainu, account, outputs):
    pki = workspace.directory / "pki"
    subprocess.run(["rm", "-rf", str(pki)], check=True)

    def run(directory, expect=0, *options, told=outputs):
        done = subprocess.run(
            [ROOT / "terraform/hand-over", "--pki", str(directory), *options],
            input=json.dumps(told),
            cwd=workspace.directory,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(workspace.directory),
                "KOMAINU": str(komainu),
                "KOMAINU_AWS_ENDPOINT": account.url,
                "AWS_ACCESS_KEY_ID": "x",
                "AWS_SECRET_ACCESS_KEY": "x",
            },
            capture_output=True, text=True, check=False,
        )
        if (done.returncode == 0) != (expect == 0):
            raise Failed(f"hand-over {options} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def secret(arn):
        return json.loads(account.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])

    run(pki)
    first = {arn: secret(arn) for arn in outputs["nodes"].values()}
    roles = {"komainu", "komainu_auth", "komainu_operator"} if outputs["servers"] else {outputs["database"]}
    for node, arn in outputs["nodes"].items():
        names = set(first[arn]["files"])
        if names != {"pki/ca.crt", f"pki/{node}.crt", f"pki/{node}.key", "users.txt"}:
            raise Failed(f"node {node} is given {sorted(names)}")
        users = dict(line.split() for line in first[arn]["files"]["users.txt"].splitlines())
        if {name.strip('"') for name in users} != roles:
            raise Failed(f"node {node} is given the users {sorted(users)}")
        # Where servers log clients in themselves, a node has to know nobody's password.
        if not outputs["servers"] and not all(shown.startswith('"SCRAM-SHA-256$') for shown in users.values()):
            raise Failed(f"node {node} is given passwords of applications")
    for server, about in outputs["servers"].items():
        given = secret(about["secret"])
        names = set(given["files"])
        if names != {"pki/ca.crt", f"pki/agent-{server}.crt", f"pki/agent-{server}.key", "passfile"}:
            raise Failed(f"server {server} is given {sorted(names)}")
        if ("verifiers" in given) != (server == outputs["founder"]):
            raise Failed(f"the verifiers of all roles are not the founder's alone: {server}")
        if not all(verifier.startswith("SCRAM-SHA-256$") for verifier in given.get("verifiers", {}).values()):
            raise Failed("the founder is given passwords")
    application = secret(outputs["application"])
    if (application["host"], application["username"]) != (outputs.get("connect", outputs["host"]), outputs["database"]):
        raise Failed(f"applications are told to connect to {application['host']} as {application['username']}")
    if "ca.key" in json.dumps([first, application]):
        raise Failed("the authority's key has left the directory")

    run(pki)
    if any(secret(arn) != before for arn, before in first.items()):
        raise Failed("a second run changes what was handed over")
    said = run(workspace.directory / "pki-of-somebody", 1)
    if "another directory" not in said:
        raise Failed(f"a second authority is refused with {said!r}")
    run(pki, 0, "--renew")
    for arn, before in first.items():
        after = secret(arn)["files"]
        if any(after[name] == text for name, text in before["files"].items() if name.endswith(".key")):
            raise Failed("--renew makes no new keys")
        if after["users.txt"] != before["files"]["users.txt"]:
            raise Failed("--renew changes passwords")
    made_anew(komainu, outputs, run, secret, pki)
    another_authority(workspace, komainu, outputs, run, secret, pki)


def made_anew(komainu, outputs, run, secret, pki):
    """A stack after a restore from nothing: the directory is the old one, the addresses are others."""
    servers = {id: {**about, "address": f"10.254.0.{number}"} for number, (id, about) in enumerate(outputs["servers"].items(), 1)}
    told = {**outputs, "host": "app.anew.internal", "addresses": ["203.0.113.77"], "servers": servers}
    run(pki, told=told)
    seen = json.loads(subprocess.run([komainu, "pki", "show", "--dir", str(pki), "--json"], check=True, capture_output=True).stdout)
    has = {shown["file"].split("/")[-1]: {*shown["names"], *shown["addresses"]} for shown in seen["certificates"]}
    for node, arn in outputs["nodes"].items():
        if not {"app.anew.internal", "203.0.113.77"} <= has[f"{node}.crt"]:
            raise Failed(f"node {node} has the certificate of another endpoint: {has[f'{node}.crt']}")
        if secret(arn)["files"][f"pki/{node}.crt"] != (pki / f"{node}.crt").read_text():
            raise Failed(f"node {node} is not given its new certificate")
    for server, about in servers.items():
        if about["address"] not in has[f"agent-{server}.crt"]:
            raise Failed(f"server {server} has the certificate of another address: {has[f'agent-{server}.crt']}")
    before = {file.name: file.read_text() for file in pki.glob("*.crt")}
    run(f"{pki}/", told=told)
    if before != {file.name: file.read_text() for file in pki.glob("*.crt")}:
        raise Failed("certificates that fit are made anew")
    run(pki)


def another_authority(workspace, komainu, outputs, run, secret, pki):
    """As docs/nodes-and-certificates.md says: each is trusted before anybody shows a certificate of it."""
    other = workspace.directory / "pki-2"
    subprocess.run(["rm", "-rf", str(other)], check=True)
    made = [komainu, "pki", "init", "--dir", str(other), "--cluster", outputs["cluster"]]
    subprocess.run(made, check=True, capture_output=True)
    for file in [*pki.glob("password-*"), *pki.glob("verifier-*")]:
        (other / file.name).write_text(file.read_text())
    old, new = ((directory / "ca.crt").read_text() for directory in (pki, other))
    node, arn = next(iter(outputs["nodes"].items()))
    shown = lambda: secret(arn)["files"]

    if "does not trust" not in run(other, 1):
        raise Failed("an authority that nobody trusts yet is taken")
    before = shown()
    run(pki, 0, "--trust", str(other / "ca.crt"))
    if shown()["pki/ca.crt"] != old + new or shown()[f"pki/{node}.crt"] != before[f"pki/{node}.crt"]:
        raise Failed("the first step gives other certificates, or trusts not both")
    run(other, 0, "--trust", str(pki / "ca.crt"))
    if shown()["pki/ca.crt"] != new + old or shown()[f"pki/{node}.crt"] != (other / f"{node}.crt").read_text():
        raise Failed("the second step gives no certificates of the other authority, or trusts not both")
    run(other)
    if shown()["pki/ca.crt"] != new or secret(outputs["application"])["ca_certificate"] != new:
        raise Failed("the old authority is trusted still")
    if shown()["users.txt"] != before["users.txt"]:
        raise Failed("another authority brings other passwords")
    run(pki, 1)
