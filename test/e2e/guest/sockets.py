# SPDX-License-Identifier: MIT
"""Runs in a guest: sockets in every state, through changes of the CID. Says what becomes of each, a line `what: result` each.
The test changes the CID when it reads "ready". usage: sockets.py CHANGES"""
import array
import errno
import fcntl
import os
import socket
import sys
import threading
import time

HOST, ANY, GET_LOCAL_CID = 2, 0xFFFFFFFF, 0x7B9
SERVICE, FULL = 1024, 1025  # ports of the host: one that answers, one whose backlog is full
LISTENS, BOUND, FIXED = 5000, 6000, 6001


def say(what, result):
    sys.stdout.write(f"{what}: {result}\n")
    sys.stdout.flush()


def cid():
    with open("/dev/vsock", "rb") as f:
        number = array.array("I", [0])
        fcntl.ioctl(f, GET_LOCAL_CID, number)
        return number[0]


def vsock():
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.settimeout(20)
    return s


def tried(function, *arguments):
    try:
        return function(*arguments)
    except OSError as why:
        return errno.errorcode.get(why.errno, str(why))


def connected(s=None):
    s = s or vsock()
    s.connect((HOST, SERVICE))
    assert s.recv(5) == b"hello"
    return s


def serve(listener):
    while True:
        s, who = listener.accept()
        s.sendall(b"guest %d" % cid())
        s.close()


def blocked_reader(s):
    """A process that waits in recv(), by now."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        s.settimeout(None)
        os.write(w, b"x")
        say("reader", tried(s.recv, 1))
        say("reader again", tried(s.recv, 1))
        os._exit(0)
    os.read(r, 1)
    while open(f"/proc/{pid}/stat", encoding="ascii").read().split()[2] != "S":
        time.sleep(0.01)
    os.close(r)
    os.close(w)
    return pid


def dial_full():
    began = time.monotonic()
    result = tried(vsock().connect, (HOST, FULL))
    say("connecting", f"{result} {'in time' if time.monotonic() - began < 1.5 else 'late'}")


def one_change():
    reader, idle, unread = connected(), connected(), connected()
    unread.sendall(b"echo")
    while not tried(unread.recv, 4, socket.MSG_PEEK) == b"echo":
        pass
    bound, fixed, fresh = vsock(), vsock(), vsock()
    bound.bind((ANY, BOUND))
    fixed.bind((cid(), FIXED))
    waiter = threading.Thread(target=dial_full)
    waiter.start()
    pid = blocked_reader(reader)
    say("ready", cid())
    os.waitpid(pid, 0)
    say("idle sends", tried(idle.send, b"x"))
    say("unread", tried(unread.recv, 4))
    waiter.join()
    say("cid", cid())
    say("bound", f"{connected(bound).getsockname()[1]}")
    say("fixed", tried(fixed.connect, (HOST, SERVICE)))
    say("fresh", connected(fresh).getpeername()[1])
    for s in reader, idle, unread, bound, fixed, fresh:
        s.close()


def main():
    listener = vsock()
    listener.settimeout(None)
    listener.bind((ANY, LISTENS))
    listener.listen(8)
    threading.Thread(target=serve, args=[listener], daemon=True).start()
    for _ in range(int(sys.argv[1])):
        one_change()
    say("done", cid())


main()
