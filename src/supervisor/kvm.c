/* SPDX-License-Identifier: MIT */
/*
 * kvm.c - whether KVM works here. A machine may have /dev/kvm and create VMs and still run none
 * (a sandbox without virtualisation extensions), so one instruction is really executed, in a child
 * that is killed when it hangs.
 */
#include "base/fd.h"
#include "spec.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PROBE_SECONDS 2

static bool cpu_has_extensions(void)
{
	char line[8192];
	bool found = false;
	FILE *f = fopen("/proc/cpuinfo", "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = !strncmp(line, "flags", 5) &&
			(strstr(line, " vmx") || strstr(line, " svm"));
	if (f)
		(void)fclose(f); /* only read */
	return found;
}

/* Runs `hlt` in real mode at address 0; 0, or the step that failed. */
static int run_one_instruction(void)
{
	HF_CLEANUP(fd_closep) int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	HF_CLEANUP(fd_closep) int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return 1;
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return 2;
	page[0] = 0xf4; /* hlt */
	struct kvm_userspace_memory_region region = { .memory_size = 4096,
		.userspace_addr = (uintptr_t)page };
	HF_CLEANUP(fd_closep) int vcpu = -1;
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0)
		vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0 || size < (int)sizeof(struct kvm_run))
		return 3;
	struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rflags = 2 };
	if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return 4;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
		return 5;
	if (ioctl(vcpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_HLT)
		return 6;
	return 0;
}

int spec_kvm_probe(struct hf_err *reterr)
{
	int status = 0;
	if (!cpu_has_extensions())
		return hf_err_set(reterr, -ENOTSUP, "kvm: the CPU shows neither vmx nor svm");
	pid_t pid = fork();
	if (pid < 0)
		return hf_err_set(reterr, -errno, "kvm: fork: %s", strerror(errno));
	if (pid == 0) {
		(void)alarm(PROBE_SECONDS); /* a KVM that hangs counts as none */
		_exit(run_one_instruction());
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return hf_err_set(reterr, -ENOTSUP, "kvm: a guest does not run here (step %d)",
			WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	return 0;
}
