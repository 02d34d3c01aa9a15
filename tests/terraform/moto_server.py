"""The AWS double for one stack: moto's server, from its start to its end."""

import subprocess
import threading
from contextlib import contextmanager

# It ends with us, whose end closes its standard input.
SCRIPT = """
import os, sys, threading
from moto.server import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(['-H', sys.argv[1], '-p', '0'])
"""


@contextmanager
def moto_server(python, address="127.0.0.1"):
    """Its URL, while it runs."""
    server = subprocess.Popen(
        [python, "-c", SCRIPT, address], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        said = []
        for line in server.stderr:
            said.append(line)
            if "Running on http://" in line:
                break
        else:
            raise RuntimeError(f"moto ended: {''.join(said)}")
        # It logs each request; somebody has to read that.
        threading.Thread(target=lambda: server.stderr.read(), daemon=True).start()
        yield line.split("Running on ")[1].strip()
    finally:
        server.stdin.close()
        server.wait(timeout=30)
