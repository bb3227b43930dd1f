# SPDX-License-Identifier: MIT
"""Containers for the agent's tests: name spaces of our own, a root file system, short ways to say things to the
agent."""
import ctypes
import json
import os
import shutil
import sys

from host import *  # noqa: F403

STREAMS = 0x40000001
SESSION = "00112233445566778899aabbccddeeff"
LINUX = {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]}


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def prepare():
    """Name spaces of our own, so that nothing of this machine's cgroups, mounts and adapters changes, and that what a test
    that was killed has left there is in nobody's way."""
    if os.geteuid() != 0:
        skip("needs root")
    for program in ("crun", "busybox"):
        if not shutil.which(program):
            skip(f"{program} is not installed")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x44000, None):
        skip("no mount name space of our own: " + os.strerror(ctypes.get_errno()))
    if libc.unshare(0x40000000) or libc.mount(b"none", b"/sys", b"sysfs", 0, None):
        skip("no network name space of our own: " + os.strerror(ctypes.get_errno()))
    libc.umount2(b"/sys/fs/cgroup", 2)
    libc.mount(b"none", b"/sys/fs/cgroup", b"cgroup2", 0, None)
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        skip("cgroup v2 cannot be mounted: " + os.strerror(ctypes.get_errno()))


def rootfs(folder):
    root = os.path.join(folder, "rootfs")
    for name in ("bin", "proc", "dev", "tmp", "etc"):
        os.makedirs(os.path.join(root, name))
    shutil.copy(shutil.which("busybox"), os.path.join(root, "bin"))
    for name in ("sh", "cat", "echo", "sleep", "kill", "stty", "tty", "seq", "touch"):
        os.symlink("busybox", os.path.join(root, "bin", name))
    return root


def process(args, tty=False, user=None):
    return {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": user or {"uid": 0, "gid": 0},
            "terminal": tty}


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Refused as e:
        assert e.code == code, f"expected 0x{code:08x}, got {e}"
        return e.text
    raise AssertionError(f"not refused with 0x{code:08x}")


class Pod:
    """Shorter ways to say things to the agent about containers."""

    def __init__(self, world):
        self.world = world
        self.root = rootfs(world.folder)

    def create(self, bridge, name, args, tty=False, ident=None, **change):
        spec = {"ociVersion": "1.0.2", "process": process(args, tty), "root": {"path": self.root},
                "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                           {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                           {"destination": "/dev/pts", "type": "devpts", "source": "devpts"}],
                "linux": LINUX, "windows": {"ignored": True}}
        spec.update(change)
        config = {"SchemaVersion": {"Major": 2, "Minor": 1}, "OciSpecification": spec,
                  "OciBundlePath": os.path.join(self.world.folder, "c", name)}
        return bridge.call(CREATE, {"ContainerId": name}, ident, ActivityId=GUID,
                           ContainerConfig=json.dumps(config))

    def execute(self, bridge, name, what=None, tokens=None, ident=None, ports=(0, 0, 0)):
        params = {"OciProcess": what} if what else {}
        listening = [None if tokens or not p else self.world.port(p) for p in ports]
        ident = execute(bridge, [], name, ports, tokens, ident, CommandArgs=None, **params)
        streams = [p and p.accept() for p in listening]
        return bridge.answer(ident)["ProcessId"], streams

    def wait(self, bridge, name, pid, timeout=0xFFFFFFFF, ident=None):
        return bridge.call(WAIT, {"ContainerId": name}, ident, ProcessId=pid,
                           TimeoutInMs=timeout)["ExitCode"]


def run(tests):
    return run_tests(tests, prepare)
