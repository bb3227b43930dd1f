/* SPDX-License-Identifier: MIT */
/*
 * A link against a hostile peer. Byte 0 chooses the end, byte 1 seeds how the rest is split and
 * what happens in between. Three streams: two that this end dials, one that it accepts.
 */
#include "stream/mux.h"
#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STREAMS = 3, CAP = 64 };

static struct rs_mux mux;
static struct rs_chan chan[STREAMS];
static uint8_t tx[STREAMS][CAP], rx[STREAMS][CAP];

static void set_up(bool dials)
{
	static const uint8_t self[RS_TOKEN_SIZE] = "fuzz";
	while (rs_mux_any(&mux))
		rs_mux_unbind(&mux, rs_mux_any(&mux));
	rs_mux_init(&mux, dials, self);
	for (int i = 0; i < STREAMS; i++) {
		struct rs_config c = { .token = { (uint8_t)('A' + i) },
			.dials = i < 2,
			.tx_buf = tx[i],
			.tx_cap = CAP,
			.rx_buf = rx[i],
			.rx_cap = CAP };
		chan[i] = (struct rs_chan){ 0 };
		int r = rs_init(&chan[i].rs, &c);
		if (r == 0 && c.dials)
			r = rs_mux_open(&mux, &chan[i]);
		hf_assert(r == 0);
	}
	chan[1].ask = (const uint8_t *)"please";
	chan[1].ask_len = 6;
}

static void application(unsigned dice)
{
	struct rs_chan *c = &chan[dice % STREAMS];
	struct iovec iov[RS_MUX_OUTPUT_IOV];
	size_t sum = 0;
	(void)rs_write(&c->rs, "0123456789", dice % 11); /* refused when it is not open */
	if (dice % 5 == 0)
		rs_take(&c->rs, hf_ring_len(&c->rs.rx));
	if (rs_readable_end(&c->rs))
		rs_take_end(&c->rs);
	if (dice % 61 == 0)
		rs_end(&c->rs);
	if (dice % 97 == 0)
		rs_reset(&c->rs, 1);
	if (dice % 41 == 0) {
		rs_mux_unbind(&mux, c);
		if (c != &chan[2])
			(void)rs_mux_open(&mux, c); /* numbers are not used up here */
	}
	rs_mux_wake(&mux, c);
	int k = rs_mux_output(&mux, iov);
	for (int i = 0; i < k; i++)
		sum += iov[i].iov_len;
	(void)rs_mux_sent(&mux, dice % 3 ? sum : sum / 2); /* whose frame it was does not matter */
	hf_assert(mux.n_chans <= STREAMS && mux.n_refusals <= RS_MUX_REFUSALS_MAX);
}

static int on_event(const struct rs_mux_ev *ev)
{
	if (ev->kind != RS_MUX_HELLO)
		return 0;
	if (ev->token[0] == 'C') {
		rs_mux_unbind(&mux, &chan[2]);
		return rs_mux_accept(&mux, &chan[2], ev->id);
	}
	rs_mux_refuse(&mux, ev->id, ev->token);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	unsigned dice = data[1];
	set_up(data[0] & 1);
	for (size_t at = 2; at < size;) {
		struct rs_mux_ev ev;
		dice = dice * 1103515245 + 12345;
		size_t n = HF_MIN(size - at, (size_t)(dice >> 16) % 70 + 1);
		ssize_t k = rs_mux_input(&mux, data + at, n, &ev);
		if (k < 0 || on_event(&ev) < 0)
			break;
		at += (size_t)k;
		application(dice >> 8);
	}
	return 0;
}
