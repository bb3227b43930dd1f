/* SPDX-License-Identifier: MIT */
/*
 * stream.c - one end of a resumable stream (docs/stream.md).
 *
 * Sending. The tx ring keeps every byte from the peer's acknowledgement to the last written.
 * tx_next walks through it and counts what the transport took; on a new connection it goes back to
 * what really arrived. One thing is on its way out at a time: up to RS_HELLO_SIZE bytes in `out` (a
 * hello, or an ACK and the next header) and then out_data bytes of the ring from tx_next on. The
 * peer cannot acknowledge what was not sent, so a frame half sent keeps its bytes.
 *
 * Receiving. A head (hello or frame header) is collected in `in`, payload goes to the rx ring
 * directly. A DATA header is admitted only when its bytes are the next ones and have a place in the
 * ring, which is what was granted; so input never stalls.
 *
 * Ending. See "The end of a stream" in docs/stream.md: the accepting end is over when its last word
 * (FIN, RESET) is sent, the dialling end when it has heard it.
 */
#include "stream.h"
#include "base/bytes.h"
#include "stream_internal.h"
#include <errno.h>

enum rs_frame {
	FRAME_DATA = 1,
	FRAME_ACK,
	FRAME_END,
	FRAME_RESET,
	FRAME_FIN,
};

enum { HELLO_OK, HELLO_UNKNOWN };
#define HELLO_END_TAKEN 1u
#define ACK_END_TAKEN   1u

static const uint8_t hello_magic[4] = { 'H', 'F', 'S', '1' };

static uint64_t rx_expected(const struct rs *rs)
{
	return rs->rx_taken + hf_ring_len(&rs->rx);
}

static bool out_is_sent(const struct rs *rs)
{
	return rs->out_pos == rs->out_len && rs->out_data == 0;
}

static bool is_ring_size(size_t cap)
{
	return (cap & (cap - 1)) == 0 && cap <= RS_WINDOW_MAX;
}

int rs_init(struct rs *rs, const struct rs_config *config)
{
	if (!is_ring_size(config->tx_cap) || !is_ring_size(config->rx_cap) ||
		config->rx_start > RS_OFFSET_MAX || config->tx_start > RS_OFFSET_MAX ||
		config->tx_kept > config->tx_cap || (config->dials && config->tx_adopt))
		return -EINVAL;
	*rs = (struct rs){
		.dials = config->dials,
		.tx_adopt = config->tx_adopt && config->tx_cap > 0,
		.tx_ended = config->tx_cap == 0 || config->tx_ended,
		.tx_end_sent = config->tx_cap == 0 || config->tx_ended, /* by a predecessor */
		.tx_base = config->tx_start,
		.tx_acked = config->tx_start,
		.tx_next = config->tx_start + config->tx_kept, /* sent by a predecessor, perhaps */
		.rx_taken = config->rx_start,
		.rx_ended = config->rx_end_taken,
		.rx_end_taken = config->rx_end_taken,
	};
	memcpy(rs->token, config->token, RS_TOKEN_SIZE);
	hf_ring_init(&rs->tx, config->tx_buf, config->tx_cap);
	hf_ring_init(&rs->rx, config->rx_buf, config->rx_cap);
	rs->tx.head = (size_t)config->tx_start;
	rs->tx.tail = rs->tx.head + config->tx_kept;
	return 0;
}

/* --- hello --- */

static void hello_write(uint8_t *h, const uint8_t *token, uint16_t status)
{
	memset(h, 0, RS_HELLO_SIZE);
	memcpy(h, hello_magic, sizeof(hello_magic));
	le16_to(h + 4, RS_VERSION);
	le16_to(h + 6, status);
	memcpy(h + 8, token, RS_TOKEN_SIZE);
}

void rs_hello_unknown(const uint8_t token[RS_TOKEN_SIZE], uint8_t ret_hello[RS_HELLO_SIZE])
{
	hello_write(ret_hello, token, HELLO_UNKNOWN);
}

int rs_hello_token(const uint8_t *data, size_t n, uint8_t ret_token[RS_TOKEN_SIZE])
{
	if (memcmp(data, hello_magic, HF_MIN(n, sizeof(hello_magic))) != 0)
		return -EPROTO;
	if (n < RS_HELLO_SIZE)
		return -EAGAIN;
	if (le16_at(data + 4) != RS_VERSION)
		return -EPROTO;
	memcpy(ret_token, data + 8, RS_TOKEN_SIZE);
	return 0;
}

/* Whether the peer can have taken what it says it has taken. */
static bool tx_is_plausible(const struct rs *rs, uint64_t taken, bool end)
{
	if (taken < rs->tx_acked || taken > rs->tx_next)
		return false;
	return !end || (rs->tx_end_sent && taken == rs_tx_end(rs));
}

