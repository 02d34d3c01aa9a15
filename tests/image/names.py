"""The VPC's resolver: names of instances, and what the private zones of the AWS double say at the moment."""

import socket
import struct
from threading import Thread

from botocore.exceptions import BotoCoreError, ClientError

from machine import RESOLVER

TTL_S = 1
A = 1


class Names:
    """`names` answers where the instances' names lead; `zones` asks the double."""

    def __init__(self, names, route53):
        self.names, self.route53 = names, route53
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((RESOLVER, 53))
        Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            question, asker = self.socket.recvfrom(4096)
            try:
                answer = self.answer(question)
            except (BotoCoreError, ClientError):
                # Whoever asks does so again.
                continue
            self.socket.sendto(answer, asker)

    def find(self, name):
        """An address, or None."""
        return self.names().get(name) or self.in_zone(name)

    def in_zone(self, name):
        for zone in self.route53.list_hosted_zones()["HostedZones"]:
            records = self.route53.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]
            for record in records:
                if record["Type"] == "A" and record["Name"].rstrip(".") == name:
                    return record["ResourceRecords"][0]["Value"]
        return None

    def answer(self, question):
        name, kind, end = asked(question)
        address = self.find(name)
        found = address if kind == A else None
        refused = 0 if address else 3  # NXDOMAIN
        head = question[:2] + struct.pack("!HHHHH", 0x8580 | refused, 1, 1 if found else 0, 0, 0)
        record = struct.pack("!HHHIH", 0xC00C, A, 1, TTL_S, 4) + socket.inet_aton(found) if found else b""
        return head + question[12:end] + record


def asked(question):
    """Name, type, and where the question ends."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1:at + 1 + question[at]].decode())
        at += 1 + question[at]
    return ".".join(labels).lower(), struct.unpack("!H", question[at + 1:at + 3])[0], at + 5
