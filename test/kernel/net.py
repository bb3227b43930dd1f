# SPDX-License-Identifier: MIT
"""The guests' and the host's IP network, over which the two ends of a test agree: a hub of Ethernet frames in a network
namespace of the runner's own. A port is one end of a socket pair whose datagrams are frames, which both user-mode Linux
(vec0:transport=fd) and QEMU (-netdev dgram) take; the host's port is a TAP device."""
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading

from world import Skip

HOST_IP = "10.99.0.1"
FRAMES = 512  # that wait for a guest which is busy; what is lost costs TCP seconds, of the ten that a test's step has
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000


def enter_namespace():
    """Starts this program again in a network namespace of its own, unless it is there."""
    if os.environ.get("HF_NETNS") != "1":
        os.environ["HF_NETNS"] = "1"
        flags = "-n" if os.geteuid() == 0 else "-rn"
        try:
            os.execvp("unshare", ["unshare", flags, sys.executable, *sys.argv])
        except FileNotFoundError:
            raise Skip("unshare: not found; install Debian's package util-linux") from None


class Hub:
    def __init__(self):
        try:
            self.tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            fcntl.ioctl(self.tap, TUNSETIFF, struct.pack("16sH22x", b"tap0", IFF_TAP | IFF_NO_PI))
        except OSError as error:
            raise Skip(f"/dev/net/tun: {error.strerror}; run as root") from None
        for command in "link set lo up", f"addr add {HOST_IP}/24 dev tap0", "link set tap0 up":
            subprocess.run(["ip", *command.split()], check=True)
        with open("/proc/sys/net/unix/max_dgram_qlen", "w", encoding="ascii") as limit:  # of this namespace
            limit.write(str(FRAMES))
        self.ports = []
        threading.Thread(target=self._forward, daemon=True).start()

    def port(self):
        """A descriptor for a guest; to be closed here once the guest has it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        self.ports.append(ours)
        return theirs

    def _forward(self):
        while True:
            ready, _, _ = select.select([self.tap, *self.ports], [], [], 0.1)
            for source in ready:
                try:
                    frame = os.read(source if source == self.tap else source.fileno(), 65536)
                except BlockingIOError:
                    continue
                except OSError:
                    frame = b""  # the guest is gone
                if not frame:
                    self.ports.remove(source)
                    continue
                for target in [self.tap, *self.ports]:
                    if target is not source:
                        try:
                            os.write(target if target == self.tap else target.fileno(), frame)
                        except OSError:
                            pass  # full or gone: Ethernet may lose frames