static void tx_acknowledged(struct rs *rs, uint64_t taken)
{
	rs->tx_acked = taken;
	if (taken > rs->tx_base) {
		hf_ring_consumed(&rs->tx, (size_t)(taken - rs->tx_base));
		rs->tx_base = taken;
	}
}

/* Sends from where the peer is: what it has received but not taken came from a predecessor. */
static void tx_adopt(struct rs *rs, uint64_t taken, uint64_t received, bool end)
{
	rs->tx_adopt = false;
	rs->tx_acked = taken;
	rs->tx_base = rs->tx_next = received;
	if (end)
		rs->tx_ended = rs->tx_end_sent = true;
}

static int input_hello(struct rs *rs, const uint8_t *h)
{
	uint16_t status = le16_at(h + 6);
	uint64_t taken = le64_at(h + 24), received = le64_at(h + 32);
	uint32_t flags = le32_at(h + 44);
	bool end = flags & HELLO_END_TAKEN;
	if (memcmp(h, hello_magic, sizeof(hello_magic)) != 0 || le16_at(h + 4) != RS_VERSION ||
		memcmp(h + 8, rs->token, RS_TOKEN_SIZE) != 0)
		return -EPROTO;
	if (status > HELLO_UNKNOWN || (flags & ~HELLO_END_TAKEN) != 0 || received > RS_OFFSET_MAX ||
		received < taken)
		return -EPROTO;
	if (status == HELLO_UNKNOWN) {
		if (!rs->dials)
			return -EPROTO;
		rs->bye_in = true;
		if (rs->state == RS_OPEN)
			rs->state = rs_done(rs) ? RS_FINISHED : RS_UNKNOWN;
		return 0;
	}
	rs->hello_in = true;
	if (rs->state != RS_OPEN)
		return 0;
	if (rs->tx_adopt)
		tx_adopt(rs, taken, received, end);
	if (!tx_is_plausible(rs, taken, end) || received < rs->tx_base || received > rs->tx_next) {
		rs->state = RS_GAP;
		rs->reset_code = RS_CODE_GAP;
		return 0;
	}
	tx_acknowledged(rs, taken);
	rs->tx_end_acked = end;
	rs->tx_next = received;
	rs->tx_window = le32_at(h + 40);
	return 0;
}

/* --- frames in --- */

/* All frames but DATA carry no payload; what they do not use is zero. */
static bool is_well_formed(const uint8_t *h)
{
	uint8_t type = h[0];
	uint32_t len = le32_at(h + 4);
	uint64_t offset = le64_at(h + 8);
	if (h[1] > (type == FRAME_ACK ? ACK_END_TAKEN : 0) || h[2] != 0 || h[3] != 0)
		return false;
	switch (type) {
	case FRAME_DATA:
		return len >= 1 && len <= RS_DATA_MAX && offset <= RS_OFFSET_MAX;
	case FRAME_ACK:
	case FRAME_END:
		return len == 0;
	case FRAME_RESET:
		return offset == 0;
	case FRAME_FIN:
		return offset == 0 && len == 0;
	}
	return false;
}

static int input_data(struct rs *rs, uint64_t offset, uint32_t len)
{
	if (rs->state == RS_OPEN &&
		(offset != rx_expected(rs) || len > hf_ring_room(&rs->rx) || rs->rx_ended))
		return -EPROTO;
	rs->in_data = len;
	return 0;
}

static int input_ack(struct rs *rs, uint64_t offset, bool end)
{
	if (!tx_is_plausible(rs, offset, end))
		return -EPROTO;
	tx_acknowledged(rs, offset);
	rs->tx_end_acked |= end;
	return 0;
}

static int input_end(struct rs *rs, uint64_t offset)
{
	if (offset != rx_expected(rs))
		return -EPROTO;
	rs->rx_ended = true;
	if (rs->rx.cap == 0)
		rs->rx_end_taken = true;
	return 0;
}

static int input_fin(struct rs *rs)
{
	if (rs->state == RS_OPEN && !rs_done(rs))
		return -EPROTO;
	rs->bye_in = true;
	if (rs->state == RS_OPEN)
		rs->state = RS_FINISHED;
	return 0;
}

static void input_reset(struct rs *rs, uint32_t code)
{
	rs->bye_in = true;
	if (rs->state != RS_OPEN)
		return;
	rs->state = code == RS_CODE_GAP ? RS_GAP : RS_RESET;
	rs->reset_code = code;
}

