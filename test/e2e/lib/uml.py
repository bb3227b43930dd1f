# SPDX-License-Identifier: MIT
"""A program of this machine in a guest of user-mode Linux, whose root is this machine's own files, in front of a vhost-user
vsock device or of none. A front end unlike QEMU: it gives the event queue away and asks for the configuration when it wants it.

Imported by the test, start() runs `argv` in a guest; run as the guest's first process, this file gets the guest ready for it."""
import ctypes
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
DEVICE_ID = 19  # of a vsock device (D1.1)
END = "::"  # of the words for us; the kernel adds some of its own


def start(world, name, argv, modules, device=None):
    """The process; its log has what the program writes, and `exit N` last."""
    sys.path.insert(0, str(HERE.parents[1] / "kernel"))
    import parts  # it fetches the kernel on first use
    kernel = parts.Kernel(parts.UML)
    for file in "ld.so", "linux.uml":
        if not (world.path / file).exists():
            (world.path / file).symlink_to(kernel.image.parent / file)
    front = [f"virtio_uml.device={device}:{DEVICE_ID}"] if device else []
    wanted = ",".join(str(kernel.modules[m]) for m in modules if m in kernel.modules)
    return world.spawn(name, [
        "./linux.uml", "mem=256M", "rootfstype=hostfs", "rootflags=/", "rw", "panic=-1", "quiet", "con0=null,fd:1", "con=null",
        f"uml_dir={world.path}/", f"umid={name}", f"init={sys.executable}", *front, "--", HERE / "uml.py", wanted, *argv, END],
        env={"LD_LIBRARY_PATH": str(kernel.image.parent), "HOME": str(world.path), "TMPDIR": "/dev/shm"})


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    source = HERE.parents[2]
    inside = os.open(source, os.O_PATH)
    for kind, where in ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"):
        if libc.mount(b"none", where.encode(), kind.encode(), 0, None) < 0 and kind != "devtmpfs":
            print(f"{where}: {os.strerror(ctypes.get_errno())}")
    if not source.exists():  # it lies in the host's /tmp
        source.mkdir(parents=True)
        libc.mount(f"/proc/self/fd/{inside}".encode(), str(source).encode(), None, 0x1000, None)  # MS_BIND
    status = 1
    try:
        for path in filter(None, sys.argv[1].split(",")):
            with open(path, "rb") as module:
                if libc.syscall(313, module.fileno(), b"", 0) < 0:  # finit_module
                    raise OSError(ctypes.get_errno(), "finit_module", path)
        status = subprocess.run(sys.argv[2:sys.argv.index(END)], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
                                stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as why:
        print(why)
    print(f"exit {status}", flush=True)
    os.sync()
    libc.reboot(ctypes.c_int(0x4321FEDC))  # RB_POWER_OFF


if __name__ == "__main__":
    main()
