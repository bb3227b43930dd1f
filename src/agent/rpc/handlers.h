/* SPDX-License-Identifier: MIT */
/* handlers.h - one function per request type; each answers exactly once (request.h). */
#ifndef AGT_RPC_HANDLERS_H
#define AGT_RPC_HANDLERS_H

#include <jansson.h>

struct agt;
struct agt_container;
struct agt_request;

void agt_rpc_negotiate(struct agt_request *rq);
void agt_rpc_create(struct agt_request *rq);
void agt_rpc_start(struct agt_request *rq);
void agt_rpc_shutdown(struct agt_request *rq);
void agt_rpc_execute(struct agt_request *rq);
void agt_rpc_wait(struct agt_request *rq);
void agt_rpc_signal(struct agt_request *rq);
void agt_rpc_resize(struct agt_request *rq);
void agt_rpc_properties(struct agt_request *rq);
void agt_rpc_modify(struct agt_request *rq);
void agt_rpc_dump(struct agt_request *rq);
void agt_rpc_delete(struct agt_request *rq);

/* Goes on with the creations, starts and deletions that an agent before this one had begun. */
void agt_rpc_resume(struct agt *a);
void agt_rpc_start_again(struct agt_container *c);

/* ModifySettings of a Network: answers the request. */
void agt_network_modify(struct agt_request *rq, json_t *settings, const char *kind);

#endif
