"""Where terraform runs: a copy of the repository's terraform/, and a provider that needs no network.

Nothing of the user's own is read or written: neither their CLI configuration nor their credentials.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import schema

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VERSION = "6.25.0"


class Failed(Exception):
    """A command that should have succeeded, with what it said."""


class Workspace:
    def __init__(self, directory, copy=None):
        """The directory is what tests/setup/install made; the copy is in it, or elsewhere for a second workspace."""
        self.directory = Path(directory).resolve()
        self.copy = Path(copy).resolve() if copy else self.directory / "terraform"
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(ROOT / "terraform", self.copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
        self.environment = self.prepare()

    def prepare(self):
        wheel = next((self.directory / "wheel").iterdir())
        types = schema.wanted_types(sorted(self.copy.rglob("*.tf")))
        described = self.copy / "schema.json"
        described.write_text(json.dumps(schema.extract(wheel, types)))
        mirror = self.copy / "mirror"
        program = (
            mirror / f"registry.terraform.io/hashicorp/aws/{VERSION}/linux_{architecture()}/terraform-provider-aws_v{VERSION}"
        )
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\nexec {sys.executable} {HERE / 'provider.py'}\n")
        program.chmod(0o755)
        settings = self.copy / "terraform.rc"
        settings.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n')
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "CHECKPOINT_DISABLE": "1",
            "KOMAINU_STUB_SCHEMA": str(described),
            "TF_CLI_ARGS": "-no-color",
            "TF_CLI_CONFIG_FILE": str(settings),
            "TF_DISABLE_PLUGIN_TLS": "1",
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
        }

    def terraform(self, where, *arguments, expect=(0,), **environment):
        """What it printed; fails unless it ends with an expected code."""
        command = ["terraform", *arguments]
        done = subprocess.run(
            command,
            cwd=self.copy / where,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode not in expect:
            raise Failed(f"{where}: {' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def names(self, kind):
        return sorted(path.name for path in (self.copy / kind).iterdir() if path.is_dir())


def architecture():
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
