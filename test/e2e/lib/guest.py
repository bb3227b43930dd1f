# SPDX-License-Identifier: MIT
"""A guest without a VM: vhost-user front end, split-ring driver and a small vsock stack, to test
holdfastd from the guest's side. Nothing here is forgiving: what breaks a rule is an exception.

    Machine   memory and rings: what migrates
    Front     one vhost-user connection of a Machine to a holdfastd
    Guest     a vsock stack on both; connections are Conn
"""
import array
import mmap
import os
import select
import socket
import struct
import time

DEADLINE = 10.0  # s, for anything that is waited for

# vhost-user requests
(GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_VRING_NUM, SET_VRING_ADDR,
 SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL) = 1, 2, 3, 5, 6, 8, 9, 10, 11, 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
GET_CONFIG, RESET_DEVICE, SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE = 24, 34, 42, 43
GET_INFLIGHT_FD, SET_INFLIGHT_FD = 31, 32
F_LOG_ALL, F_INDIRECT, F_EVENT_IDX, F_PROTOCOL, F_VERSION_1 = 1 << 26, 1 << 28, 1 << 29, 1 << 30, 1 << 32
P_REPLY_ACK = 1 << 3

# vsock operations
REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = 1, 2, 3, 4, 5, 6, 7
SHUT_RCV, SHUT_SEND, SHUT_BOTH = 1, 2, 3
STREAM, SEQPACKET = 1, 2
EOM, EOR = 1, 2
F_SEQPACKET = 1 << 1
HDR = struct.Struct("<QQIIIHHIII")  # src, dst, sport, dport, len, type, op, flags, buf_alloc, fwd_cnt
HDR_LEN = 44

UADDR = 0x7F0000000000  # the guest's memory as the front end knows it
RING_PAGES = 4  # desc, avail, used
RX_SIZE, TX_SIZE, EVENT_SIZE = 64, 32, 4
RX_BUF = 3776  # as Linux: 4096 less what an skb costs
TX_BUF = 65536
BUFFER = 262144  # granted to a connection, either way, unless it is told otherwise


