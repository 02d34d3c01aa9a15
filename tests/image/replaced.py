"""terraform/replace-nodes, with nodes that live: what Session Manager would run is run on the machines, and an instance that
terraform has made is what its machine is from then on. A client writes all the while."""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from image import Failed
from workspace import ROOT

# In the place of the AWS CLI, whose `ssm` the double has no machines for.
AWS = """#!{python}
import json, sys
from pathlib import Path
from urllib.request import urlopen

options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
answers = Path(__file__).parent
if sys.argv[2] == "send-command":
    instance = options["--instance-ids"]
    asked = {{"instance": instance, **json.loads(options["--parameters"])}}
    (answers / instance).write_bytes(urlopen("http://127.0.0.1:{port}", json.dumps(asked).encode()).read())
    print(instance)
else:
    print((answers / options["--command-id"]).read_text())
"""
PATIENCE_S = 600
POLL_S = 0.2


def commands(appliance, well):
    """A server that runs what it is asked for on an instance. On which it succeeded, it notes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            machine = appliance.machine_of(asked["instance"])
            if not machine or not machine.process or not machine.init():
                return self.send_error(404)
            done = machine.run("sh", "-c", "\n".join(asked["commands"]))
            if done.returncode == 0:
                well.add(asked["instance"])
            status = "Success" if done.returncode == 0 else "Failed"
            answer = {"Status": status, "ResponseCode": done.returncode, "StandardOutputContent": done.stdout}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def command_line(appliance, well):
    """A directory with an `aws` that reaches the machines."""
    with tempfile.TemporaryDirectory() as directory, commands(appliance, well) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        program = Path(directory) / "aws"
        program.write_text(AWS.format(python=sys.executable, port=server.server_port))
        program.chmod(0o755)
        yield directory
        server.shutdown()


def nodes_replaced(appliance, number):
    """Rows from that number on are written meanwhile; answers the one after the last."""
    before = dict(appliance.ids)
    nodes, replaced, well = set(appliance.told["nodes"]), [], set()
    with command_line(appliance, well) as directory, tempfile.TemporaryFile("w+") as said:
        environment = appliance.workspace.environment
        process = subprocess.Popen(
            [ROOT / "terraform/replace-nodes", *appliance.given_to_terraform(image_id="ami-newer")],
            cwd=appliance.where(), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            env={**environment, "PATH": f"{directory}:{environment['PATH']}", "KOMAINU_PATIENCE_S": "180", "KOMAINU_POLL_S": "0.5"},
        )
        deadline = time.monotonic() + PATIENCE_S
        try:
            while process.poll() is None and time.monotonic() < deadline:
                for instance in appliance.follow_instances():
                    early = set(replaced) - well
                    if early:
                        raise Failed(f"{instance} was made before {early} had said that all is well")
                    replaced.append(instance)
                number += appliance.write(number)
                time.sleep(POLL_S)
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        if process.returncode != 0:
            raise Failed(f"replace-nodes ended with {process.returncode}: {said.read()}")
    changed = {name for name, instance in appliance.ids.items() if before[name] != instance}
    if changed != nodes:
        raise Failed(f"{sorted(changed)} were replaced, and not {sorted(nodes)}")
    return number
