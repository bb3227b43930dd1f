/* SPDX-License-Identifier: MIT */
#include "spec.h"
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const accels[SPEC_ACCEL_N_] = { "auto", "tcg", "kvm" };

const char *spec_accel_name(enum spec_accel accel)
{
	return accel < SPEC_ACCEL_N_ ? accels[accel] : "?";
}

/* The parts, with their places relative to the folder of the program: in the build folder, and
 * installed. */
static const struct part {
	const char *key, *env, *built, *installed;
	size_t offset;
} parts[] = {
	{ "device", "HOLDFAST_DEVICE", "../device/holdfastd", "holdfastd",
		offsetof(struct spec, device) },
	{ "module", "HOLDFAST_MODULE", "../../qemu/holdfast-qemu.so",
		"../lib/holdfast/holdfast-qemu.so", offsetof(struct spec, module) },
	{ "kernel", "HOLDFAST_KERNEL", "../../image/vmlinuz", "../share/holdfast/vmlinuz",
		offsetof(struct spec, kernel) },
	{ "initrd", "HOLDFAST_INITRD", "../../image/initramfs", "../share/holdfast/initramfs",
		offsetof(struct spec, initrd) },
};

/* The environment's, else the first of the two default places that exists, else the built one. */
static void find_part(const struct part *p, char path[SPEC_PATH_MAX])
{
	char self[PATH_MAX], place[2 * PATH_MAX], real[PATH_MAX];
	const char *env = getenv(p->env);
	if (env && *env) {
		(void)snprintf(path, SPEC_PATH_MAX, "%s", env);
		return;
	}
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n > 0 ? n : 0] = '\0';
	char *slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	const char *const places[] = { p->built, p->installed };
	for (size_t i = 0; i < HF_ARRAY_SIZE(places); i++) {
		(void)snprintf(place, sizeof(place), "%s/%s", self, places[i]);
		if (access(place, R_OK) == 0 && realpath(place, real)) {
			(void)snprintf(path, SPEC_PATH_MAX, "%s", real);
			return;
		}
	}
	(void)snprintf(path, SPEC_PATH_MAX, "%s/%s", self, p->built);
}

static int take_number(const char *key, json_t *v, unsigned min, unsigned max, unsigned *ret,
	struct hf_err *reterr)
{
	json_int_t n = json_integer_value(v);
	if (!json_is_integer(v) || n < min || n > max)
		return hf_err_set(
			reterr, -EINVAL, "%s: give a number from %u to %u", key, min, max);
	*ret = (unsigned)n;
	return 0;
}

static int take_text(const char *key, json_t *v, char *ret, size_t cap, struct hf_err *reterr)
{
	const char *text = json_string_value(v);
	if (!text || strlen(text) >= cap)
		return hf_err_set(
			reterr, -EINVAL, "%s: give a text of at most %zu bytes", key, cap - 1);
	(void)snprintf(ret, cap, "%s", text);
	return 0;
}

static int take_accel(json_t *v, enum spec_accel *ret, struct hf_err *reterr)
{
	const char *text = json_string_value(v);
	for (int i = 0; text && i < SPEC_ACCEL_N_; i++)
		if (!strcmp(text, accels[i])) {
			*ret = (enum spec_accel)i;
			return 0;
		}
	return hf_err_set(reterr, -EINVAL, "accel: give auto, tcg or kvm");
}

static int take_state(json_t *v, char *ret, size_t cap, struct hf_err *reterr)
{
	const char *text = json_string_value(v);
	if (!text || (strcmp(text, "auto") && strcmp(text, "stream") && strcmp(text, "beside")))
		return hf_err_set(reterr, -EINVAL, "state: give auto, stream or beside");
	(void)snprintf(ret, cap, "%s", text);
	return 0;
}

static int take(struct spec *s, const char *key, json_t *v, struct hf_err *reterr)
{
	if (!strcmp(key, "memory"))
		return take_number(key, v, 64, 1048576, &s->memory_mib, reterr);
	if (!strcmp(key, "cpus"))
		return take_number(key, v, 1, 64, &s->cpus, reterr);
	if (!strcmp(key, "cid"))
		return take_number(key, v, 3, UINT32_MAX - 1, &s->cid, reterr);
	if (!strcmp(key, "outer_cid"))
		return take_number(key, v, 0, UINT32_MAX - 1, &s->outer_cid, reterr);
	if (!strcmp(key, "log-max"))
		return take_number(key, v, 1, 1048576, &s->log_max_mib, reterr);
	if (!strcmp(key, "accel"))
		return take_accel(v, &s->accel, reterr);
	if (!strcmp(key, "qemu"))
		return take_text(key, v, s->qemu, sizeof(s->qemu), reterr);
	if (!strcmp(key, "state"))
		return take_state(v, s->state, sizeof(s->state), reterr);
	if (!strcmp(key, "append"))
		return take_text(key, v, s->append, sizeof(s->append), reterr);
	for (size_t i = 0; i < HF_ARRAY_SIZE(parts); i++)
		if (!strcmp(key, parts[i].key))
			return take_text(
				key, v, (char *)s + parts[i].offset, SPEC_PATH_MAX, reterr);
	return hf_err_set(reterr, -EINVAL, "%.40s: a VM has no such setting", key);
}