class Ring:
    """The driver's side of a split ring at offset `at` of the memory."""

    def __init__(self, mem, at, size, event_idx):
        self.mem, self.at, self.size, self.event_idx = mem, at, size, event_idx
        self.desc, self.avail, self.used = at, at + 4096, at + 8192
        self.idx = self.seen = self.kicked = 0
        mem[at:at + RING_PAGES * 4096] = bytes(RING_PAGES * 4096)
        # Indices are read and written whole: struct goes byte by byte, and the device would see
        # halves of two values.
        self.words = memoryview(mem).cast("H")

    def u16(self, at):
        return self.words[at // 2]

    def set_desc(self, i, gpa, n, flags, nxt):
        struct.pack_into("<QIHH", self.mem, self.desc + 16 * i, gpa, n, flags, nxt)

    def publish(self, head):
        """Makes a chain available; says whether the device wants a kick."""
        self.words[self.avail // 2 + 2 + self.idx % self.size] = head
        self.idx = (self.idx + 1) & 0xFFFF
        self.words[self.avail // 2 + 1] = self.idx
        if self.event_idx:
            event = self.u16(self.used + 4 + 8 * self.size)
            return ((self.idx - event - 1) & 0xFFFF) < 1
        return not self.u16(self.used) & 1

    def take(self):
        """The next used entry as (head, length), or None; asks to be told of the one after."""
        if self.u16(self.used + 2) == self.seen:
            return None
        head, n = struct.unpack_from("<II", self.mem, self.used + 4 + 8 * (self.seen % self.size))
        self.seen = (self.seen + 1) & 0xFFFF
        self.words[self.avail // 2 + 2 + self.size] = self.seen
        return head, n


class Machine:
    def __init__(self, event_idx=True):
        self.fd = os.memfd_create("guest")
        self.size = 8 << 20
        os.ftruncate(self.fd, self.size)
        self.mem = mmap.mmap(self.fd, self.size)
        self.event_idx = event_idx
        self.inflight = None  # what the back end leaves for the next one: descriptor and description
        sizes = (RX_SIZE, TX_SIZE, EVENT_SIZE)
        step = RING_PAGES * 4096
        self.rings = [Ring(self.mem, i * step, n, event_idx) for i, n in enumerate(sizes)]
        self.rx_at, self.tx_at, self.event_at = 0x20000, 0x80000, 0x70000
        self.base = [0, 0, 0]
        for i in range(RX_SIZE):
            self.rings[0].set_desc(i, self.rx_at + i * 4096, RX_BUF, 2, 0)
            self.rings[0].publish(i)
        for i in range(EVENT_SIZE):
            self.rings[2].set_desc(i, self.event_at + i * 8, 8, 2, 0)
            self.rings[2].publish(i)
        self.tx_free = list(range(0, TX_SIZE, 2))

    def close(self):
        if self.inflight:
            os.close(self.inflight[0])
        for ring in self.rings:
            ring.words.release()
        self.mem.close()
        os.close(self.fd)


class Front:
    def __init__(self, path, machine, queues=2, start=True, features=0, log=False, inflight=False):
        self.m, self.n, self.log_fd = machine, queues, -1
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(path)
        self.kick = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(queues)]
        self.call = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(queues)]
        self.features = F_VERSION_1 | F_PROTOCOL | features
        if machine.event_idx:
            self.features |= F_EVENT_IDX
        self.offered = self.ask(GET_FEATURES)
        self.protocol = self.ask(GET_PROTOCOL_FEATURES)
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol))
        self.send(SET_OWNER)
        if inflight:
            self.keep_inflight()
        if start:
            self.start()

    def send(self, request, payload=b"", fds=(), flags=1):
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([struct.pack("<III", request, flags, len(payload)) + payload], anc)

    def exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                raise EOFError("holdfastd closed the vhost-user socket")
            data += part
        return data

    def reply(self, request):
        got, flags, n = struct.unpack("<III", self.exactly(12))
        assert (got, flags & 7) == (request, 5), (got, flags)
        return self.exactly(n)

    def ask(self, request, payload=b"", fds=()):
        self.send(request, payload, fds)
        data = self.reply(request)
        return struct.unpack("<Q", data)[0] if len(data) == 8 else data

    def acked(self, request, payload=b"", fds=()):
        """Sends with need_reply; returns the answer, 0 is good."""
        self.send(request, payload, fds, flags=9)
        return struct.unpack("<Q", self.reply(request))[0]

    def keep_inflight(self):
        """The back end's own file: made by the first one, given to all that come after it."""
        if not self.m.inflight:
            self.send(GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, self.n, 64, 0))
            head, fds, _, _ = socket.recv_fds(self.sock, 12, 1)
            assert struct.unpack("<III", head) == (GET_INFLIGHT_FD, 5, 24)
            self.m.inflight = fds[0], self.exactly(24)
        fd, description = self.m.inflight
        assert self.acked(SET_INFLIGHT_FD, description, [fd]) == 0

    def set_features(self, more=0):
        assert self.acked(SET_FEATURES, struct.pack("<Q", self.features | more)) == 0

    def start(self):
        self.set_features()
        table = struct.pack("<IIQQQQ", 1, 0, 0, self.m.size, UADDR, 0)
        assert self.acked(SET_MEM_TABLE, table, [self.m.fd]) == 0
        self.start_rings()

    def start_rings(self, log=False):
        for i in range(self.n):
            r = self.m.rings[i]
            self.send(SET_VRING_NUM, struct.pack("<II", i, r.size))
            self.send(SET_VRING_BASE, struct.pack("<II", i, self.m.base[i]))
            self.set_addr(i, log)
            self.send(SET_VRING_KICK, struct.pack("<Q", i), [self.kick[i]])
            self.send(SET_VRING_CALL, struct.pack("<Q", i), [self.call[i]])
        for i in range(self.n):
            assert self.acked(SET_VRING_ENABLE, struct.pack("<II", i, 1)) == 0

    def set_addr(self, i, log):
        r = self.m.rings[i]
        assert self.acked(SET_VRING_ADDR, struct.pack("<IIQQQQ", i, int(log), UADDR + r.desc,
                          UADDR + r.used, UADDR + r.avail, r.used)) == 0

    def stop_rings(self):
        for i in range(self.n):
            got, base = struct.unpack("<II", self.ask_raw(GET_VRING_BASE, struct.pack("<II", i, 0)))
            assert got == i
            self.m.base[i] = base

    def ask_raw(self, request, payload):
        self.send(request, payload)
        return self.reply(request)

    def kick_ring(self, i):
        os.eventfd_write(self.kick[i], 1)

    def close(self):
        self.sock.close()
        for fd in self.kick + self.call:
            os.close(fd)