static int input_frame(struct rs *rs, const uint8_t *h)
{
	uint32_t len = le32_at(h + 4);
	uint64_t offset = le64_at(h + 8);
	if (!is_well_formed(h))
		return -EPROTO;
	switch ((enum rs_frame)h[0]) {
	case FRAME_DATA:
		return input_data(rs, offset, len);
	case FRAME_ACK:
		return rs->state == RS_OPEN ? input_ack(rs, offset, h[1] & ACK_END_TAKEN) : 0;
	case FRAME_END:
		return rs->state == RS_OPEN ? input_end(rs, offset) : 0;
	case FRAME_RESET:
		input_reset(rs, len);
		return 0;
	case FRAME_FIN:
		return input_fin(rs);
	}
	return -EPROTO;
}

/* Collects a head; returns how many bytes it took. */
static ssize_t input_head(struct rs *rs, const uint8_t *p, size_t n)
{
	size_t need = rs->hello_in ? RS_FRAME_SIZE : RS_HELLO_SIZE;
	size_t k = HF_MIN(n, need - rs->in_len);
	memcpy(rs->in + rs->in_len, p, k);
	rs->in_len += (uint32_t)k;
	if (rs->in_len < need)
		return (ssize_t)k;
	rs->in_len = 0;
	int r = rs->hello_in ? input_frame(rs, rs->in) : input_hello(rs, rs->in);
	return r < 0 ? r : (ssize_t)k;
}

static ssize_t input_payload(struct rs *rs, const uint8_t *p, size_t n)
{
	size_t k = HF_MIN(n, rs->in_data);
	if (rs->state == RS_OPEN) {
		size_t put = hf_ring_put(&rs->rx, p, k);
		hf_assert(put == k); /* input_data() admitted no more than fits */
	}
	rs->in_data -= (uint32_t)k;
	return (ssize_t)k;
}

