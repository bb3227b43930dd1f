/* SPDX-License-Identifier: MIT */
/* local.h - the local side of standard streams: pipes, or a terminal. */
#ifndef AGT_STDIO_LOCAL_H
#define AGT_STDIO_LOCAL_H

#include "base/base.h"

struct agt_local {
	int ours[3];   /* non-blocking; -1: none */
	int theirs[3]; /* to be given to the process, then closed; -1: /dev/null */
	int console;   /* terminal: the slave for the process, else -1 */
	int master;    /* terminal: for resizing, else -1 */
};

#define AGT_LOCAL_NONE                                                                             \
	{                                                                                          \
		{ -1, -1, -1 }, { -1, -1, -1 }, -1, -1                                             \
	}

/* A pipe for each wanted stream. 0 or -errno; on failure nothing is open. */
int agt_local_pipes(struct agt_local *l, const bool want[3]);

/* A new terminal: ours[0] and ours[1] are its master. */
int agt_local_terminal(struct agt_local *l);

/* The same from a master that came from elsewhere; takes it in any case. */
int agt_local_from_master(struct agt_local *l, int master);

void agt_local_close_theirs(struct agt_local *l);
void agt_local_close(struct agt_local *l); /* all of it */

int agt_terminal_resize(int master, uint16_t rows, uint16_t cols);

#endif