int spec_parse(struct spec *s, json_t *config, struct hf_err *reterr)
{
	const char *key, *qemu = getenv("HOLDFAST_QEMU");
	json_t *v;
	*s = (struct spec){
		.memory_mib = 512, .cpus = 1, .cid = 4, .log_max_mib = 64, .state = "auto"
	};
	(void)snprintf(s->qemu, sizeof(s->qemu), "%s", qemu && *qemu ? qemu : "qemu-system-x86_64");
	for (size_t i = 0; i < HF_ARRAY_SIZE(parts); i++)
		find_part(&parts[i], (char *)s + parts[i].offset);
	json_object_foreach (config, key, v) {
		int r = take(s, key, v, reterr);
		if (r < 0)
			return r;
	}
	return 0;
}

json_t *spec_json(const struct spec *s)
{
	return json_pack("{s:i, s:i, s:I, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i}",
		"memory", s->memory_mib, "cpus", s->cpus, "cid", (json_int_t)s->cid, "outer_cid",
		(json_int_t)s->outer_cid, "accel", accels[s->accel], "qemu", s->qemu, "device",
		s->device, "module", s->module, "kernel", s->kernel, "initrd", s->initrd, "append",
		s->append, "state", s->state, "log-max", s->log_max_mib);
}

int spec_check_parts(const struct spec *s, struct hf_err *reterr)
{
	for (size_t i = 0; i < HF_ARRAY_SIZE(parts); i++) {
		const char *path = (const char *)s + parts[i].offset;
		if (access(path, R_OK) < 0)
			return hf_err_set(reterr, -errno,
				"%s: %.120s: %s; build it, or give another by --%s or in %s",
				parts[i].key, path, strerror(errno), parts[i].key, parts[i].env);
	}
	return 0;
}

void spec_arg(struct spec_args *a, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	char *text = NULL;
	if (a->n == SPEC_ARGS_MAX || vasprintf(&text, fmt, ap) < 0)
		a->failed = true;
	else
		a->v[a->n++] = text;
	va_end(ap);
}

void spec_args_done(struct spec_args *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
	*a = (struct spec_args){ 0 };
}

/* A flag and its value. */
#define ARG2(a, flag, ...)                                                                         \
	do {                                                                                       \
		spec_arg((a), "%s", flag);                                                         \
		spec_arg((a), __VA_ARGS__);                                                        \
	} while (0)

void spec_qemu_args(const struct spec *s, const struct spec_launch *l, struct spec_args *a)
{
	bool kvm = s->accel == SPEC_KVM;
	spec_arg(a, "%s", s->qemu);
	ARG2(a, "-name", "holdfast,debug-threads=on");
	ARG2(a, "-machine", "q35,accel=%s,memory-backend=ram", kvm ? "kvm" : "tcg");
	ARG2(a, "-cpu", "%s", kvm ? "host" : "max");
	if (!kvm) /* under KVM the module comes by LD_PRELOAD: QEMU has plugins for TCG only */
		ARG2(a, "-plugin", "%s,mode=%s,state=%s", s->module, l->mode, s->state);
	ARG2(a, "-m", "%uM", s->memory_mib);
	ARG2(a, "-smp", "%u", s->cpus);
	/* The back end maps the guest's memory: it must be shared. */
	ARG2(a, "-object", "memory-backend-memfd,id=ram,size=%uM,share=on", s->memory_mib);
	spec_arg(a, "-no-user-config");
	spec_arg(a, "-nodefaults");
	ARG2(a, "-display", "none");
	ARG2(a, "-chardev", "file,id=console,path=%s/console.log,append=on", l->dir);
	ARG2(a, "-serial", "chardev:console");
	ARG2(a, "-chardev", "socket,id=vsock,path=%s/device.sock", l->dir);
	ARG2(a, "-device", "vhost-user-vsock-pci,id=vsock0,chardev=vsock");
	ARG2(a, "-qmp", "unix:%s/qmp.sock,server=on,wait=off", l->dir);
	ARG2(a, "-kernel", "%s", s->kernel);
	ARG2(a, "-initrd", "%s", s->initrd);
	/* A panic reboots at once: the new instance dials, and everybody is told. */
	ARG2(a, "-append", "console=ttyS0 quiet panic=-1%s%s", *s->append ? " " : "", s->append);
	if (l->incoming)
		ARG2(a, "-incoming", "defer");
}

void spec_device_args(const struct spec *s, const struct spec_launch *l, struct spec_args *a)
{
	char outer[32] = "";
	if (s->outer_cid)
		(void)snprintf(outer, sizeof(outer), ",outer-cid=%u", s->outer_cid); /* fits */
	spec_arg(a, "%s", s->device);
	ARG2(a, "--vm", "name=vm,guest-cid=%u%s,socket=%s/device.sock,uds-path=%s/vsock", s->cid,
		outer, l->dir, l->dir);
	ARG2(a, "--control", "%s/device-control.sock", l->dir);
	/* It may outlive us and the VM, for the sake of relays: the name is its own. */
	ARG2(a, "--link", "unix:%s/link.%d", l->dir, (int)getpid());
}
