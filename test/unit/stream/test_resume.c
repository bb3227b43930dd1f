/* SPDX-License-Identifier: MIT */
/* Two ends, a link that is cut at every byte, and a ramp of prime length each way. */
#include "pair.h"

#define N_A 541 /* primes: bytes written by the dialling and by the accepting end */
#define N_B 257

struct plan {
	size_t chunk;  /* bytes per transfer */
	size_t take;   /* bytes an application takes at a time */
	size_t cut_at; /* bytes arrived (both ways) until the link is cut */
	bool repeat;   /* cut again and again */
	bool move;     /* both ends change their memory after each step */
};

/* The accepting end is over and has forgotten the stream, but its last word may have been lost. */
static void forgotten(struct end *a)
{
	uint8_t unknown[RS_HELLO_SIZE];
	if (!rs_wants_dial(&a->rs))
		return;
	rs_attach(&a->rs);
	rs_hello_unknown(pair_token, unknown);
	assert_int_equal(rs_input(&a->rs, unknown, sizeof(unknown)), 0);
	assert_true(rs_over(&a->rs));
}

/* Runs until both ends are over; returns how many bytes arrived in all. */
static size_t run(const struct plan *p)
{
	struct end a, b;
	size_t arrived = 0, next_cut = p->cut_at;
	end_init(&a, true, 64, 32, N_A);
	end_init(&b, false, 128, 64, N_B);
	pair_connect(&a, &b);
	for (int step = 0; !(rs_over(&a.rs) && rs_over(&b.rs)); step++) {
		assert_true(step < 1000000);
		end_run(&a, p->take);
		end_run(&b, p->take);
		end_send(&a, p->chunk);
		end_send(&b, p->chunk);
		if (p->move) {
			end_move(&a);
			end_move(&b);
		}
		arrived += end_arrive(&b, &a, HF_MIN(p->chunk, next_cut - arrived));
		arrived += end_arrive(&a, &b, HF_MIN(p->chunk, next_cut - arrived));
		if (arrived == next_cut) {
			pair_cut(&a, &b);
			if (rs_over(&b.rs))
				forgotten(&a);
			else
				pair_connect(&a, &b);
			next_cut = p->repeat ? arrived + p->cut_at : SIZE_MAX;
		}
	}
	assert_int_equal(rs_state(&a.rs), RS_FINISHED);
	assert_int_equal(rs_state(&b.rs), RS_FINISHED);
	assert_int_equal(a.got, N_B);
	assert_int_equal(b.got, N_A);
	assert_true(a.got_end && b.got_end);
	return arrived;
}

static void test_cut_at_every_byte(void **state)
{
	(void)state;
	static const size_t sizes[] = { 1, 19, 4096 };
	for (size_t c = 0; c < HF_ARRAY_SIZE(sizes); c++)
		for (size_t t = 0; t < HF_ARRAY_SIZE(sizes); t++) {
			struct plan p = { .chunk = sizes[c], .take = sizes[t], .cut_at = SIZE_MAX };
			size_t total = run(&p);
			for (p.cut_at = 1; p.cut_at <= total; p.cut_at++)
				run(&p);
		}
}

/* 160 bytes are two hellos, a DATA frame of one window's rest and its ACK: progress is certain. */
static void test_cut_again_and_again(void **state)
{
	(void)state;
	for (size_t every = 160; every < 420; every += 1) {
		struct plan p = { .chunk = 9, .take = 5, .cut_at = every, .repeat = true };
		run(&p);
	}
}

static void test_moved_at_every_step(void **state)
{
	(void)state;
	struct plan p = { .chunk = 1, .take = 3, .cut_at = SIZE_MAX, .move = true };
	run(&p);
	p.chunk = 13;
	size_t total = run(&p);
	for (p.cut_at = 1; p.cut_at <= total; p.cut_at += 3)
		run(&p);
}

/* The accepting end dies at every byte and starts again with what its application had. */
static void restart(bool both_ways)
{
	const uint64_t n_b = both_ways ? N_B : 0;
	for (size_t kill_at = 1; kill_at < 1800; kill_at++) {
		struct end a, b;
		size_t arrived = 0;
		end_init(&a, true, 64, both_ways ? 32 : 0, N_A);
		end_init(&b, false, both_ways ? 128 : 0, 64, n_b);
		pair_connect(&a, &b);
		bool killed = false;
		for (int step = 0; !rs_over(&a.rs) || !rs_over(&b.rs); step++) {
			assert_true(step < 100000);
			end_run(&a, 3);
			end_run(&b, 3);
			end_send(&a, 17);
			end_send(&b, 17);
			arrived += end_arrive(&b, &a, 17);
			arrived += end_arrive(&a, &b, 17);
			if (killed || arrived < kill_at || rs_over(&a.rs) || rs_over(&b.rs))
				continue;
			killed = true;
			struct rs_config config = { .tx_buf = b.tx_mem,
				.tx_cap = b.tx_cap,
				.rx_buf = b.rx_mem,
				.rx_cap = b.rx_cap,
				.rx_start = b.got,
				.rx_end_taken = b.got_end,
				.tx_adopt = true };
			memcpy(config.token, pair_token, RS_TOKEN_SIZE);
			pair_cut(&a, &b);
			assert_int_equal(rs_init(&b.rs, &config), 0);
			pair_connect(&a, &b);
			assert_int_equal(rs_room(&b.rs), 0);
			end_send(&a, 4096);
			end_arrive(&b, &a, RS_HELLO_SIZE);
			b.written = rs_tx_end(&b.rs); /* the application carries on from there */
			b.ended = false;
			assert_true(rs_tx_acked(&b.rs) == a.got && b.written >= a.got);
		}
		assert_int_equal(rs_state(&a.rs), RS_FINISHED);
		assert_int_equal(rs_state(&b.rs), RS_FINISHED);
		assert_int_equal(a.got, n_b);
		assert_int_equal(b.got, N_A);
	}
}

static void test_accepting_end_restarts(void **state)
{
	(void)state;
	restart(true);
	restart(false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cut_at_every_byte),
		cmocka_unit_test(test_cut_again_and_again),
		cmocka_unit_test(test_moved_at_every_step),
		cmocka_unit_test(test_accepting_end_restarts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
