# SPDX-License-Identifier: MIT
"""A real guest, and what its host says to it: holdfastd and QEMU under a plain script's sockets."""
import json
import pathlib
import sys

here = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(here), str(here.parent / "lib")]
import host  # noqa: E402
from host import BRIDGE, CREATE, DELETE, MODIFY, UVM, WAIT, Bridge, Port, Refused, execute, read_all  # noqa: E402
import world as w  # noqa: E402


class Machine:
    """A running guest of this image with these devices."""

    def __init__(self, world, image, extra=(), append=""):
        self.world, self.node = world, w.Node(world, "a", 4)
        self.base = str(self.node.vsock)
        self.bridge_port = Port(self.base, BRIDGE)
        self.ports = iter(range(BRIDGE + 1, BRIDGE + 1000))
        self.node.vm = w.Vm(world, "a", self.node.device, module=None, image=image, memory="512M", extra=extra, append=append).connect()
        self.bridge_port.sock.settimeout(4 * w.DEADLINE)  # an emulated kernel that looks for many devices
        self.accept()

    def accept(self, session=None):
        """The guest's next connection."""
        self.bridge = Bridge(self.bridge_port.accept())
        self.bridge.negotiate(session)

    def modify(self, resource, settings, kind="Add"):
        return self.bridge.call(MODIFY, Request={"RequestType": kind, "ResourceType": resource, "Settings": settings})

    def refused(self, word, *args):
        try:
            self.modify(*args)
        except Refused as e:
            assert word in e.text, (word, e.text)
            return
        raise AssertionError(f"not refused: {args}")

    def output(self, ident, container, port):
        conn = port.accept()
        pid = self.bridge.answer(ident)["ProcessId"]
        text = read_all(conn).decode()
        conn.close()
        port.close()
        return text, self.wait(container, pid)

    def wait(self, container, pid):
        return self.bridge.call(WAIT, {"ContainerId": container}, ProcessId=pid, TimeoutInMs=0xFFFFFFFF)["ExitCode"]

    def run(self, command):
        """The output and exit code of a shell's command in the guest."""
        number = next(self.ports)
        port = Port(self.base, number)
        return self.output(execute(self.bridge, ["/bin/sh", "-c", "exec 2>&1; " + command], ports=(0, number, 0)), UVM, port)

    def text(self, command):
        text, code = self.run(command)
        assert code == 0, (command, code, text)
        return text

    def create(self, name, root, command, bundle=None, **change):
        spec = {"ociVersion": "1.0.2", "root": {"path": root}, "mounts": [
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
                "process": {"args": ["/bin/sh", "-c", "exec 2>&1; " + command], "cwd": "/", "env": ["PATH=/bin:/sbin"],
                            "user": {"uid": 0, "gid": 0}},
                "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "network")]}}
        spec.update(change)
        config = {"SchemaVersion": {"Major": 2, "Minor": 1}, "OciSpecification": spec,
                  "OciBundlePath": bundle or f"/run/gcs/c/{name}"}
        self.bridge.call(CREATE, {"ContainerId": name}, ContainerConfig=json.dumps(config))

    def contain(self, name, *args, **kwargs):
        """Runs a container to its end: its output."""
        self.create(name, *args, **kwargs)
        number = next(self.ports)
        port = Port(self.base, number)
        text, code = self.output(execute(self.bridge, [], name, (0, number, 0), CommandArgs=None), name, port)
        assert code == 0, (code, text)
        return text

    def delete(self, name):
        self.bridge.call(DELETE, {"ContainerId": name})
