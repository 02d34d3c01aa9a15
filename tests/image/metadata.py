"""The instance metadata service, version 2, of every instance at once: who asks is told by the address."""

import json
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from machine import METADATA

ROLE = "komainu"


class Metadata:
    """At its own address, for instances by their private addresses."""

    def __init__(self, pages_of):
        self.pages_of = pages_of
        self.tokens = set()
        metadata = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self):
                seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
                if self.path != "/latest/api/token" or not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
                    return self.answer(400, "")
                token = secrets.token_hex(16)
                metadata.tokens.add(token)
                self.answer(200, token, {"X-aws-ec2-metadata-token-ttl-seconds": seconds})

            def do_GET(self):
                if self.headers.get("X-aws-ec2-metadata-token") not in metadata.tokens:
                    return self.answer(401, "")
                page = metadata.pages_of.get(self.client_address[0], {}).get(self.path)
                self.answer(200 if page is not None else 404, page or "")

            def answer(self, status, text, headers=None):
                body = text.encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer((METADATA, 80), Handler)
        Thread(target=server.serve_forever, daemon=True).start()


def pages(instance, interface, user_data, region):
    """What boto3 tells of an instance and its interface, as the instance itself is told."""
    mac = interface["MacAddress"]
    credentials = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIA" + instance["InstanceId"][-12:].upper(),
        "SecretAccessKey": "secret",
        "Token": "token",
        "LastUpdated": "2026-01-01T00:00:00Z",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    leaves = {
        "instance-id": instance["InstanceId"],
        "placement/availability-zone": instance["Placement"]["AvailabilityZone"],
        "placement/region": region,
        "local-ipv4": interface["PrivateIpAddress"],
        "mac": mac,
        "network/interfaces/macs/": f"{mac}/",
        f"network/interfaces/macs/{mac}/device-number": "0",
        f"network/interfaces/macs/{mac}/interface-id": interface["NetworkInterfaceId"],
        f"network/interfaces/macs/{mac}/subnet-id": interface["SubnetId"],
        f"network/interfaces/macs/{mac}/local-ipv4s": interface["PrivateIpAddress"],
        "iam/security-credentials/": ROLE,
        f"iam/security-credentials/{ROLE}": json.dumps(credentials),
    }
    return {"/latest/user-data": user_data, **{f"/latest/meta-data/{path}": text for path, text in leaves.items()}}
