# SPDX-License-Identifier: MIT
"""What the kernel suite is made of: Debian's packages, the programs built from them, and the guests' file systems.

Everything is fetched and built once, in ~/.cache/holdfast/kernel-suite; nothing of this machine is changed.
"""
import lzma
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e/lib"))
from world import Skip  # noqa: E402

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "holdfast/kernel-suite"
SUITE = "trixie-backports"  # whose linux-source has the tests

PROGRAMS = {  # as the tests' own Makefile has it
    "vsock_test": "vsock_test vsock_test_zerocopy timeout control util msg_zerocopy_common",
    "vsock_diag_test": "vsock_diag_test timeout control util",
    "vsock_uring_test": "vsock_uring_test control util timeout msg_zerocopy_common",
    "vsock_perf": "vsock_perf msg_zerocopy_common",
}

# In load order; what a kernel has built in is left out.
MODULES = """virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net
vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport vsock_diag""".split()

UML = "uml"  # the other kernels are named for the Debian suite whose cloud kernel they are


def fetch(suite, folder, *packages):
    run = subprocess.run([HERE / "fetch", suite, CACHE / folder, *packages],
                         stderr=subprocess.PIPE, text=True)
    if run.returncode:
        raise Skip(run.stderr.strip()) if run.returncode == 77 else RuntimeError(run.stderr.strip())
    return CACHE / folder


def programs():
    """The folder with the suite's programs: static/ for guests, shared/ and unixvsock.so for the host."""
    packages = fetch(SUITE, "source", "linux-source", "linux-libc-dev", "liburing-dev")
    archive = next(packages.glob("usr/src/linux-source-*.tar.xz"))
    name = archive.name.removesuffix(".tar.xz")
    tests = packages / name / "tools/testing/vsock"
    if not (tests / "vsock_test.c").exists():
        subprocess.run(["tar", "-xf", archive, "-C", packages, f"{name}/tools/testing/vsock", f"{name}/tools/include"],
                       check=True)
    usr = packages / "usr"
    flags = ["-w", "-O2", "-D_GNU_SOURCE", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing", "-fno-strict-overflow", "-I", tests,
             "-I", packages / name / "tools/include", "-isystem", usr / "include",
             "-isystem", usr / "include/x86_64-linux-gnu"]
    out = CACHE / "programs"
    for kind, link in ("static", ["-static", "-s"]), ("shared", []):
        (out / kind).mkdir(parents=True, exist_ok=True)
        for program, files in PROGRAMS.items():
            if not (out / kind / program).exists():
                libs = [usr / "lib/x86_64-linux-gnu/liburing.a"] if "uring" in program else []
                compile_c(out / kind / program, [tests / f"{f}.c" for f in files.split()], flags + link, libs)
    compile_c(out / "static/init", [HERE / "init.c"], ["-O2", "-D_GNU_SOURCE", "-static", "-s"])
    compile_c(out / "unixvsock.so", [HERE / "unixvsock.c"], ["-O2", "-D_GNU_SOURCE", "-shared", "-fPIC"])
    return out


def compile_c(output, files, flags, libs=()):
    temporary = output.with_suffix(".new")
    run = subprocess.run(["gcc", *flags, *files, *libs, "-lpthread", "-o", temporary], stderr=subprocess.PIPE, text=True)
    if run.returncode:
        raise RuntimeError(f"{output.name}: {run.stderr}")
    temporary.rename(output)


class Kernel:
    """A guest kernel: its release, the command that starts it, and its modules."""

    def __init__(self, kind):
        self.kind = kind
        if kind == UML:
            self.root = fetch("sid", UML, "user-mode-linux", "libc6")
            self.image = self._patched_uml()
            release = next(self.root.glob("usr/lib/uml/modules/*"))
        else:
            self.root = fetch(kind, f"cloud-{kind}", "linux-image-cloud-amd64")
            release = next(p for pattern in ("lib/modules/*", "usr/lib/modules/*") for p in self.root.glob(pattern))
            self.image = next(p for pattern in ("boot/vmlinuz*", "usr/lib/modules/*/vmlinuz") for p in self.root.glob(pattern))
        self.release = release.name
        self.modules = {p.name.split(".")[0]: p for p in release.rglob("*.ko*")}

    def _patched_uml(self):
        """User-mode Linux finds its memory by its own break, so it cannot be started through a loader by hand: its copy
        names its loader ld.so, in the current folder, which is that of its own C library."""
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        image = libraries / "linux.uml"
        if not image.exists():
            loader = b"/lib64/ld-linux-x86-64.so.2"
            binary = (self.root / "usr/bin/linux.uml").read_bytes()
            image.with_suffix(".new").write_bytes(binary.replace(loader, b"ld.so".ljust(len(loader), b"\0"), 1))
            image.with_suffix(".new").chmod(0o755)
            (libraries / "ld.so").unlink(missing_ok=True)
            (libraries / "ld.so").symlink_to("ld-linux-x86-64.so.2")
            image.with_suffix(".new").rename(image)
        return image

    def initramfs(self, path, static):
        """Writes a file system with init, the programs and the modules that this kernel needs."""
        with open(path, "wb") as out:
            for folder in ("dev", "bin", "m"):
                cpio_entry(out, folder, 0o040755, b"")
            for program in static.iterdir():
                cpio_entry(out, "init" if program.name == "init" else f"bin/{program.name}", 0o100755, program.read_bytes())
            names = [m for m in MODULES if m in self.modules]
            for name in names:
                data = self.modules[name].read_bytes()
                if self.modules[name].suffix == ".xz":
                    data = lzma.decompress(data)
                cpio_entry(out, f"m/{name}.ko", 0o100644, data)
            cpio_entry(out, "modules", 0o100644, "".join(f"/m/{n}.ko\n" for n in names).encode())
            cpio_entry(out, "TRAILER!!!", 0, b"")


def cpio_entry(out, name, mode, data):
    """One entry of a cpio archive in the format that the kernel unpacks ("newc")."""
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    out.write(b"070701" + "".join(f"{f:08X}" for f in fields).encode() + name.encode() + b"\0")
    out.write(b"\0" * (-out.tell() % 4) + data)
    out.write(b"\0" * (-out.tell() % 4))
