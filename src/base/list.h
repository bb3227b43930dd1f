/* SPDX-License-Identifier: MIT */
/* list.h - an intrusive doubly linked list; the head is a node of its own. */
#ifndef HF_LIST_H
#define HF_LIST_H

#include "base.h"

struct hf_list {
	struct hf_list *prev, *next;
};

static inline void hf_list_init(struct hf_list *l)
{
	l->prev = l->next = l;
}

static inline bool hf_list_empty(const struct hf_list *l)
{
	return l->next == l;
}

static inline void hf_list_append(struct hf_list *head, struct hf_list *n)
{
	n->prev = head->prev;
	n->next = head;
	head->prev->next = n;
	head->prev = n;
}

/* Takes the node out and leaves it a list of its own, so that removing twice is harmless. */
static inline void hf_list_remove(struct hf_list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	hf_list_init(n);
}

#define hf_list_for_each(n, head) for (struct hf_list *n = (head)->next; n != (head); n = n->next)
/* The current node may be removed in the body. */
#define hf_list_for_each_safe(n, head)                                                             \
	for (struct hf_list *n = (head)->next, *n##_next_ = n->next; n != (head);                  \
		n = n##_next_, n##_next_ = n->next)

#endif
