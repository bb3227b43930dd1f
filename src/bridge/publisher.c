/* SPDX-License-Identifier: MIT */
#include "publisher.h"

void brg_publisher_init(struct brg_publisher *p)
{
	*p = (struct brg_publisher){ 0 };
	hf_list_init(&p->notes);
}

void brg_publisher_up(struct brg_publisher *p)
{
	p->up = true;
	hf_list_for_each (l, &p->notes)
		HF_CONTAINER_OF(l, struct brg_note, link)->sent = false;
}

void brg_publisher_down(struct brg_publisher *p)
{
	p->up = false;
}

void brg_publisher_begin(struct brg_publisher *p, bool session)
{
	hf_assert(hf_list_empty(&p->notes));
	p->session = session;
	p->last_seq = 0;
}

bool brg_publisher_room(const struct brg_publisher *p, size_t expected)
{
	return expected < BRG_NOTES_MAX && p->n < BRG_NOTES_MAX - expected;
}

uint64_t brg_publisher_next_seq(const struct brg_publisher *p)
{
	return p->session ? p->last_seq + 1 : 0;
}

enum brg_publish brg_publisher_publish(struct brg_publisher *p, struct brg_note *note)
{
	note->seq = 0;
	note->sent = false;
	if (!p->session && p->up)
		return BRG_PUBLISH_SEND_NOW;
	if (!p->session || p->n >= BRG_NOTES_MAX) {
		p->dropped++;
		return BRG_PUBLISH_DROPPED;
	}
	note->seq = ++p->last_seq;
	hf_list_append(&p->notes, &note->link);
	p->n++;
	return BRG_PUBLISH_KEPT;
}

struct brg_note *brg_publisher_unsent(struct brg_publisher *p)
{
	if (!p->up)
		return NULL;
	hf_list_for_each (l, &p->notes) {
		struct brg_note *note = HF_CONTAINER_OF(l, struct brg_note, link);
		if (!note->sent)
			return note;
	}
	return NULL;
}

struct brg_note *brg_publisher_pop(struct brg_publisher *p, uint64_t seq)
{
	if (hf_list_empty(&p->notes))
		return NULL;
	struct brg_note *first = HF_CONTAINER_OF(p->notes.next, struct brg_note, link);
	if (first->seq > seq)
		return NULL;
	hf_list_remove(&first->link);
	p->n--;
	return first;
}
