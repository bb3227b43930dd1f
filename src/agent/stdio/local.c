/* SPDX-License-Identifier: MIT */
#include "local.h"
#include "base/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#define PIPE_SIZE (256u << 10) /* what a process may write before it waits for the agent */

void agt_local_close_theirs(struct agt_local *l)
{
	for (int i = 0; i < 3; i++)
		fd_closep(&l->theirs[i]);
	fd_closep(&l->console);
}

void agt_local_close(struct agt_local *l)
{
	agt_local_close_theirs(l);
	for (int i = 0; i < 3; i++)
		fd_closep(&l->ours[i]);
	fd_closep(&l->master);
}

int agt_local_pipes(struct agt_local *l, const bool want[3])
{
	int r = 0;
	*l = (struct agt_local)AGT_LOCAL_NONE;
	for (int i = 0; r == 0 && i < 3; i++) {
		int fd[2];
		if (!want[i])
			continue;
		if (pipe2(fd, O_CLOEXEC) < 0) {
			r = -errno;
			break;
		}
		l->ours[i] = fd[i == 0]; /* the process reads the first, writes the others */
		l->theirs[i] = fd[i != 0];
		r = fd_set_nonblock(l->ours[i], true);
		if (i != 0)
			(void)fcntl(fd[0], F_SETPIPE_SZ, PIPE_SIZE); /* else as large as usual */
	}
	if (r < 0)
		agt_local_close(l);
	return r;
}

int agt_local_from_master(struct agt_local *l, int master)
{
	int r = fd_set_nonblock(master, true);
	*l = (struct agt_local)AGT_LOCAL_NONE;
	l->master = master;
	for (int i = 0; r == 0 && i < 2; i++) {
		l->ours[i] = fcntl(master, F_DUPFD_CLOEXEC, 3);
		if (l->ours[i] < 0)
			r = -errno;
	}
	if (r < 0)
		agt_local_close(l);
	return r;
}

int agt_local_terminal(struct agt_local *l)
{
	HF_CLEANUP(fd_closep) int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	HF_CLEANUP(fd_closep) int slave = -1;
	int unlocked = 0;
	if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) < 0)
		return -errno;
	slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		return -errno;
	int r = agt_local_from_master(l, fd_take(&master));
	if (r == 0)
		l->console = fd_take(&slave);
	return r;
}

int agt_terminal_resize(int master, uint16_t rows, uint16_t cols)
{
	struct winsize size = { .ws_row = rows, .ws_col = cols };
	return ioctl(master, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}
