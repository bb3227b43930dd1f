/* SPDX-License-Identifier: MIT */
#include "holdfast/device.h"
#include "vm_internal.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define LINE_MAX_BYTES (64u << 20) /* an answer with all connections of a VM */

static int receive_line(int fd, struct hf_lines *lines, uint64_t until_us, char **ret_line)
{
	char buf[16384];
	for (;;) {
		int r = hf_lines_next(lines, ret_line);
		if (r != 0)
			return r < 0 ? r : 0;
		ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n == 0)
			return -ECONNRESET;
		if (n > 0)
			r = hf_lines_feed(lines, buf, (size_t)n);
		else if (errno == EAGAIN || errno == EINTR)
			r = fd_wait(fd, POLLIN, until_us);
		else
			r = -errno;
		if (r < 0)
			return r;
	}
}

/* The request as a line, or NULL. */
static char *request_line(const char *request_json)
{
	json_t *request = json_loads(request_json, JSON_REJECT_DUPLICATES, NULL);
	char *text = NULL;
	if (json_object_get(request, "cmd") &&
		json_object_set_new(request, "id", json_integer(1)) == 0)
		text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	char *line = text ? realloc(text, strlen(text) + 2) : NULL;
	if (!line)
		free(text);
	return line ? strcat(line, "\n") : NULL;
}

static int exchange(int fd, const char *line, struct hf_lines *lines, uint64_t until_us,
	char **ret_json, struct hf_err *reterr)
{
	char *answer = NULL;
	int r = unix_send_all(fd, line, strlen(line), NULL, 0, until_us);
	if (r == 0)
		r = receive_line(fd, lines, until_us, &answer);
	if (r < 0)
		return hf_err_set(reterr, r, "no answer: %s", strerror(-r));
	json_t *msg = json_loads(answer, JSON_REJECT_DUPLICATES, NULL);
	r = vm_answer_error(msg, reterr);
	json_decref(msg);
	if (r < 0)
		return r;
	*ret_json = strdup(answer);
	return *ret_json ? 0 : hf_err_set(reterr, -ENOMEM, "no memory");
}

int hf_device_call(const char *control_path, const char *request_json, int patience_ms,
	char **ret_json, struct hf_err *reterr)
{
	HF_CLEANUP(fd_closep) int fd = -1;
	HF_CLEANUP(hf_freep) char *line = request_line(request_json);
	struct hf_lines lines;
	if (!line)
		return hf_err_set(reterr, -EINVAL, "a request is a JSON object with \"cmd\"");
	int r = unix_connect(control_path, &fd);
	if (r < 0)
		return hf_err_set(reterr, r, "control %s: %s%s", control_path, strerror(-r),
			r == -ENOENT || r == -ECONNREFUSED
				? ": is holdfastd running with --control?"
				: "");
	uint64_t until = patience_ms < 0 ? UINT64_MAX : hf_now_us() + (uint64_t)patience_ms * 1000;
	hf_lines_init(&lines, LINE_MAX_BYTES);
	r = exchange(fd, line, &lines, until, ret_json, reterr);
	hf_lines_done(&lines);
	return r < 0 ? hf_err_prefix(reterr, "control %s", control_path) : 0;
}
