#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A vhost-user-vsock back end that negotiates and moves no data: enough for QEMU to make the device and to migrate
a machine whose guest never ran. It tests holdfast-qemu.so apart from holdfastd. usage: backend.py SOCKET GUEST-CID"""
import os
import socket
import struct
import sys

LOG_ALL, PROTOCOL_FEATURES, VERSION_1 = 1 << 26, 1 << 30, 1 << 32
PROTOCOL_LOG_SHMFD, PROTOCOL_REPLY_ACK, PROTOCOL_CONFIG = 1 << 1, 1 << 3, 1 << 9
GET_FEATURES, SET_LOG_BASE, GET_VRING_BASE, GET_PROTOCOL_FEATURES, GET_CONFIG = 1, 6, 11, 15, 24
VERSION, REPLY, NEED_REPLY = 1, 4, 8


def receive(peer, size):
    data, fds = b"", []
    while len(data) < size:
        more, new, _, _ = socket.recv_fds(peer, size - len(data), 16)
        if not more:
            sys.exit(0)
        data += more
        fds += new
    for fd in fds:
        os.close(fd)
    return data


def answer(request, payload, cid):
    if request == GET_FEATURES:
        return struct.pack("<Q", LOG_ALL | PROTOCOL_FEATURES | VERSION_1)
    if request == GET_PROTOCOL_FEATURES:
        return struct.pack("<Q", PROTOCOL_LOG_SHMFD | PROTOCOL_REPLY_ACK | PROTOCOL_CONFIG)
    if request == GET_CONFIG:
        return payload[:12] + struct.pack("<Q", cid)[:len(payload) - 12]
    if request == GET_VRING_BASE:
        return payload[:4] + struct.pack("<I", 0)
    if request == SET_LOG_BASE:
        return struct.pack("<Q", 0)
    return None


def main():
    path, cid = sys.argv[1], int(sys.argv[2])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(1)
    os.rename(path + ".new", path)  # whoever sees it can connect
    peer, _ = listener.accept()
    while True:
        request, flags, size = struct.unpack("<III", receive(peer, 12))
        payload = receive(peer, size)
        reply = answer(request, payload, cid)
        if reply is None and flags & NEED_REPLY:
            reply = struct.pack("<Q", 0)
        if reply is not None:
            peer.sendall(struct.pack("<III", request, VERSION | REPLY, len(reply)) + reply)


main()