int rs_input(struct rs *rs, const void *data, size_t n)
{
	const uint8_t *p = data;
	hf_assert(rs->attached);
	while (n > 0 && !rs->bye_in) {
		ssize_t k = rs->in_data > 0 ? input_payload(rs, p, n) : input_head(rs, p, n);
		if (k < 0)
			return (int)k;
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

/* --- output --- */

static void output_frame(
	struct rs *rs, enum rs_frame type, uint8_t flags, uint32_t len, uint64_t offset)
{
	uint8_t *h = rs->out + rs->out_len;
	hf_assert(rs->out_len + RS_FRAME_SIZE <= sizeof(rs->out));
	h[0] = (uint8_t)type;
	h[1] = flags;
	h[2] = h[3] = 0;
	le32_to(h + 4, len);
	le64_to(h + 8, offset);
	rs->out_len += RS_FRAME_SIZE;
}

static void output_hello(struct rs *rs)
{
	hello_write(rs->out, rs->token, HELLO_OK);
	le64_to(rs->out + 24, rs->rx_taken);
	le64_to(rs->out + 32, rx_expected(rs));
	le32_to(rs->out + 40, (uint32_t)rs->rx.cap);
	le32_to(rs->out + 44, rs->rx_end_taken ? HELLO_END_TAKEN : 0);
	rs->out_len = RS_HELLO_SIZE;
	rs->hello_out = true;
	rs->rx_acked = rs->rx_taken;
	rs->rx_end_acked = rs->rx_end_taken;
}

static void output_ack(struct rs *rs)
{
	if (rs->rx_acked == rs->rx_taken && rs->rx_end_acked == rs->rx_end_taken)
		return;
	output_frame(rs, FRAME_ACK, rs->rx_end_taken ? ACK_END_TAKEN : 0, 0, rs->rx_taken);
	rs->rx_acked = rs->rx_taken;
	rs->rx_end_acked = rs->rx_end_taken;
}

static void output_data_or_end(struct rs *rs)
{
	uint64_t end = rs_tx_end(rs);
	uint64_t limit = HF_MIN(end, rs->tx_acked + rs->tx_window);
	if (rs->tx_next < limit) {
		rs->out_data = (uint32_t)HF_MIN(limit - rs->tx_next, (uint64_t)RS_DATA_MAX);
		output_frame(rs, FRAME_DATA, 0, rs->out_data, rs->tx_next);
	} else if (rs->tx_ended && rs->tx_next == end && !rs->end_out && !rs->tx_end_acked) {
		output_frame(rs, FRAME_END, 0, 0, end);
		rs->end_out = rs->tx_end_sent = true;
	}
}

static void output_next(struct rs *rs)
{
	rs->out_len = rs->out_pos = 0;
	if (!rs->hello_out) {
		if (rs->dials || rs->hello_in)
			output_hello(rs);
		return;
	}
	if (!rs->hello_in || rs->bye_out || (rs->dials && rs->bye_in))
		return;
	if (rs->state == RS_RESET || rs->state == RS_GAP) {
		output_frame(rs, FRAME_RESET, 0, rs->reset_code, 0);
		rs->bye_out = true;
		return;
	}
	output_ack(rs);
	if (rs->dials ? rs_done(rs) : rs->state == RS_FINISHED) {
		output_frame(rs, FRAME_FIN, 0, 0, 0);
		rs->bye_out = true;
	} else {
		output_data_or_end(rs);
	}
}

int rs_output(struct rs *rs, struct iovec iov[RS_OUTPUT_IOV])
{
	int k = 0;
	if (!rs->attached)
		return 0;
	if (out_is_sent(rs))
		output_next(rs);
	if (rs->out_pos < rs->out_len)
		iov[k++] = (struct iovec){ rs->out + rs->out_pos, rs->out_len - rs->out_pos };
	return k + hf_ring_iov_(&rs->tx, rs->tx.head + (size_t)(rs->tx_next - rs->tx_base),
			   rs->out_data, iov + k);
}

void rs_sent(struct rs *rs, size_t n)
{
	size_t k = HF_MIN(n, rs->out_len - rs->out_pos);
	rs->out_pos += (uint32_t)k;
	n -= k;
	hf_assert(n <= rs->out_data);
	rs->out_data -= (uint32_t)n;
	rs->tx_next += n;
}

static bool ack_is_urgent(const struct rs *rs)
{
	uint64_t behind = rs->rx_taken - rs->rx_acked;
	return rs->rx_end_acked != rs->rx_end_taken || (behind > 0 && behind >= rs->rx.cap / 4);
}

bool rs_urgent(const struct rs *rs)
{
	uint64_t end = rs_tx_end(rs);
	if (!rs->attached)
		return false;
	if (!out_is_sent(rs))
		return true;
	if (!rs->hello_out)
		return rs->dials || rs->hello_in;
	if (!rs->hello_in || rs->bye_out || (rs->dials && rs->bye_in))
		return false;
	if (rs->state == RS_RESET || rs->state == RS_GAP || ack_is_urgent(rs))
		return true;
	if (rs->dials ? rs_done(rs) : rs->state == RS_FINISHED)
		return true;
	if (rs->tx_next < HF_MIN(end, rs->tx_acked + rs->tx_window))
		return true;
	return rs->tx_ended && rs->tx_next == end && !rs->end_out && !rs->tx_end_acked;
}

/* --- the connection --- */

void rs_detach(struct rs *rs)
{
	if (!out_is_sent(rs))
		rs->bye_out = false;
	rs->attached = rs->hello_in = rs->hello_out = rs->end_out = false;
	rs->in_len = rs->in_data = 0;
	rs->out_len = rs->out_pos = rs->out_data = 0;
}

void rs_attach(struct rs *rs)
{
	rs_detach(rs);
	rs->bye_in = rs->bye_out = false;
	rs->attached = true;
}

/* --- the application --- */

size_t rs_room(const struct rs *rs)
{
	if (rs->state != RS_OPEN || rs->tx_ended || rs->tx_adopt)
		return 0;
	return hf_ring_room(&rs->tx);
}

ssize_t rs_write(struct rs *rs, const void *data, size_t n)
{
	if (rs->state != RS_OPEN || rs->tx_ended)
		return -EPIPE;
	return (ssize_t)hf_ring_put(&rs->tx, data, HF_MIN(n, rs_room(rs)));
}

int rs_write_iov(struct rs *rs, struct iovec iov[2])
{
	if (rs->state != RS_OPEN || rs->tx_ended)
		return -EPIPE;
	return rs->tx_adopt ? 0 : hf_ring_write_iov(&rs->tx, iov);
}

void rs_wrote(struct rs *rs, size_t n)
{
	hf_assert(n <= rs_room(rs));
	hf_ring_produced(&rs->tx, n);
}

void rs_end(struct rs *rs)
{
	rs->tx_ended = true;
}

void rs_reset(struct rs *rs, uint32_t code)
{
	if (rs->state != RS_OPEN)
		return;
	rs->state = RS_RESET;
	rs->reset_code = code;
}

int rs_read(const struct rs *rs, struct iovec iov[2])
{
	return hf_ring_read_iov(&rs->rx, iov);
}

void rs_take(struct rs *rs, size_t n)
{
	hf_ring_consumed(&rs->rx, n);
	rs->rx_taken += n;
}

bool rs_readable_end(const struct rs *rs)
{
	return rs->rx_ended && !rs->rx_end_taken && hf_ring_len(&rs->rx) == 0;
}

void rs_take_end(struct rs *rs)
{
	hf_assert(rs_readable_end(rs));
	rs->rx_end_taken = true;
}

bool rs_done(const struct rs *rs)
{
	return rs->tx_end_acked && rs->rx_end_taken;
}

bool rs_over(const struct rs *rs)
{
	if (rs->state == RS_OPEN)
		return false;
	return rs->dials ? rs->bye_in : rs->bye_out && out_is_sent(rs);
}

bool rs_wants_dial(const struct rs *rs)
{
	return rs->dials && !rs->attached && !rs_over(rs);
}
