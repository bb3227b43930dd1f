/* SPDX-License-Identifier: MIT */
#include "memfile.h"
#include "base/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* syscalls: memfd_create write pread64 lseek fcntl fstat newfstatat */

int dev_memfile_make(const void *buf, size_t len, int *ret_fd)
{
	HF_CLEANUP(fd_closep)
	int fd = memfd_create("holdfast-record", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	int r = fd_write_all(fd, buf, len);
	if (r < 0)
		return r;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0 ||
		lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	*ret_fd = fd_take(&fd);
	return 0;
}

int dev_memfile_read(int fd, size_t max, uint8_t **ret_buf, size_t *ret_len)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode)) /* anything else might make us wait */
		return -EINVAL;
	if (st.st_size > (off_t)max)
		return -EFBIG;
	size_t len = (size_t)st.st_size, got = 0;
	uint8_t *buf = malloc(len + 1);
	if (!buf)
		return -ENOMEM;
	while (got < len) {
		ssize_t n = pread(fd, buf + got, len - got, (off_t)got);
		if (n <= 0) {
			int r = n < 0 ? -errno : -ENODATA;
			free(buf);
			return r;
		}
		got += (size_t)n;
	}
	*ret_buf = buf;
	*ret_len = len;
	return 0;
}
