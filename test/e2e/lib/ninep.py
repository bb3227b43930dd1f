# SPDX-License-Identifier: MIT
"""A 9P2000.L server of one folder, as far as a Linux guest needs it to list, read, write, make and remove files. A host
serves its shares so to the guests that dial its port 564."""
import errno
import os
import stat
import struct
import threading

RLERROR = 7
NAMES = {8: "statfs", 12: "lopen", 14: "lcreate", 24: "getattr", 26: "setattr", 30: "xattrwalk", 40: "readdir",
         50: "fsync", 72: "mkdir", 76: "unlinkat", 100: "version", 104: "attach", 108: "flush", 110: "walk", 116: "read",
         118: "write", 120: "clunk"}


def text(data, at):
    n, = struct.unpack_from("<H", data, at)
    return data[at + 2:at + 2 + n].decode(), at + 2 + n


class Server:
    """Answers on a connected socket until it is closed."""

    def __init__(self, conn, root):
        self.conn, self.root = conn, os.path.realpath(root)
        self.fids, self.open = {}, {}
        self.aname = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        self.conn.settimeout(None)
        while head := self.take(7):
            size, kind, tag = struct.unpack("<IBH", head)
            body = self.take(size - 7) if size > 7 else b""
            try:
                handler = getattr(self, NAMES.get(kind, ""), None)
                if not handler:
                    raise OSError(errno.EOPNOTSUPP, "")
                kind, answer = kind + 1, handler(body)
            except OSError as e:
                kind, answer = RLERROR, struct.pack("<I", e.errno)
            try:
                self.conn.sendall(struct.pack("<IBH", 7 + len(answer), kind, tag) + answer)
            except OSError:
                return

    def take(self, n):
        data = b""
        while len(data) < n:
            try:
                more = self.conn.recv(n - len(data))
            except OSError:
                return b""
            if not more:
                return b""
            data += more
        return data

    def below(self, path, name):
        """One name further; never out of the root."""
        if name == "..":
            return path if path == self.root else os.path.dirname(path)
        return os.path.join(path, name)

    def qid(self, path):
        s = os.lstat(path)
        return struct.pack("<BIQ", 0x80 if stat.S_ISDIR(s.st_mode) else 2 if stat.S_ISLNK(s.st_mode) else 0,
                           int(s.st_mtime) & 0xFFFFFFFF, s.st_ino)

    def version(self, b):
        size, = struct.unpack_from("<I", b)
        name, _ = text(b, 4)
        self.size = min(size, 65536)
        return struct.pack("<IH", self.size, len(name)) + name.encode()

    def attach(self, b):
        fid, = struct.unpack_from("<I", b)
        _, at = text(b, 8)
        self.aname, _ = text(b, at)
        self.fids[fid] = self.root
        return self.qid(self.root)

    def walk(self, b):
        fid, new, n = struct.unpack_from("<IIH", b)
        path, at, qids = self.fids[fid], 10, b""
        for _ in range(n):
            name, at = text(b, at)
            path = self.below(path, name)
            if not os.path.lexists(path):
                raise OSError(errno.ENOENT, "")
            qids += self.qid(path)
        self.fids[new] = path
        return struct.pack("<H", n) + qids

    def getattr(self, b):
        fid, = struct.unpack_from("<I", b)
        s = os.lstat(self.fids[fid])
        times = b"".join(struct.pack("<QQ", ns // 10**9, ns % 10**9) for ns in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns))
        return struct.pack("<Q", 0x7FF) + self.qid(self.fids[fid]) + struct.pack(
            "<IIIQQQQQ", s.st_mode, s.st_uid, s.st_gid, s.st_nlink, 0, s.st_size, 4096, s.st_blocks) + times + bytes(32)

    def setattr(self, b):
        fid, valid, _, _, _, size = struct.unpack_from("<IIIIIQ", b)
        if valid & 8:
            os.truncate(self.fids[fid], size)
        return b""

    def lopen(self, b):
        fid, flags = struct.unpack_from("<II", b)
        path = self.fids[fid]
        if not os.path.isdir(path):
            self.open[fid] = os.open(path, flags & (os.O_ACCMODE | os.O_TRUNC | os.O_APPEND))
        return self.qid(path) + struct.pack("<I", 0)

    def lcreate(self, b):
        fid, = struct.unpack_from("<I", b)
        name, at = text(b, 4)
        flags, mode = struct.unpack_from("<II", b, at)
        path = self.fids[fid] = self.below(self.fids[fid], name)
        self.open[fid] = os.open(path, flags & (os.O_ACCMODE | os.O_TRUNC) | os.O_CREAT, mode)
        return self.qid(path) + struct.pack("<I", 0)

    def mkdir(self, b):
        fid, = struct.unpack_from("<I", b)
        name, at = text(b, 4)
        path = self.below(self.fids[fid], name)
        os.mkdir(path, struct.unpack_from("<I", b, at)[0])
        return self.qid(path)

    def unlinkat(self, b):
        fid, = struct.unpack_from("<I", b)
        name, at = text(b, 4)
        path = self.below(self.fids[fid], name)
        os.rmdir(path) if struct.unpack_from("<I", b, at)[0] & 0x200 else os.unlink(path)
        return b""

    def read(self, b):
        fid, offset, count = struct.unpack_from("<IQI", b)
        data = os.pread(self.open[fid], min(count, self.size - 24), offset)
        return struct.pack("<I", len(data)) + data

    def write(self, b):
        fid, offset, count = struct.unpack_from("<IQI", b)
        return struct.pack("<I", os.pwrite(self.open[fid], b[16:16 + count], offset))

    def readdir(self, b):
        fid, offset, count = struct.unpack_from("<IQI", b)
        path, out = self.fids[fid], b""
        for i, name in enumerate([".", "..", *sorted(os.listdir(path))][offset:], offset + 1):
            entry = self.qid(self.below(path, name) if name != "." else path)
            entry += struct.pack("<QBH", i, entry[0] >> 5, len(name.encode())) + name.encode()
            if len(out) + len(entry) > count:
                break
            out += entry
        return struct.pack("<I", len(out)) + out

    def statfs(self, b):
        return struct.pack("<IIQQQQQQI", 0x01021997, 4096, 1 << 20, 1 << 19, 1 << 19, 1 << 16, 1 << 15, 0, 255)

    def clunk(self, b):
        fid, = struct.unpack_from("<I", b)
        if fid in self.open:
            os.close(self.open.pop(fid))
        self.fids.pop(fid, None)
        return b""

    def xattrwalk(self, b):
        raise OSError(errno.EOPNOTSUPP, "")

    def fsync(self, b):
        return b""

    def flush(self, b):
        return b""
