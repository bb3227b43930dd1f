# SPDX-License-Identifier: MIT
"""A host for the guest agent, in plain sockets: listens at BASE_<port>, speaks frames and JSON.

Nothing of the project's own host side is used, so both ends cannot be wrong in the same way."""
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from world import DEADLINE, Slow, within  # noqa: E402,F401

BRIDGE = 0x40000000
UVM = "00000000-0000-0000-0000-000000000000"
GUID = "7d1f0f0e-2b5c-4d0c-9d3a-0c7d7a3f2b11"
CREATE, START, GRACEFUL, FORCED, EXECUTE, WAIT, SIGNAL, RESIZE, PROPERTIES, MODIFY, NEGOTIATE, \
    DUMP, DELETE = [0x10100001 | n << 8 for n in range(1, 14)]
NOTIFICATION, ACKNOWLEDGE, OOM = 0x30100101, 0x3F000101, 0x3F000201
NOT_IMPL, FAIL, NOT_FOUND = 0x80004001, 0x80004005, 0x80070490
TIMEOUT, VERSION, BAD_JSON, NO_SYSTEM, EXISTS, STOPPED, BAD_STATE = \
    0xC0370109, 0xC037010C, 0xC037010D, 0xC037010E, 0xC037010F, 0xC0370110, 0x80370105


class Closed(Exception):
    pass


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(f"0x{code:08x} {text}")
        self.code, self.text = code, text


def frame(kind, ident, payload):
    return struct.pack("<IIQ", kind, len(payload) + 16, ident) + payload


class Port:
    """A listening socket of the host."""

    def __init__(self, base, port):
        self.path = f"{base}_{port}"
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen(64)
        self.sock.settimeout(DEADLINE)

    def accept(self):
        conn, _ = self.sock.accept()
        conn.settimeout(DEADLINE)
        return conn

    def close(self):
        self.sock.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


def read_exactly(conn, n):
    data = b""
    while len(data) < n:
        try:
            more = conn.recv(n - len(data))
        except ConnectionError:
            more = b""
        if not more:
            raise Closed()
        data += more
    return data


def read_all(conn):
    data = b""
    while True:
        more = conn.recv(65536)
        if not more:
            return data
        data += more


class Bridge:
    """One accepted bridge connection."""

    def __init__(self, conn, first_id=0):
        self.conn = conn
        self.next_id = first_id
        self.answers = {}
        self.order = []
        self.notes = []
        self.kills = []  # for want of memory

    def send(self, kind, body, ident=None):
        if ident is None:
            ident = self.next_id
            self.next_id += 1
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.conn.sendall(frame(kind, ident, payload))
        return ident

    def read(self):
        """One frame: (type, id, payload)."""
        kind, size, ident = struct.unpack("<IIQ", read_exactly(self.conn, 16))
        assert 16 <= size <= 65536, size
        return kind, ident, read_exactly(self.conn, size - 16)

    def pump(self):
        kind, ident, payload = self.read()
        body = json.loads(payload)
        if kind == NOTIFICATION:
            assert ident == 0
            self.notes.append(body)
            self.order.append("note")
        elif kind == OOM:
            assert ident == 0
            self.kills.append(body)
        else:
            assert kind >> 28 == 2, hex(kind)
            assert ident not in self.answers, f"answered twice: {ident}"
            self.answers[ident] = (kind, body, payload)
            self.order.append(ident)

    def answer(self, ident):
        while ident not in self.answers:
            self.pump()
        body = self.answers[ident][1]
        if body["Result"]:
            raise Refused(body["Result"] & 0xFFFFFFFF, body.get("ErrorMessage", ""))
        return body

    def raw(self, ident):
        while ident not in self.answers:
            self.pump()
        return self.answers[ident][2]

    def note(self, n=1):
        while len(self.notes) < n:
            self.pump()
        return self.notes[n - 1]

    def call(self, kind, body=None, ident=None, **members):
        message = {"ContainerId": UVM, "ActivityId": UVM}
        message.update(body or {})
        message.update(members)
        return self.answer(self.send(kind, message, ident))

    def negotiate(self, session=None, resume=False, ident=None):
        more = {}
        if session:
            more["Holdfast"] = {"Version": 1, "Session": session, "Resume": resume}
        answer = self.call(NEGOTIATE, ident=ident, MinimumVersion=4, MaximumVersion=4, **more)
        return answer["Capabilities"]["GuestDefinedCapabilities"]["Holdfast"]

    def quiet(self, seconds=0.15):
        """Whether nothing comes for a while."""
        if select.select([self.conn], [], [], seconds)[0]:
            print("not quiet:", self.read())
            return False
        return True

    def close(self):
        self.conn.close()


