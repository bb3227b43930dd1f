/* SPDX-License-Identifier: MIT */
#include "map.h"
#include "base/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* syscalls: fstat newfstatat mmap(2!PROT_EXEC) munmap rt_sigaction fcntl */

/* Written outside of the handler only, which runs in the one thread that touches the maps. */
static struct map {
	uint8_t *p; /* NULL: free */
	size_t size;
	int fd; /* of the file, our own */
	uint64_t offset;
	volatile sig_atomic_t lost;
} maps[DEV_MAPS_MAX];
static size_t n_maps; /* slots that were ever in use */
static volatile sig_atomic_t n_lost;

static struct map *find(const void *p)
{
	for (size_t i = 0; i < n_maps; i++)
		if (maps[i].p && (const uint8_t *)p >= maps[i].p &&
			(const uint8_t *)p < maps[i].p + maps[i].size)
			return &maps[i];
	return NULL;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context; /* the address is all we need */
	struct map *m = find(info->si_addr);
	if (m && !m->lost &&
		mmap(m->p, m->size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
			0) != MAP_FAILED) {
		m->lost = 1;
		n_lost = n_lost + 1;
		return;
	}
	(void)signal(sig, SIG_DFL); /* not ours: the instruction runs again and ends the process */
}

int dev_map_setup(void)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	return sigaction(SIGBUS, &sa, NULL) < 0 ? -errno : 0;
}

int dev_map(int fd, uint64_t offset, uint64_t size, void **ret_p)
{
	struct stat st;
	size_t i = 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (size == 0 || size > (uint64_t)st.st_size || offset > (uint64_t)st.st_size - size)
		return -EINVAL;
	while (i < n_maps && maps[i].p)
		i++;
	if (i == DEV_MAPS_MAX)
		return -ENOSPC;
	HF_CLEANUP(fd_closep) int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	void *p = own < 0 ? MAP_FAILED
			  : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
				    own, (off_t)offset);
	if (p == MAP_FAILED)
		return -errno;
	maps[i] = (struct map){ .p = p, .size = size, .fd = fd_take(&own), .offset = offset };
	n_maps = HF_MAX(n_maps, i + 1);
	*ret_p = p;
	return 0;
}

void dev_unmap(void *p)
{
	struct map *m = p ? find(p) : NULL;
	if (!m)
		return;
	(void)munmap(m->p, m->size); /* fails only for what is not mapped */
	fd_closep(&m->fd);
	*m = (struct map){ 0 };
}

bool dev_map_file(const void *p, struct dev_map_file *ret_file)
{
	const struct map *m = p ? find(p) : NULL;
	if (!m)
		return false;
	*ret_file = (struct dev_map_file){ m->fd, m->offset, m->size };
	return true;
}

size_t dev_maps_lost(void)
{
	return (size_t)n_lost;
}

bool dev_map_lost(const void *p)
{
	const struct map *m = p ? find(p) : NULL;
	return m && m->lost;
}