class Conn:
    def __init__(self, guest, host_port, guest_port, buf_alloc, type=STREAM, peer=2):
        self.g, self.host_port, self.guest_port = guest, host_port, guest_port
        self.type, self.peer = type, peer
        self.data = b""  # of SEQPACKET: the message that has not ended
        self.messages = []  # (bytes, flags)
        self.unread = 0
        self.buf_alloc, self.fwd_cnt, self.told = buf_alloc, 0, 0
        self.tx_cnt, self.peer_alloc, self.peer_fwd = 0, 0, 0
        self.open = self.reset = False
        self.shut = 0  # what the host has shut
        self.packets = []  # operations received

    def op(self, op, payload=b"", flags=0):
        self.told = self.fwd_cnt
        self.g.transmit(HDR.pack(self.g.cid, self.peer, self.guest_port, self.host_port, len(payload), self.type, op,
                                 flags, self.buf_alloc, self.fwd_cnt & 0xFFFFFFFF), payload)

    def room(self):
        return self.peer_alloc - ((self.tx_cnt - self.peer_fwd) & 0xFFFFFFFF)

    def send(self, data, wait=True):
        """Sends what credit lets through, all of it when it waits; returns how much."""
        sent = 0
        while sent < len(data):
            n = min(len(data) - sent, self.room(), TX_BUF)
            if n <= 0 and not wait:
                break
            if n <= 0:
                self.g.step()
                continue
            self.tx_cnt += n
            self.op(RW, data[sent:sent + n])
            sent += n
        return sent

    def fill(self, data, least=BUFFER):
        """Sends what fits while nobody reads: until nothing has moved for a while; returns how much."""
        sent, end, moved = 0, time.monotonic() + DEADLINE, time.monotonic()
        while time.monotonic() - moved < 0.3 or sent < min(least, len(data)):
            n = self.send(data[sent:], wait=False)
            sent += n
            if n or self.g.step(0.02):
                moved = time.monotonic()
            assert time.monotonic() < end, f"only {sent} bytes fit"
        return sent

    def send_message(self, data, flags=EOM, part=TX_BUF):
        """A message, in packets of at most `part` bytes."""
        at = 0
        while True:
            self.g.until(lambda: self.room() > 0 or at == len(data))
            n = min(len(data) - at, self.room(), part)
            self.tx_cnt += n
            self.op(RW, data[at:at + n], flags if at + n == len(data) else 0)
            at += n
            if at == len(data):
                return

    def recv_message(self):
        self.g.until(lambda: self.messages or self.reset or self.shut & SHUT_SEND)
        assert self.messages, "no more messages"
        data, flags = self.messages.pop(0)
        self.fwd_cnt += len(data)
        self.unread -= len(data)
        self.op(CREDIT_UPDATE)  # as Linux does after each: the next message may need all of the buffer
        return data, flags

    def got(self, pkt, payload):
        assert pkt["type"] == self.type and pkt["src"] == self.peer, pkt
        self.packets.append(pkt["op"])
        self.peer_alloc, self.peer_fwd = pkt["buf_alloc"], pkt["fwd_cnt"]
        if pkt["op"] == RESPONSE:
            self.open = True
        elif pkt["op"] == RST:
            self.open, self.reset = False, True
        elif pkt["op"] == SHUTDOWN:
            self.shut |= pkt["flags"]
        elif pkt["op"] == CREDIT_REQUEST:
            self.op(CREDIT_UPDATE)
        elif pkt["op"] == RW:
            self.data += payload
            self.unread += len(payload) if self.type == SEQPACKET else 0
            assert max(len(self.data), self.unread) <= self.buf_alloc, "more than the credit given"
            if self.type == SEQPACKET and pkt["flags"]:
                assert pkt["flags"] in (EOM, EOM | EOR), pkt
                self.messages.append((self.data, pkt["flags"]))
                self.data = b""

    def recv(self, n):
        """Exactly n bytes; gives credit back when half of the buffer is used up."""
        out = b""
        while len(out) < n:
            if not self.data:
                self.g.until(lambda: self.data or self.reset or self.shut & SHUT_SEND)
                assert self.data, f"ended after {len(out)} of {n} bytes"
            part, self.data = self.data[:n - len(out)], self.data[n - len(out):]
            out += part
            self.fwd_cnt += len(part)
            if self.fwd_cnt - self.told > self.buf_alloc // 2:
                self.op(CREDIT_UPDATE)
        return out


