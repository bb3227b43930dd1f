/* SPDX-License-Identifier: MIT */
/*
 * publisher.h - routes notifications (a container has exited) to whichever bridge is current.
 *
 * What produces a notification outlives the bridge it was begun on, so it publishes here and never
 * holds a bridge.
 *
 *     host             bridge up            bridge down
 *     Holdfast session numbered, sent, kept numbered, kept
 *     any other        sent                 dropped and counted: such a host asks again itself
 *
 * Kept notifications are sent again on each new bridge of the session until they are acknowledged
 * (cumulative). At the limit brg_publisher_room() says false, and no new container may be created:
 * each container notifies once, so nothing is ever dropped within a session.
 *
 * Notes are the caller's memory: they go in with publish and come back with pop.
 */
#ifndef BRG_PUBLISHER_H
#define BRG_PUBLISHER_H

#include "base/list.h"

#define BRG_NOTES_MAX 4096u

struct brg_note {
	struct hf_list link;
	uint64_t seq; /* set by publish; 0 outside of a session */
	bool sent;    /* on the current bridge */
	uint32_t len;
	char *payload;
};

enum brg_publish { BRG_PUBLISH_KEPT, BRG_PUBLISH_SEND_NOW, BRG_PUBLISH_DROPPED };

struct brg_publisher {
	struct hf_list notes; /* ascending seq */
	size_t n;
	uint64_t last_seq; /* given out in this session */
	uint64_t dropped;
	bool session; /* a Holdfast session exists */
	bool up;      /* a bridge has negotiated */
};

void brg_publisher_init(struct brg_publisher *p);

/* A bridge of the session, or of a host without one, has negotiated; or it is gone. */
void brg_publisher_up(struct brg_publisher *p);
void brg_publisher_down(struct brg_publisher *p);

/* A new session begins (true), or the host has none (false): numbering starts again. Notes of the
 * old session must have been popped (brg_publisher_pop(p, UINT64_MAX)). */
void brg_publisher_begin(struct brg_publisher *p, bool session);

bool brg_publisher_room(const struct brg_publisher *p, size_t expected);

/* The number that the next note will have: it is part of the payload. 0: no number. */
uint64_t brg_publisher_next_seq(const struct brg_publisher *p);

/* KEPT: the publisher holds the note and gives it out through brg_publisher_unsent(). SEND_NOW: the
 * caller sends it and keeps its memory. DROPPED: counted, the memory is the caller's. */
enum brg_publish brg_publisher_publish(struct brg_publisher *p, struct brg_note *note);

/* The next note to put into the current bridge (the caller then sets note->sent), or NULL. */
struct brg_note *brg_publisher_unsent(struct brg_publisher *p);

/* Takes out the first note with seq <= `seq`, to be freed; NULL when there is none. */
struct brg_note *brg_publisher_pop(struct brg_publisher *p, uint64_t seq);

#endif
