"""Where terraform runs: a copy of the repository's terraform/, and a provider that needs no network.

Nothing of the user's own is read or written: neither their CLI configuration nor their credentials.
"""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import schema
from provider import Schemas, serving

ROOT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A command that should have succeeded, with what it said."""


class Workspace:
    """`in_world` says what terraform finds; outside of it there is no provider."""

    def __init__(self, directory, copy=None):
        """The directory is what tests/setup/install made; the copy is in it, or elsewhere for a second workspace."""
        self.directory = Path(directory).resolve()
        self.copy = Path(copy).resolve() if copy else self.directory / "terraform"
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(ROOT / "terraform", self.copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
        wheel = next((self.directory / "wheel").iterdir())
        types = schema.wanted_types(sorted(self.copy.rglob("*.tf")))
        self.schemas = Schemas(schema.extract(wheel, types))
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self.environment = {
            **kept,
            "CHECKPOINT_DISABLE": "1",
            "TF_CLI_ARGS": "-no-color",
            "TF_CLI_CONFIG_FILE": os.devnull,
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
        }

    @contextmanager
    def in_world(self, world):
        before = self.environment
        with serving(self.schemas, world) as attached:
            self.environment = {**before, **attached}
            try:
                yield
            finally:
                self.environment = before

    def terraform(self, where, *arguments, expect=(0,)):
        """What it printed; fails unless it ends with an expected code."""
        command = ["terraform", *arguments]
        done = subprocess.run(
            command,
            cwd=self.copy / where,
            env=self.environment,
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
