# SPDX-License-Identifier: MIT
"""Real programs for end-to-end tests.

A test is a function that takes a World; main() runs it and turns what happens into the exit status that meson knows:
0, 77 (skipped, with the reason) or 1 (failed, with the end of every log). A World is a folder, and the programs that were
started in it: all of them end with it, by process id. Nothing sleeps: everything waits for an event, with a deadline.
"""
import ctypes
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

SOURCE = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("HOLDFAST_BUILD", SOURCE / "build")).resolve()
DEADLINE = float(os.environ.get("HOLDFAST_TEST_DEADLINE", "60"))  # of one wait, in seconds
MODULE = BUILD / "qemu/holdfast-qemu.so"
LIBC = ctypes.CDLL(None)


class Skip(Exception):
    """The test cannot run here; the text says why."""


class Slow(TimeoutError):
    """Something has taken longer than it may: it is wrong, or the machine was busy just then. Two more tries tell which: what
    waits for something that it should not wait for does so each time."""


def within(seconds, began):
    took = time.monotonic() - began
    if took >= seconds:
        raise Slow(f"{took:.2f} s instead of less than {seconds:g} s")


def main(*tests, qemu=True):
    """Runs the test functions, each in a world of its own; or only those named on the command line."""
    passed = skipped = failed = 0
    wanted = sys.argv[1:]
    if unknown := set(wanted) - {test.__name__ for test in tests}:
        sys.exit(f"no such test: {' '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # so that worlds are closed
    try:
        if qemu:
            run = subprocess.run([qemu_binary(), "--version"], capture_output=True, text=True)
            print(run.stdout.splitlines()[0])
    except Skip as why:
        print(why)
        sys.exit(77)
    slow = []
    todo = [test for test in tests if not wanted or test.__name__ in wanted]
    while todo:
        test = todo.pop(0)
        began = time.monotonic()
        world = World()
        try:
            test(world)
            passed += 1
            print(f"{test.__name__}: passed ({time.monotonic() - began:.1f} s)", flush=True)
        except Skip as why:
            print(f"{test.__name__}: skipped: {why}", flush=True)
            skipped += 1
        except Exception as why:
            if isinstance(why, Slow) and slow.count(test) < 2:
                print(f"{test.__name__}: {why}: once more", flush=True)
                slow.append(test)
                todo.insert(0, test)
                continue
            traceback.print_exc()
            world.show_logs()
            print(f"{test.__name__}: failed", flush=True)
            failed += 1
        finally:
            world.close()
    sys.exit(1 if failed else 77 if skipped and not passed else 0)


def wait_for(what, condition, deadline=None, interval=0.01):
    """Returns the first true value of condition(); fails, naming `what`, after the deadline."""
    end = time.monotonic() + (deadline or DEADLINE)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise (Slow if deadline else TimeoutError)(f"{what}: not within {deadline or DEADLINE:g} s")
        time.sleep(interval)


def need_program(name, package):
    if not shutil.which(name):
        raise Skip(f"{name}: not found; install Debian's package {package}")
    return name


class Process:
    """A program that was started in a world; its output is in WORLD/NAME.log."""

    def __init__(self, world, name, argv, env=None, fds=()):
        self.name = name
        self.log = world.path / f"{name}.log"
        with open(self.log, "ab") as out:
            self.popen = subprocess.Popen(
                [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=world.path,
                env={**os.environ, **(env or {})}, pass_fds=fds,
                preexec_fn=lambda: LIBC.prctl(1, signal.SIGKILL))  # PR_SET_PDEATHSIG: ends with the test

    def alive(self):
        return self.popen.poll() is None

    def wait(self, deadline=None):
        """The exit status."""
        try:
            return self.popen.wait(deadline or DEADLINE)
        except subprocess.TimeoutExpired:
            raise (Slow if deadline else TimeoutError)(f"{self.name}: still running after {deadline or DEADLINE:g} s") from None

    def kill(self, sig=signal.SIGKILL):
        if self.alive():
            self.popen.send_signal(sig)

    def text(self):
        return self.log.read_text(errors="replace")

    def wait_text(self, text, deadline=None):
        """Waits until the log has this text."""

        def there():
            if text in self.text():
                return True
            if not self.alive():
                time.sleep(0.05)  # what it wrote last
                if text in self.text():
                    return True
                raise RuntimeError(f"{self.name}: ended with status {self.popen.returncode} before {text!r}")
            return False

        wait_for(f"{self.name}: {text!r}", there, deadline, 0.05)


class World:
    def __init__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))  # short: socket paths are bounded
        self.processes = []

    def spawn(self, name, argv, env=None, fds=()):
        process = Process(self, name, argv, env, fds)
        self.processes.append(process)
        return process

    def show_logs(self):
        for process in self.processes:
            if not process.alive():
                print(f"--- {process.name} had ended with status {process.popen.returncode}")
        for log in sorted(self.path.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            if lines:
                print(f"--- {log.name}")
                print("\n".join(lines[-30:]), flush=True)

    def close(self):
        for process in self.processes:
            process.kill(signal.SIGTERM)
        end = time.monotonic() + 3
        for process in self.processes:
            try:
                process.popen.wait(max(0.01, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.popen.wait()
        self.end_strays()
        if os.environ.get("HOLDFAST_TEST_KEEP"):
            print(f"kept: {self.path}")
        else:
            shutil.rmtree(self.path, ignore_errors=True)


    def end_strays(self):
        """What was started by something that is dead by now; its command line or its node names this world's folder."""
        mine = os.fsencode(f"{self.path}/")
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and int(entry.name) != os.getpid() and (
                        mine in (entry / "cmdline").read_bytes() or
                        b"HOLDFAST_NODE=" + mine in (entry / "environ").read_bytes()):
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue  # it ended meanwhile


class Lines:
    """A Unix stream socket that carries one JSON object a line, with descriptors beside them."""

    def __init__(self, path, deadline=None):
        self.path = path
        self.socket = wait_for(f"{path}: connect", self._connect, deadline)
        self.buffer = b""
        self.fds = []

    def _connect(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            s.connect(str(self.path))
            return s
        except (FileNotFoundError, ConnectionRefusedError):
            s.close()
            return None

    def send(self, message, fds=()):
        line = json.dumps(message).encode() + b"\n"
        if fds:
            n = socket.send_fds(self.socket, [line], list(fds))
            line = line[n:]
        self.socket.sendall(line)

    def receive(self, deadline=None):
        end = time.monotonic() + (deadline or DEADLINE)
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.socket], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{self.path}: no line within {deadline or DEADLINE:g} s")
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 8)
            self.fds += fds
            if not data:
                raise ConnectionError(f"{self.path}: closed by the other side")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def close(self):
        self.socket.close()


class Qmp:
    """QEMU's monitor. Events are kept until someone waits for them."""

    def __init__(self, path, deadline=None):
        self.lines = Lines(path, deadline)
        self.events = []
        self.lines.receive()
        self.command("qmp_capabilities")

    def command(self, name, **arguments):
        """The result; RuntimeError with QEMU's words when it refuses."""
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.lines.send({"execute": name, "arguments": arguments})
        while True:
            message = self.lines.receive()
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise RuntimeError(f"QEMU {name}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_event(self, name, match=lambda data: True, deadline=None):
        end = time.monotonic() + (deadline or DEADLINE)
        while True:
            for event in self.events:
                if event["event"] == name and match(event.get("data", {})):
                    self.events.remove(event)
                    return event.get("data", {})
            message = self.lines.receive(max(0.01, end - time.monotonic()))
            if "event" in message:
                self.events.append(message)

    def wait_migration(self, *states, deadline=None):
        """Waits until the migration is in one of these states; returns query-migrate."""

        def there():
            info = self.command("query-migrate")
            return info if info.get("status") in states else None

        return wait_for(f"migration {' or '.join(states)}", there, deadline)


def qemu_binary():
    """The QEMU that HOLDFAST_QEMU names, or that of the Debian suite HOLDFAST_SUITE, or this machine's."""
    suite = os.environ.get("HOLDFAST_SUITE")
    if os.environ.get("HOLDFAST_QEMU"):
        return os.environ["HOLDFAST_QEMU"]
    if not suite:
        return need_program("qemu-system-x86_64", "qemu-system-x86")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = cache / f"holdfast/qemu-{suite}"
    run = subprocess.run([SOURCE / "tools/foreign-qemu", suite, folder], stderr=subprocess.PIPE, text=True)
    if run.returncode:
        raise Skip(run.stderr.strip()) if run.returncode == 77 else RuntimeError(run.stderr.strip())
    return str(folder / "qemu-system-x86_64")


def qemu_version():
    """(major, minor)"""
    text = subprocess.run([qemu_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(n) for n in text.split("version ")[1].split(".")[:2])


def qemu_argv(world, name, device_socket, image=None, memory="256M", module=f"{MODULE},mode=seamless", append="",
              extra=(), accel="tcg"):
    """QEMU with shared memory and a vhost-user-vsock device; QMP is at WORLD/NAME.qmp."""
    argv = [qemu_binary(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35,memory-backend=mem", "-accel", accel, "-cpu", "max" if accel == "tcg" else "qemu64",
            "-m", memory,
            "-object", f"memory-backend-memfd,id=mem,size={memory},share=on",
            "-chardev", f"socket,id=vsock,path={device_socket}",
            "-device", "vhost-user-vsock-pci,id=vsock0,chardev=vsock",
            "-qmp", f"unix:{world.path}/{name}.qmp,server=on,wait=off",
            "-serial", f"file:{world.path}/{name}.console.log"]
    if module:
        argv += ["-plugin", str(module)]
    if image:
        argv += ["-kernel", image / "vmlinuz", "-initrd", image / "initramfs",
                 "-append", f"console=ttyS0 quiet panic=-1 {append}"]
    return argv + list(extra)


class Vm:
    """A running QEMU: its process, its monitor, its guest's console."""

    def __init__(self, world, name, device_socket, env=None, **kind):
        self.process = world.spawn(f"{name}.qemu", qemu_argv(world, name, device_socket, **kind), env)
        self.console_path = world.path / f"{name}.console.log"
        self.qmp_path = world.path / f"{name}.qmp"
        self.qmp = None

    def connect(self, deadline=None):
        wait_for(f"{self.qmp_path}", lambda: self.qmp_path.exists() or self._ended(), deadline)
        self.qmp = Qmp(self.qmp_path, deadline)
        return self

    def _ended(self):
        if not self.process.alive():
            raise RuntimeError(f"{self.process.name}: ended: {self.process.text().strip()}")
        return False

    def console(self):
        return self.console_path.read_text(errors="replace") if self.console_path.exists() else ""

    def wait_console(self, text, deadline=None):
        wait_for(f"console {self.console_path.name}: {text!r}",
                 lambda: text in self.console() or self._ended(), deadline, 0.05)


def build_image(world, *options):
    """A guest image made by image/build with these options; the folder."""
    output = world.path / "image"
    run = subprocess.run([SOURCE / "image/build", "--output", output, *options], capture_output=True, text=True)
    if run.returncode:
        if "cannot be fetched" in run.stderr or "apt does not know" in run.stderr or "not found" in run.stderr:
            raise Skip(run.stderr.strip())
        raise RuntimeError(run.stderr.strip())
    return output


class Control:
    """A control socket of Holdfast (docs/control.md)."""

    def __init__(self, path, deadline=None):
        self.lines = Lines(path, deadline)
        self.id = 0

    def command(self, cmd, fds=(), **arguments):
        """The reply; RuntimeError with the server's words when it refuses. What descriptors came: take_fd()."""
        self.id += 1
        self.lines.send({"id": self.id, "cmd": cmd, **arguments}, fds)
        while True:
            reply = self.lines.receive()
            if reply.get("id") != self.id:
                continue
            if not reply["ok"]:
                raise RuntimeError(f"{cmd}: {reply['error']['code']}: {reply['error']['text']}")
            return reply

    def take_fd(self):
        return self.lines.fds.pop(0)


class Node:
    """holdfastd and, when started, a QEMU in front of it: one end of a migration."""

    def __init__(self, world, name, guest_cid):
        self.world, self.name = world, name
        self.device = world.path / f"{name}.device"
        self.vsock = world.path / f"{name}.vsock"
        control = world.path / f"{name}.control"
        self.daemon = world.spawn(f"{name}.holdfastd", [
            BUILD / "src/device/holdfastd", "--control", control, "--link", f"unix:{world.path}/{name}.link",
            "--vm", f"name=vm,guest-cid={guest_cid},socket={self.device},uds-path={self.vsock}"])
        wait_for(f"{self.device}", lambda: self.device.exists() or not self.daemon.alive())
        self.control = Control(control)
        self.vm = None

    def start(self, mode="seamless", state="auto", **kind):
        module = f"{MODULE},mode={mode},state={state}"
        self.vm = Vm(self.world, self.name, self.device, module=module, **kind).connect()
        return self

    def listen(self, port):
        """The socket at which the guest's connections to this port of the host arrive."""
        s = socket.socket(socket.AF_UNIX)
        s.bind(f"{self.vsock}_{port}")
        s.listen(8)
        s.settimeout(DEADLINE)
        return s

    def connect(self, port):
        """A connection to this port of the guest."""
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(DEADLINE)
        s.connect(str(self.vsock))
        s.sendall(f"CONNECT {port}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            byte = s.recv(1)
            if not byte:
                raise ConnectionError(f"{self.name}: guest port {port}: refused")
            answer += byte
        assert answer.startswith(b"OK "), answer
        return s


def migrate_until_switchover(a, b, meanwhile=None):
    """Both guests' QEMUs stand still: the source's rings are stopped, the destination has the memory. meanwhile() is called
    when the migration is under way, and it does not end before that has."""
    stream = f"unix:{a.world.path}/stream"
    capabilities = [{"capability": name, "state": True} for name in ("events", "pause-before-switchover", "return-path")]
    for node in (a, b):
        node.vm.qmp.command("migrate-set-capabilities", capabilities=capabilities)
    b.vm.qmp.command("migrate-incoming", uri=stream)
    if meanwhile:
        a.vm.qmp.command("migrate-set-parameters", max_bandwidth=1 << 20)
    a.vm.qmp.command("migrate", uri=stream)
    if meanwhile:
        a.vm.qmp.wait_migration("active")
        meanwhile()
        a.vm.qmp.command("migrate-set-parameters", max_bandwidth=1 << 30)
    a.vm.qmp.wait_event("MIGRATION", lambda data: data["status"] in ("pre-switchover", "failed"))
    info = a.vm.qmp.command("query-migrate")
    assert info["status"] == "pre-switchover", info


def state_way(node):
    """How this QEMU's module lets the device's state travel: "stream" or "beside"."""
    try:
        return node.vm.qmp.command("qom-get", path="/machine/peripheral/vsock0/virtio-backend",
                                   property="holdfast-state")
    except RuntimeError:
        return "beside"


def migrate_finish(a, b):
    a.vm.qmp.command("migrate-continue", state="pre-switchover")
    info = a.vm.qmp.wait_migration("completed", "failed")
    assert info["status"] == "completed", info
    wait_for("destination runs", lambda: b.vm.qmp.command("query-status")["running"])
    return info
