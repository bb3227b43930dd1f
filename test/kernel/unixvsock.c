/* SPDX-License-Identifier: MIT */

/*
 * Lets a program that speaks AF_VSOCK be the host side of a holdfastd (LD_PRELOAD).
 *
 * A socket of AF_VSOCK is a Unix socket of the same type. listen(2) listens at UDS_<port>; accept(2) takes the caller's CID and
 * port from the name that holdfastd gives its end; connect(2) to the guest's CID connects to UDS, for SOCK_SEQPACKET to
 * UDS.seqpacket, says "CONNECT <port>" and awaits "OK". Everything else is done by the Unix socket itself, and what a Unix socket cannot do fails, but for
 * what is remembered and given back, the port of bind(2) and the sizes of SO_VM_SOCKETS_BUFFER_*, and for poll(2), which heeds SO_RCVLOWAT.
 *
 * The environment has HF_UDS, the path of uds-path, and HF_CID, the guest's CID.
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define MAX_FD 1024
#define FIRST_PORT 0x70000000 /* for VMADDR_PORT_ANY */
#define N_OPTIONS 3	      /* SO_VM_SOCKETS_BUFFER_SIZE, _MIN_SIZE, _MAX_SIZE */

static struct vsock {
	int type; /* 0: not ours */
	bool listening;
	unsigned int port, peer_cid, peer_port;
	unsigned long long options[N_OPTIONS];
} table[MAX_FD];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static struct vsock *of(int fd)
{
	return fd >= 0 && fd < MAX_FD && table[fd].type ? &table[fd] : NULL;
}

static int own(int fd, int type)
{
	static const unsigned long long options[N_OPTIONS] = {262144, 128, 262144};

	if (fd < 0)
		return fd;
	if (fd >= MAX_FD) {
		REAL(close)(fd);
		errno = EMFILE;
		return -1;
	}
	table[fd] = (struct vsock){.type = type};
	memcpy(table[fd].options, options, sizeof(options));
	return fd;
}

/* The Unix address of a port of the host, or with port VMADDR_PORT_ANY the one that leads to the guest. */
static socklen_t uds_path(struct sockaddr_un *a, unsigned int port, int type)
{
	const char *uds = getenv("HF_UDS");

	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (port == VMADDR_PORT_ANY)
		snprintf(a->sun_path, sizeof(a->sun_path), "%s%s", uds, type == SOCK_SEQPACKET ? ".seqpacket" : "");
	else
		snprintf(a->sun_path, sizeof(a->sun_path), "%s_%u", uds, port);
	return sizeof(*a);
}

static void address(struct sockaddr *addr, socklen_t *len, unsigned int cid, unsigned int port)
{
	struct sockaddr_vm vm = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};

	if (!addr || !len)
		return;
	memcpy(addr, &vm, *len < sizeof(vm) ? *len : sizeof(vm));
	*len = sizeof(vm);
}

int socket(int domain, int type, int protocol)
{
	int kind = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (domain != AF_VSOCK)
		return REAL(socket)(domain, type, protocol);
	return own(REAL(socket)(AF_UNIX, type, 0), kind);
}

int bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	static unsigned int next = FIRST_PORT;
	const struct sockaddr_vm *vm = (const void *)addr;
	struct vsock *v = of(fd);

	if (!v)
		return REAL(bind)(fd, addr, len);
	if (vm->svm_cid != VMADDR_CID_ANY && vm->svm_cid != VMADDR_CID_HOST) {
		errno = EADDRNOTAVAIL;
		return -1;
	}
	v->port = vm->svm_port == VMADDR_PORT_ANY ? next++ : vm->svm_port;
	return 0;
}

int listen(int fd, int backlog)
{
	struct vsock *v = of(fd);
	struct sockaddr_un a;

	if (!v)
		return REAL(listen)(fd, backlog);
	socklen_t len = uds_path(&a, v->port, v->type);

	unlink(a.sun_path);
	if (REAL(bind)(fd, (struct sockaddr *)&a, len) < 0 || REAL(listen)(fd, backlog) < 0)
		return -1;
	v->listening = true;
	return 0;
}

int accept(int fd, struct sockaddr *addr, socklen_t *addr_len)
{
	struct vsock *v = of(fd);
	struct sockaddr_un a = {0};
	socklen_t len = sizeof(a);

	if (!v)
		return REAL(accept)(fd, addr, addr_len);
	int new = own(REAL(accept)(fd, (struct sockaddr *)&a, &len), v->type);
	if (new < 0)
		return new;
	struct vsock *n = of(new);
	n->port = v->port;
	/* \0holdfast:<guest_cid>:<guest_port>:... */
	if (sscanf(a.sun_path + 1, "holdfast:%u:%u:", &n->peer_cid, &n->peer_port) != 2)
		fprintf(stderr, "unixvsock: the caller does not say who it is: %s\n", a.sun_path + 1);
	address(addr, addr_len, n->peer_cid, n->peer_port);
	return new;
}