class World:
    """The agent under test and the host's sockets, in a folder of its own."""

    def __init__(self, agent, folder, *flags):
        self.folder = folder
        self.base = os.path.join(folder, "vsock")
        self.bridge_port = Port(self.base, BRIDGE)
        self.ports = {}
        self.killed, self.may_crash = 0, False  # by the test
        self.log = open(os.path.join(folder, "agent.log"), "ab")
        self.start(agent, "-v4", "-loglevel", "trace", *flags)

    def start(self, program, *flags, **kwargs):
        self.agent = subprocess.Popen(
            [program, "--transport", f"unix:{self.base}", "-state", os.path.join(self.folder, "state"), *flags],
            **{"stdin": subprocess.DEVNULL, "stderr": self.log, **kwargs})

    def end(self):
        """The agent ends, and well; nothing of it is left where the next one's connections are accepted."""
        conn = self.bridge_port.accept()  # it is up, and while it has this one it does not dial again
        self.agent.terminate()
        assert self.agent.wait(DEADLINE) == 0
        conn.close()

    def pid(self):
        """The agent itself: the keeper's child."""
        pids = []

        def found():
            with open(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children") as f:
                pids[:] = [int(p) for p in f.read().split() if comm(int(p)) == "holdfast-agent"]
            return pids
        eventually("the keeper has an agent", found)
        return pids[0]

    def kill(self):
        """SIGKILL, as it comes for want of memory. The keeper starts another."""
        pid = self.pid()
        self.killed += 1
        os.kill(pid, signal.SIGKILL)
        eventually("another agent", lambda: self.pid() != pid)

    def bridge(self, first_id=0):
        return Bridge(self.bridge_port.accept(), first_id)

    def port(self, number):
        if number not in self.ports:
            self.ports[number] = Port(self.base, number)
        return self.ports[number]

    def close(self):
        """Ends the agent; it must end well, and must not have crashed on the way."""
        for p in [self.bridge_port, *self.ports.values()]:
            p.close()
        if self.agent.poll() is None:
            self.agent.send_signal(signal.SIGTERM)
        status = self.agent.wait(DEADLINE)
        self.log.close()
        with open(os.path.join(self.folder, "agent.log"), "rb") as f:
            text = f.read().decode(errors="replace")
        crashes = text.count("the agent was killed by signal")
        if status == 0 and not self.may_crash and crashes != self.killed:
            print(f"the agent was killed {crashes} times, {self.killed} of them by the test")
            status = 1
        if status != 0:
            print(text[-6000:])
        return status


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return None


def eventually(what, test, deadline=DEADLINE):
    end = time.monotonic() + deadline
    while not test():
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"
        time.sleep(0.005)


def until(path, code=0):
    """A command that ends when the file is there."""
    return ["/bin/sh", "-c", f"while ! [ -e {path} ]; do sleep 0.01; done; exit {code}"]


def touch(*path):
    with open(os.path.join(*path), "w"):
        pass


def execute(bridge, args, container=UVM, ports=(0, 0, 0), tokens=None, ident=None, **params):
    """ExecuteProcess; returns the request's id."""
    params.setdefault("CommandArgs", args)
    for name, port in zip(("CreateStdInPipe", "CreateStdOutPipe", "CreateStdErrPipe"), ports):
        params[name] = bool(port)
    settings = {"ProcessParameters": json.dumps(params),
                "VsockStdioRelaySettings": dict(zip(("StdIn", "StdOut", "StdErr"), ports))}
    if tokens:
        settings["HoldfastStreams"] = tokens
    return bridge.send(EXECUTE, {"ContainerId": container, "ActivityId": UVM, "Settings": settings},
                       ident)


def attempt(test, agent, last):
    """In a world of its own: whether it succeeds; None when it was too slow, and not for the last time."""
    folder = tempfile.mkdtemp(prefix="hf-agent-")
    world = World(agent, folder)
    try:
        test(world)
        return world.close() == 0
    except Exception as why:
        traceback.print_exc()
        world.close()
        if isinstance(why, Slow) and not last:
            return None
        print(open(os.path.join(folder, "agent.log"), errors="replace").read()[-4000:])
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_tests(tests, prepare=None):
    """Runs the functions called test_... (or those named on the command line): the exit status."""
    agent, names = os.path.abspath(sys.argv[1]), sys.argv[2:]
    if prepare:
        prepare()
    bad = 0
    for name, test in [(n, f) for n, f in tests.items() if n.startswith("test_") and (not names or n in names)]:
        ok, tries = None, 0
        while ok is None:
            start, tries = time.monotonic(), tries + 1
            ok = attempt(test, agent, tries == 3)
            word = "ok" if ok else "FAILED" if ok is False else "too slow:"
            print(f"{word} {name} {time.monotonic() - start:.2f} s", flush=True)
        bad += not ok
    return 1 if bad else 0
