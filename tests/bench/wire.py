"""Just enough of the PostgreSQL protocol to log in by SCRAM, ask, and read a result as bytes.

Drivers would spend more on a row than the proxies do.
"""

import base64
import functools
import hashlib
import hmac
import os
import socket
import struct


class ServerError(Exception):
    pass


@functools.lru_cache(maxsize=16)
def salted_password(password, salt, iterations):
    """The one expensive step; all clients of a user share its result."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


class Connection:
    def __init__(self, port, user, password, database, timeout_s=60):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        try:
            self.log_in(user, password, database)
        except BaseException:
            self.socket.close()
            raise

    def close(self):
        self.socket.close()

    def send(self, tag, body):
        self.socket.sendall(tag + struct.pack("!i", len(body) + 4) + body)

    def message(self):
        while True:
            if len(self.received) >= 5:
                length = struct.unpack_from("!i", self.received, 1)[0] + 1
                if len(self.received) >= length:
                    message, self.received = self.received[:length], self.received[length:]
                    return message[:1], message[5:]
            chunk = self.socket.recv(65536)
            if not chunk:
                raise ServerError("the connection ended")
            self.received += chunk

    def log_in(self, user, password, database):
        parameters = f"user\0{user}\0database\0{database}\0\0".encode()
        self.socket.sendall(struct.pack("!ii", len(parameters) + 8, 3 << 16) + parameters)
        scram = None
        while True:
            tag, body = self.message()
            if tag == b"E":
                raise ServerError(body.decode(errors="replace"))
            if tag == b"Z":
                return
            if tag != b"R":
                continue
            kind = struct.unpack_from("!i", body)[0]
            if kind == 10:
                scram = Scram(password)
                first = scram.first()
                self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
            elif kind == 11:
                self.send(b"p", scram.final(body[4:]))
            elif kind not in (0, 12):
                raise ServerError(f"authentication request {kind}")

    def query(self, sql):
        """Runs one statement and drops its rows."""
        self.send(b"Q", sql.encode() + b"\0")
        error = None
        while True:
            tag, body = self.message()
            if tag == b"E":
                error = body.decode(errors="replace")
            if tag == b"Z":
                if error:
                    raise ServerError(error)
                return

    def drain_copy(self, sql, at_least):
        """Runs a COPY TO STDOUT, looking at nothing but its end; returns how many bytes came."""
        self.send(b"Q", sql.encode() + b"\0")
        buffer = bytearray(1 << 20)
        total, end = 0, b""
        while not (total >= at_least and end.endswith(b"Z\0\0\0\5I")):
            count = self.socket.recv_into(buffer)
            if count == 0:
                raise ServerError("the connection ended")
            total += count
            end = (end + bytes(buffer[max(0, count - 6):count]))[-6:]
            if total < at_least and end.endswith(b"Z\0\0\0\5I"):
                raise ServerError(f"only {total} bytes: {bytes(buffer[:count])[-300:]!r}")
        return total


class Scram:
    def __init__(self, password):
        self.password = password
        self.nonce = base64.b64encode(os.urandom(18)).decode()
        self.bare = f"n=,r={self.nonce}"

    def first(self):
        return f"n,,{self.bare}".encode()

    def final(self, server_first):
        fields = dict(field.split("=", 1) for field in server_first.decode().split(","))
        salted = salted_password(self.password, base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={fields['r']}"
        signed = f"{self.bare},{server_first.decode()},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()
