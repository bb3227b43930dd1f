# SPDX-License-Identifier: MIT
"""Who stands at a supervisor's or a holdfastd's control socket, passes on what is said there, and knows by it where a
migration is."""
import json
import os
import socket
import threading

from world import BUILD, Lines, wait_for

HOLDFAST = BUILD / "src/cli/holdfast"


def forward(end, data, fds):
    """With descriptors the first byte takes them along."""
    if fds:
        n = socket.send_fds(end, [data], fds)
        data = data[n:]
        for fd in fds:
            os.close(fd)
    end.sendall(data)


class Tap:
    """Stands at a control socket in place of its owner. Calls act() once, when `command` comes by, and passes it on after
    that, if it still can; or, late, when its answer comes by."""

    def __init__(self, path, command=None, act=None, late=False):
        self.arm(command, act, late)
        self.error, self.ends, self.threads = None, [], []
        self.path, self.real = path, path.with_suffix(".real")
        path.rename(self.real)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(4)
        self.start(self.accept)

    def arm(self, command, act, late=False):
        self.command, self.act, self.late = command, act, late
        self.acted = self.asked = False

    def start(self, what, *args):
        self.threads.append(threading.Thread(target=what, args=args, daemon=True))
        self.threads[-1].start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.socket(socket.AF_UNIX)
                self.ends += [near, far]
                far.connect(str(self.real))
            except OSError:  # closed, or its owner has ended
                return
            self.start(self.carry, near, far, self.on_request)
            self.start(self.carry, far, near, self.on_answer)

    def carry(self, come, go, look):
        """Line by line: what is asked is looked at before it is passed on."""
        rest = b""
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(come, 65536, 8)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    look(line)
                    forward(go, line + b"\n", fds)
                    fds = []
                if fds:  # they came with the beginning of a line
                    forward(go, rest, fds)
                    rest = b""
        except OSError:
            pass
        except Exception as why:
            self.error = why
        self.cut(come, go)

    def on_request(self, line):
        if not self.acted and self.command and json.loads(line).get("cmd") == self.command:
            self.acted = self.asked = True
            if not self.late:
                self.act(self)

    def on_answer(self, line):
        if self.late and self.asked:
            self.asked = False
            self.act(self)

    def cut(self, *ends):
        for end in ends or self.ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        """Nobody is here any more."""
        self.cut()
        self.listener.shutdown(socket.SHUT_RDWR)  # else accept() holds it open
        self.listener.close()


class Between(Tap):
    """Stands at the destination supervisor's control socket."""

    def __init__(self, s, command, act, late=False):
        self.s = s
        folder = s.b / "vms/vm"
        self.supervisor = s.world.spawn("incoming", [HOLDFAST, "vm", "run", "--incoming", "--foreground", "--node", s.b,
                                                     "vm"], s.env())
        path = folder / "control.sock"
        wait_for(f"{path}", lambda: path.exists() or not self.supervisor.alive())
        Lines(path).close()
        super().__init__(path, command, act, late)

    def status(self):
        lines = Lines(self.real, 5)
        lines.send({"id": 1, "cmd": "status"})
        answer = lines.receive(5)
        lines.close()
        return answer

    def machine(self):
        return self.status()["machine"]

    def gone(self):
        """After a migration that has failed."""
        self.supervisor.wait()
        self.close()

    def close(self):
        super().close()
        if self.supervisor.alive():  # it has the VM: who looks for it finds it
            self.real.rename(self.path)
        if self.error:
            raise self.error
