/* SPDX-License-Identifier: MIT */
#include "mux.h"
#include "frame.h"
#include <errno.h>

void brg_mux_init(struct brg_mux *m, void *buf, size_t cap)
{
	*m = (struct brg_mux){ 0 };
	hf_ring_init(&m->ring, buf, cap);
}

size_t brg_mux_room(const struct brg_mux *m)
{
	return hf_ring_room(&m->ring);
}

int brg_mux_put(struct brg_mux *m, uint32_t type, uint64_t id, const void *payload, size_t len)
{
	uint8_t header[BRG_HEADER];
	size_t room = hf_ring_room(&m->ring);
	if (room < BRG_HEADER || len > room - BRG_HEADER)
		return -ENOSPC;
	brg_header_write(header, type, id, (uint32_t)len);
	(void)hf_ring_put(&m->ring, header, sizeof(header)); /* there is room for both */
	(void)hf_ring_put(&m->ring, payload, len);
	m->frames++;
	return 0;
}

int brg_mux_out(const struct brg_mux *m, struct iovec iov[2])
{
	return hf_ring_read_iov(&m->ring, iov);
}

void brg_mux_written(struct brg_mux *m, size_t n)
{
	hf_ring_consumed(&m->ring, n);
	m->bytes += n;
}
