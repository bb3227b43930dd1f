/* SPDX-License-Identifier: MIT */
/*
 * What somebody has written for holdfastd. The first byte says what the rest is: '-' words of the
 * command line, one a line; '=' the value of --vm; otherwise all of it is a configuration file.
 */
#include "device/options.h"
#include "base/base.h"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORDS 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct dev_options o;

/* What main() relies on without asking again. */
static void check_vm(const struct dev_vm_options *vm)
{
	uint32_t cid = dev_options_cid(vm);
	hf_assert(cid > 2 && cid != UINT32_MAX && vm->guest_cid > 2 && vm->guest_cid != UINT32_MAX);
	hf_assert(strlen(vm->name) - 1 < DEV_NAME_MAX && !strpbrk(vm->name, "/ \n"));
	hf_assert((vm->fd >= 3) == (vm->socket[0] == '\0'));
	hf_assert(vm->uds_path[0] != '\0' || vm->forward.cid != 0);
	hf_assert(strnlen(vm->socket, sizeof(vm->socket)) <= DEV_PATH_MAX);
	hf_assert(strnlen(vm->uds_path, sizeof(vm->uds_path)) <= DEV_UDS_PATH_MAX);
	hf_assert(
		vm->tx_buffer_size >= DEV_TX_BUFFER_MIN && vm->tx_buffer_size <= DEV_TX_BUFFER_MAX);
	hf_assert(vm->queue_size > 0 && vm->queue_size <= DEV_QUEUE_SIZE_MAX &&
		  (vm->queue_size & (vm->queue_size - 1)) == 0);
	hf_assert(vm->guard.mode <= 0777 && vm->guard.n_uids <= DEV_UIDS_MAX);
	hf_assert(vm->guard.guest_ports.n <= DEV_PORT_RANGES_MAX &&
		  vm->guard.host_ports.n <= DEV_PORT_RANGES_MAX);
	hf_assert(vm->forward.n_listen <= DEV_FORWARDS_MAX);
	hf_assert(vm->given_len <= sizeof(vm->given));
	hf_assert(dev_options_share_group(vm, vm) == (vm->groups[0] != '\0'));
}

static void check(void)
{
	struct hf_err err;
	hf_assert(o.n_vms <= DEV_VMS_MAX && o.n_sandbox_dirs <= DEV_SANDBOX_DIRS);
	if (o.action != DEV_RUN)
		return;
	hf_assert(o.n_vms > 0 || o.control[0] != '\0');
	for (size_t i = 0; i < o.n_vms; i++) {
		check_vm(&o.vm[i]);
		for (size_t j = 0; j < i; j++)
			hf_assert(dev_options_clash(&o.vm[i], &o.vm[j], &err) == 0);
	}
}

static void parse(int argc, char **argv)
{
	struct hf_err err = { 0 };
	int r = dev_options_parse(&o, argc, argv, &err);
	hf_assert(r <= 0);
	if (r == 0)
		check();
	else
		hf_assert(err.text[0] != '\0' && strlen(err.text) < sizeof(err.text));
}

static void file(const uint8_t *data, size_t size)
{
	char path[32];
	int fd = memfd_create("config", MFD_CLOEXEC);
	hf_assert(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	char *argv[] = { (char *)"holdfastd", (char *)"--config", path, NULL };
	parse(3, argv);
	for (size_t i = 0; i < o.n_sandbox_dirs; i++)
		free((void *)o.sandbox_dir[i]);
	(void)close(fd); /* was only read */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0 || (data[0] != '-' && data[0] != '=')) {
		file(data, size);
		return 0;
	}
	char *text = strndup((const char *)data + 1, size - 1);
	char *argv[WORDS + 1] = { (char *)"holdfastd", (char *)"--vm", text, NULL };
	int argc = 3;
	hf_assert(text != NULL);
	if (data[0] == '-') {
		char *next = text;
		for (argc = 1; next && argc < WORDS; argc++)
			argv[argc] = strsep(&next, "\n");
		argv[argc] = NULL;
		for (int i = 0; i < argc; i++)
			if (strncmp(argv[i], "--c", 3) == 0)
				argv[i][2] = 'x'; /* no file of this machine is read */
	}
	parse(argc, argv);
	free(text);
	return 0;
}
