/* SPDX-License-Identifier: MIT */
/*
 * A stream against a hostile peer, or a hostile record. Byte 0 chooses the setting, byte 1 seeds
 * how the rest is split and what the application does in between.
 */
#include "stream/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DIALS = 1, ADOPT = 2, LOAD = 4, NO_TX = 8, NO_RX = 16, RESETS = 32 };
enum { CAP = 64 };

static uint8_t tx[CAP], rx[CAP], tx2[CAP], rx2[CAP];

/* What must hold after any input. */
static void check(const struct rs *rs)
{
	hf_assert(hf_ring_len(&rs->tx) <= rs->tx.cap && hf_ring_len(&rs->rx) <= rs->rx.cap);
	hf_assert(rs->tx_acked <= rs->tx_base && rs->tx_base <= rs->tx_next);
	hf_assert(rs->tx_next + rs->out_data <= rs_tx_end(rs));
	hf_assert(!rs->rx_end_taken || hf_ring_len(&rs->rx) == 0);
}

static void application(struct rs *rs, unsigned dice)
{
	struct iovec iov[RS_OUTPUT_IOV];
	size_t sum = 0;
	(void)rs_write(rs, "0123456789", dice % 11); /* refused when it is not open */
	if (dice % 5 == 0)
		rs_take(rs, hf_ring_len(&rs->rx) / 2);
	if (dice % 7 == 0)
		rs_take(rs, hf_ring_len(&rs->rx));
	if (rs_readable_end(rs))
		rs_take_end(rs);
	if (dice % 61 == 0)
		rs_end(rs);
	int k = rs_output(rs, iov);
	for (int i = 0; i < k; i++)
		sum += iov[i].iov_len;
	rs_sent(rs, dice % 3 ? sum : sum / 2);
	check(rs);
}

/* The record of any stream that lives is accepted. */
static void move(struct rs *rs)
{
	uint8_t record[512 + 2 * CAP];
	bool spare = rs->tx.buf == tx;
	ssize_t n = rs_save(rs, record, sizeof(record));
	hf_assert(n > 0);
	int r = rs_load(
		rs, record, (size_t)n, spare ? tx2 : tx, rs->tx.cap, spare ? rx2 : rx, rs->rx.cap);
	hf_assert(r == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rs rs;
	if (size < 2)
		return 0;
	unsigned mode = data[0], dice = data[1];
	data += 2;
	size -= 2;
	if (mode & LOAD) {
		if (rs_load(&rs, data, size, tx, CAP, rx, CAP) < 0)
			return 0;
		check(&rs);
		application(&rs, dice);
	} else {
		struct rs_config c = { .dials = mode & DIALS,
			.tx_adopt = (mode & (DIALS | ADOPT)) == ADOPT,
			.tx_buf = tx,
			.tx_cap = mode & NO_TX ? 0 : CAP,
			.rx_buf = rx,
			.rx_cap = mode & NO_RX ? 0 : CAP };
		if (rs_hello_token(data, size, c.token) < 0)
			return 0;
		hf_assert(rs_init(&rs, &c) == 0);
	}
	if (!rs.attached)
		rs_attach(&rs);
	while (size > 0) {
		dice = dice * 1103515245u + 12345u;
		size_t n = HF_MIN(size, (size_t)1 + (dice >> 16) % 80);
		if (rs_input(&rs, data, n) < 0) {
			rs_detach(&rs);
			rs_attach(&rs);
		}
		data += n;
		size -= n;
		application(&rs, dice >> 8 & 0xff);
		if (!(mode & LOAD) && dice >> 24 == 3)
			move(&rs);
		if (mode & RESETS && dice >> 24 == 9)
			rs_reset(&rs, dice);
	}
	return 0;
}
