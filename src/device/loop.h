/* SPDX-License-Identifier: MIT */
/*
 * loop.h - one epoll set for every descriptor of the daemon, libuv's own among them.
 *
 * We sleep in the set of our own, so a wake-up costs one system call; libuv, which brings signals,
 * runs when its descriptor in the set says so. The set can be edge-triggered, so that a connection
 * costs no system call to wait for. What stands in the kernel is a tag, never a pointer: the owner
 * compares its generation and drops a late event of a slot that is somebody else's now.
 *
 * A peer that is spoken to often answers in less time than it takes to fall asleep and to be woken
 * up. So before it sleeps, the loop looks for events for as long as that has paid lately, as KVM
 * does for a processor that halts: the time grows while answers come within poll_max_us, and falls
 * to nothing when they do not. Others may run meanwhile. After one that kept the processor for long
 * it pauses, because who sleeps gets the processor back sooner than who only let others go first.
 *
 * A turn: events are dispatched, then the owner's turn function does the work that they announced
 * and says when it wants to be called again.
 */
#ifndef DEVICE_LOOP_H
#define DEVICE_LOOP_H

#include "base/base.h"
#include <assert.h>
#include <sys/epoll.h>
#include <uv.h>

enum dev_what {
	DEV_ON_CONTROL_LISTEN,
	DEV_ON_CONTROL, /* slot: client */
	DEV_ON_METRICS_LISTEN,
	DEV_ON_METRICS, /* slot: client */
	DEV_ON_FRONT_LISTEN,
	DEV_ON_FRONT,
	DEV_ON_HOST_LISTEN,
	DEV_ON_HELLO,    /* slot: hello */
	DEV_ON_KICK,     /* slot: queue */
	DEV_ON_CONN,     /* slot: connection */
	DEV_ON_TRANSFER, /* pipe of a device state transfer */
	DEV_ON_LINK_LISTEN,
	DEV_ON_PEER,  /* slot: peer */
	DEV_ON_RELAY, /* slot: relay */
	DEV_ON_UV,    /* the loop's own business */
};

struct dev_tag {
	uint8_t what;
	uint8_t vm;
	uint16_t gen; /* the low bits are enough: a late event is at most a turn old */
	uint32_t slot;
};
static_assert(sizeof(struct dev_tag) == sizeof(uint64_t), "a tag is what epoll keeps for us");

static inline bool dev_tag_is(struct dev_tag tag, uint32_t gen)
{
	return tag.gen == (uint16_t)gen;
}

#define DEV_DROPS_MAX 64 /* descriptors that are closed at the end of a turn */

struct dev_loop {
	uv_loop_t uv;
	int epfd;
	bool stopped;
	uint64_t now_us;
	uint32_t poll_max_us; /* longest look before sleeping; 0: none */
	uint32_t poll_us;     /* as it is now */
	uint32_t pause_us;    /* of the last pause, a little less with each wait */
	uint64_t paused_until_us;
	uint64_t rested_us; /* it asked on_rest last */
	bool brisk;         /* the owner's last turn awaits an answer soon */
	void *owner;
	void (*on_event)(void *owner, struct dev_tag tag, uint32_t events);
	/* Returns the time (us) of the next call at the latest; 0: at once; UINT64_MAX: none. */
	uint64_t (*on_turn)(void *owner);
	/* NULL, or: has something happened that no descriptor tells? Asked while it looks for
	 * events; and before it sleeps, or should have long ago, when a descriptor will tell of
	 * it from then on. */
	bool (*on_look)(void *owner);
	bool (*on_rest)(void *owner);
	int dropped[DEV_DROPS_MAX];
	size_t n_dropped;
};

int dev_loop_init(struct dev_loop *l);
void dev_loop_done(struct dev_loop *l);
void dev_loop_run(struct dev_loop *l); /* until dev_loop_stop */
void dev_loop_stop(struct dev_loop *l);

/* Watches the descriptor, or changes what is watched of it. 0 or -errno. */
int dev_loop_watch(struct dev_loop *l, int fd, uint32_t events, struct dev_tag tag);

/* Ends the watch and closes. Closing alone is not enough where a peer holds the same description
 * (an eventfd of the VMM): the kernel would go on reporting it. -1 is accepted. */
void dev_loop_close(struct dev_loop *l, int *fd);
/* Closes a descriptor that nobody else has, at the end of the turn: closing a socket takes its
 * time, and wakes the other end up, for which the guest need not wait. */
void dev_loop_drop(struct dev_loop *l, int *fd);
/* Closes them now, when descriptors have run out; false: there were none. */
bool dev_loop_close_dropped(struct dev_loop *l);
void dev_loop_forget(struct dev_loop *l, int fd);

#endif
