# SPDX-License-Identifier: MIT
"""The accepting end of resumable streams (docs/stream.md), with a pair of scissors."""
import random
import socket
import struct
import threading

from host import DEADLINE, Closed, Port, read_exactly

HELLO, FRAME = struct.Struct("<4sHH16sQQII"), struct.Struct("<BBHIQ")
DATA, ACK, END, RESET, FIN = range(1, 6)
WINDOW = 65536


class Stream:
    """One stream: what came in, what is to go out, and how far the guest has taken it."""

    def __init__(self, token, output=b"", ends=True):
        self.token = bytes.fromhex(token)
        self.data = bytearray()   # from the guest, taken
        self.output = output      # to the guest
        self.acked = 0            # of output
        self.window = 0
        self.ends = ends          # our output ends after `output`
        self.end_acked = False
        self.length = None        # the guest's end
        self.reset = None
        self.finished = False
        self.connections = 0
        self.current = None


class Acceptor(threading.Thread):
    """Accepts every connection of a port; cuts each after a random number of bytes while told to."""

    def __init__(self, base, port, *streams, seed=0):
        super().__init__(daemon=True)
        self.port = Port(base, port)
        self.port.sock.settimeout(None)
        self.streams = {s.token: s for s in streams}  # known before anybody connects
        self.random = random.Random(seed)
        self.cut_after = None     # at most so many bytes per connection
        self.paused = False       # take nothing: the window must stop the guest
        self.unknown = 0
        self.live = set()
        self.changed = threading.Condition()
        self.start()

    def add(self, stream):
        with self.changed:
            self.streams[stream.token] = stream
        return stream

    def wait(self, what, test, deadline=DEADLINE):
        with self.changed:
            assert self.changed.wait_for(test, deadline), f"not within {deadline:g} s: {what}"

    def cut(self):
        """Closes the current connections at once."""
        with self.changed:
            for conn in self.live:
                conn.shutdown(socket.SHUT_RDWR)

    def run(self):
        while True:
            try:
                conn, _ = self.port.sock.accept()
            except OSError:
                return
            conn.settimeout(DEADLINE)
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        budget = [self.random.randrange(1, self.cut_after)] if self.cut_after else None
        try:
            self.talk(conn, budget)
        except (Closed, OSError):
            pass
        with self.changed:
            self.live.discard(conn)
            conn.close()
            self.changed.notify_all()

    def take(self, conn, n, budget):
        """n bytes, or the scissors."""
        if budget:
            if budget[0] < n:
                read_exactly(conn, budget[0])
                raise Closed()
            budget[0] -= n
        return read_exactly(conn, n)

    def talk(self, conn, budget):
        magic, version, status, token, taken, received, window, flags = \
            HELLO.unpack(self.take(conn, HELLO.size, budget))
        assert (magic, version, status) == (b"HFS1", 1, 0)
        with self.changed:
            stream = self.streams.get(token)
            if not stream:
                self.unknown += 1
                self.changed.notify_all()
                conn.sendall(HELLO.pack(b"HFS1", 1, 1, token, 0, 0, 0, 0))
                return
            stream.connections += 1
            stream.current = conn  # displaces an older one
            self.live.add(conn)
            assert taken >= stream.acked and received <= len(stream.output)
            stream.acked = taken
            stream.end_acked |= bool(flags & 1)
            at = len(stream.data)
            ended = stream.length is not None
        conn.sendall(HELLO.pack(b"HFS1", 1, 0, token, at, at, WINDOW, 1 if ended else 0))
        self.say(conn, stream, received, taken + window)
        while True:
            kind, bits, zero, length, offset = FRAME.unpack(self.take(conn, FRAME.size, budget))
            assert zero == 0
            if kind == DATA:
                payload = self.take(conn, length, budget)
                with self.changed:
                    self.changed.wait_for(lambda: not self.paused)
                    if stream.current is not conn:
                        raise Closed()
                    assert offset == len(stream.data), (offset, len(stream.data))
                    stream.data += payload
                    self.changed.notify_all()
                conn.sendall(FRAME.pack(ACK, 0, 0, 0, len(stream.data)))
            elif kind == END:
                with self.changed:
                    if stream.current is not conn:
                        raise Closed()
                    assert offset == len(stream.data)
                    stream.length = offset
                    self.changed.notify_all()
                conn.sendall(FRAME.pack(ACK, 1, 0, 0, offset))
            elif kind == ACK:
                with self.changed:
                    assert offset >= stream.acked
                    stream.acked = offset
                    stream.end_acked |= bool(bits & 1)
                    self.changed.notify_all()
            elif kind == RESET:
                with self.changed:
                    stream.reset = length
                    self.changed.notify_all()
                conn.sendall(FRAME.pack(RESET, 0, 0, length, 0))
                return
            elif kind == FIN:
                conn.sendall(FRAME.pack(FIN, 0, 0, 0, 0))
                with self.changed:
                    stream.finished = True
                    self.streams.pop(token, None)
                    self.changed.notify_all()
                return
            else:
                raise AssertionError(f"frame type {kind}")

    def say(self, conn, stream, at, limit):
        """Sends output from an offset on, in a thread of its own: frames come in meanwhile."""
        def run():
            nonlocal at
            try:
                while at < len(stream.output):
                    n = min(1000, len(stream.output) - at)
                    with self.changed:
                        self.changed.wait_for(lambda: stream.acked + limit_size >= at + n, DEADLINE)
                    conn.sendall(FRAME.pack(DATA, 0, 0, n, at) + stream.output[at:at + n])
                    at += n
                if stream.ends:
                    conn.sendall(FRAME.pack(END, 0, 0, 0, len(stream.output)))
            except OSError:
                pass
        limit_size = limit - stream.acked
        threading.Thread(target=run, daemon=True).start()

    def close(self):
        self.port.close()