/* "CONNECT <port>", "OK <port>"; what follows OK is left in the socket. A closed socket is a refusal. */
static int shake_hands(int fd, int type, unsigned int port)
{
	char text[64];
	ssize_t n = snprintf(text, sizeof(text), "CONNECT %u\n", port);

	if (send(fd, text, n, MSG_NOSIGNAL) != n)
		return -1;
	for (size_t have = 0; have < sizeof(text) - 1; have++) {
		n = recv(fd, text + have, type == SOCK_STREAM ? 1 : sizeof(text) - 1, 0);
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		if (text[have] == '\n' || type != SOCK_STREAM)
			return strncmp(text, "OK ", 3) == 0 ? 0 : (errno = EPROTO, -1);
	}
	errno = ECONNRESET;
	return -1;
}

int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	const struct sockaddr_vm *vm = (const void *)addr;
	struct vsock *v = of(fd);
	struct sockaddr_un a;

	if (!v)
		return REAL(connect)(fd, addr, len);
	if (vm->svm_cid != (unsigned int)atoi(getenv("HF_CID"))) {
		errno = ENODEV;
		return -1;
	}
	/* A socket of its own for each attempt: a Unix socket connects only once. */
	int new = REAL(socket)(AF_UNIX, v->type | SOCK_CLOEXEC, 0);
	if (new < 0)
		return -1;
	len = uds_path(&a, VMADDR_PORT_ANY, v->type);
	if (REAL(connect)(new, (struct sockaddr *)&a, len) < 0 || shake_hands(new, v->type, vm->svm_port) < 0) {
		int err = errno;

		REAL(close)(new);
		errno = err;
		return -1;
	}
	fcntl(new, F_SETFL, fcntl(fd, F_GETFL));
	dup2(new, fd);
	REAL(close)(new);
	v->peer_cid = vm->svm_cid;
	v->peer_port = vm->svm_port;
	return 0;
}

int close(int fd)
{
	struct vsock *v = of(fd);

	if (v && v->listening) {
		struct sockaddr_un a;

		uds_path(&a, v->port, v->type);
		unlink(a.sun_path);
	}
	if (v)
		*v = (struct vsock){0};
	return REAL(close)(fd);
}

int getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
	struct vsock *v = of(fd);

	if (!v)
		return REAL(getsockname)(fd, addr, len);
	address(addr, len, VMADDR_CID_HOST, v->port);
	return 0;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	struct vsock *v = of(fd);

	if (!v || level != AF_VSOCK || name < 0 || name >= N_OPTIONS || len != sizeof(v->options[0]))
		return REAL(setsockopt)(fd, level, name, value, len);
	memcpy(&v->options[name], value, len);
	return 0;
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	struct vsock *v = of(fd);

	if (!v || level != AF_VSOCK || name < 0 || name >= N_OPTIONS || *len != sizeof(v->options[0]))
		return REAL(getsockopt)(fd, level, name, value, len);
	memcpy(value, &v->options[name], *len);
	return 0;
}

/* It is readable, but not by SO_RCVLOWAT, which recv(2) of a Unix socket heeds and poll(2) does not. */
static bool starves(int fd)
{
	struct pollfd ended = {.fd = fd, .events = POLLRDHUP};
	int lowat, have;
	socklen_t len = sizeof(lowat);

	return of(fd) && !of(fd)->listening && REAL(poll)(&ended, 1, 0) == 0 &&
	       REAL(getsockopt)(fd, SOL_SOCKET, SO_RCVLOWAT, &lowat, &len) == 0 && ioctl(fd, FIONREAD, &have) == 0 && have < lowat;
}

static long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
	for (long long until = now_ms() + timeout;;) {
		long long left = until - now_ms();
		int r = REAL(poll)(fds, n, timeout < 0 ? -1 : left > 0 ? (int)left : 0);
		bool any = false;

		for (nfds_t i = 0; i < n && r > 0; i++) {
			if (!(fds[i].revents & POLLIN) || !starves(fds[i].fd))
				continue;
			fds[i].revents &= ~(POLLIN | POLLRDNORM);
			any |= fds[i].revents == 0 && r-- == 1;
		}
		if (!any)
			return r;
		if (timeout >= 0 && left <= 0)
			return 0;
		usleep(1000);
	}
}