class Guest:
    def __init__(self, path, cid=4, machine=None, **front):
        self.cid = cid
        self.m = machine or Machine()
        self.front = Front(path, self.m, **front)
        self.conns, self.listening, self.accepted, self.strays = {}, set(), [], []
        self.next_port = 49152
        self.events = 0
        self.buf_alloc = BUFFER
        self.peers = {2}  # CIDs that may send packets

    def come_back(self, path, **front):
        """holdfastd has died: the rings go on where the device has got to."""
        self.front.close()
        self.m.base = [ring.u16(ring.used + 2) for ring in self.m.rings]
        self.move(path, inflight=True, **front)

    def move(self, path, **front):
        """The machine goes on, behind another holdfastd."""
        self.front = Front(path, self.m, **front)

    def transmit(self, hdr, payload=b""):
        self.until(lambda: self.m.tx_free)
        r, head = self.m.rings[1], self.m.tx_free.pop()
        at = self.m.tx_at + head // 2 * (TX_BUF + 4096)
        self.m.mem[at:at + len(hdr)] = hdr
        self.m.mem[at + 4096:at + 4096 + len(payload)] = payload
        r.set_desc(head, at, len(hdr), 1 if payload else 0, head + 1)
        if payload:
            r.set_desc(head + 1, at + 4096, len(payload), 0, 0)
        if r.publish(head):
            self.front.kick_ring(1)

    def reap(self):
        """Takes everything that is used; True when there was something."""
        some = False
        while (u := self.m.rings[1].take()) is not None:
            self.m.tx_free.append(u[0])
            some = True
        while (u := self.m.rings[0].take()) is not None:
            head, n = u
            at = self.m.rx_at + head * 4096
            raw = bytes(self.m.mem[at:at + n])
            if self.m.rings[0].publish(head):
                self.front.kick_ring(0)
            self.packet(raw)
            some = True
        while self.front.n > 2 and (u := self.m.rings[2].take()) is not None:
            assert bytes(self.m.mem[self.m.event_at + u[0] * 8:][:4]) == bytes(4)
            self.events += 1
            if self.m.rings[2].publish(u[0]):
                self.front.kick_ring(2)
            some = True
        return some

    def packet(self, raw):
        keys = ("src", "dst", "sport", "dport", "len", "type", "op", "flags", "buf_alloc", "fwd_cnt")
        p = dict(zip(keys, HDR.unpack(raw[:HDR_LEN])))
        assert len(raw) == HDR_LEN + p["len"], raw
        assert p["dst"] == self.cid and (p["src"] in self.peers or p["op"] == RST), p
        c = self.conns.get((p["sport"], p["dport"]))
        if p["op"] == REQUEST and p["dport"] in self.listening:
            c = self.conns[p["sport"], p["dport"]] = Conn(self, p["sport"], p["dport"], self.buf_alloc, p["type"],
                                                          p["src"])
            c.got(p, b"")
            c.open = True
            c.op(RESPONSE)
            self.accepted.append(c)
        elif c:
            c.got(p, raw[HDR_LEN:])
        else:
            self.strays.append(p)
            if p["op"] != RST:
                self.transmit(HDR.pack(self.cid, p["src"], p["dport"], p["sport"], 0, p["type"], RST, 0, 0, 0))

    def step(self, timeout=DEADLINE):
        """Takes what there is, else waits for a notification."""
        if self.reap():
            return True
        ready, _, _ = select.select(self.front.call, [], [], timeout)
        for fd in ready:
            os.eventfd_read(fd)
        some = self.reap()
        assert some or ready or timeout < DEADLINE, "nothing came in time"
        return some

    def until(self, condition, timeout=DEADLINE):
        end = time.monotonic() + timeout
        while not condition():
            self.step(max(0.001, min(0.2, end - time.monotonic())))
            assert time.monotonic() < end, "not in time"

    def request(self, host_port, type=STREAM, peer=2):
        self.next_port += 1
        c = self.conns[host_port, self.next_port] = Conn(self, host_port, self.next_port, self.buf_alloc, type, peer)
        c.op(REQUEST)
        return c

    def connect(self, host_port, type=STREAM, peer=2):
        c = self.request(host_port, type, peer)
        self.until(lambda: c.open or c.reset)
        assert c.open, "refused"
        return c

    def close(self):
        self.front.close()
        self.m.close()
