/* SPDX-License-Identifier: MIT */
#include "crypt.h"
#include "agent/proc/worker.h"
#include "base/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define KEY_SIZE "64" /* bytes; all of them random, so its derivation need not be slow */

/* A key in memory that cryptsetup inherits. */
static int make_key(char *path, size_t cap, struct hf_err *reterr)
{
	uint8_t key[64];
	HF_CLEANUP(fd_closep) int fd = memfd_create("key", 0);
	int r = fd < 0 ? -errno : 0;
	if (r == 0 && getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key))
		r = -EIO;
	if (r == 0)
		r = fd_write_all(fd, key, sizeof(key));
	explicit_bzero(key, sizeof(key));
	if (r < 0)
		return hf_err_set(reterr, r, "Encrypted: no key: %s", strerror(-r));
	(void)snprintf(path, cap, "/proc/self/fd/%d", fd);
	return fd_take(&fd);
}

static int write_head(const char *name, struct hf_err *reterr)
{
	static const uint8_t zeros[65536];
	char path[AGT_CRYPT_NAME_MAX + 16];
	(void)snprintf(path, sizeof(path), "/dev/mapper/%s", name);
	HF_CLEANUP(fd_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : fd_write_all(fd, zeros, sizeof(zeros));
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r < 0 ? hf_err_set(reterr, r, "%s: %s", path, strerror(-r)) : 0;
}

int agt_crypt_open(const char *device, const char *name, struct hf_err *reterr)
{
	char key[40];
	HF_CLEANUP(fd_closep) int fd = make_key(key, sizeof(key), reterr);
	const char *format[] = { "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2",
		"--cipher", "aes-xts-plain64", "--integrity", "hmac-sha256", "--integrity-no-wipe",
		"--sector-size", "4096", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--key-file", key, "--keyfile-size", KEY_SIZE, device, NULL };
	const char *unlock[] = { "cryptsetup", "open", "--type", "luks2", "--integrity-no-journal",
		"--key-file", key, "--keyfile-size", KEY_SIZE, device, name, NULL };
	if (fd < 0)
		return fd;
	int r = agt_work_run(format, reterr);
	if (r == 0)
		r = agt_work_run(unlock, reterr);
	if (r == 0) {
		r = write_head(name, reterr);
		if (r < 0)
			(void)agt_crypt_close(name, NULL); /* the first error is the one to tell */
	}
	return r < 0 ? hf_err_prefix(reterr, "Encrypted: %s", device) : 0;
}

int agt_crypt_close(const char *name, struct hf_err *reterr)
{
	char path[AGT_CRYPT_NAME_MAX + 16];
	const char *close[] = { "cryptsetup", "close", name, NULL };
	(void)snprintf(path, sizeof(path), "/dev/mapper/%s", name);
	if (access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	int r = agt_work_run(close, reterr);
	return r < 0 ? hf_err_prefix(reterr, "Encrypted: %s", name) : 0;
}
