/* SPDX-License-Identifier: MIT */
/*
 * Every member of every request, with every kind of wrong value. The messages below are good ones;
 * their members are found by walking them, so a new member is tested by writing it down.
 *
 * A member that has the wrong type is refused with the HRESULT for bad JSON. A refusal of any kind
 * names the member, or what was below it.
 */
#include "../../lib/agent.h"
#include "../../lib/unit.h"
#include "base/base.h"
#include "bridge/protocol.h"
#include <stdio.h>
#include <string.h>

static const char uvm[] = BRG_UVM_ID;

/* ' stands for ". ContainerConfig, ProcessParameters and Query are texts on the wire. */
static const struct request {
	const char *what;
	uint32_t type;
	int32_t result; /* of the message as it stands; FAIL: where the act begins */
	const char *container;
	const char *members;
} requests[] = {
	{ "negotiate", BRG_NEGOTIATE, BRG_OK, uvm,
		"'MinimumVersion':4,'MaximumVersion':4,'Holdfast':{'Version':1,'Resume':false,"
		"'Session':'00112233445566778899aabbccddeeff'}" },
	{ "create", BRG_CREATE, BRG_E_FAIL, "new",
		"'ContainerConfig':{'SchemaVersion':{'Major':2,'Minor':1},"
		"'OciBundlePath':'/run/gcs/c/new','ScratchDirPath':'/run/gcs/c/new/scratch',"
		"'OciSpecification':{'ociVersion':'1.0.2','hostname':'name',"
		"'process':{'terminal':false,'args':['/bin/sh'],'env':['A=b'],'cwd':'/',"
		"'user':{'uid':0,'gid':0,'username':'0'},'noNewPrivileges':true,"
		"'rlimits':[{'type':'RLIMIT_CORE','soft':1,'hard':2}],"
		"'capabilities':{'bounding':['CAP_KILL']}},"
		"'root':{'path':'rootfs','readonly':false},"
		"'mounts':[{'destination':'/a','type':'bind','source':'/b','options':['ro']},"
		"{'destination':'blockdev:///dev/x','type':'bind','source':'/dev/null'}],"
		"'annotations':{'io.kubernetes.cri.container-type':'sandbox',"
		"'io.microsoft.container.lcow.tee-log-path':'a/"
		"b.log','io.microsoft.lcow.shm.size-kb':'64','io.microsoft.lcow.rlimitcore':'0;1',"
		"'io.microsoft.virtualmachine.lcow.privileged':'false'},"
		"'linux':{'namespaces':[{'type':'pid','path':''}],'sysctl':{'a.b':'1'},"
		"'maskedPaths':['/proc/kcore'],'cgroupsPath':'/x',"
		"'devices':[{'path':'/dev/null','type':'c','major':1,'minor':3,'fileMode':438,"
		"'uid':0,'gid':0}],'resources':{'devices':[{'allow':true,'type':'c','major':1,"
		"'minor':3,'access':'rwm'}]}},"
		"'windows':{'network':{'networkNamespace':'ns-1'}}}}" },
	{ "workload", BRG_CREATE, BRG_E_FAIL, "new",
		"'ContainerConfig':{'SchemaVersion':{'Major':2,'Minor':1},"
		"'OciBundlePath':'/run/gcs/c/new','OciSpecification':{'process':{'args':['x']},"
		"'root':{'path':'/run/gcs/c/new/rootfs','readonly':true},'linux':{},"
		"'mounts':[{'destination':'/a','source':'sandbox://a'},"
		"{'destination':'/b','source':'sandbox-tmp://b'},"
		"{'destination':'/c','source':'hugepages://2M/c'},"
		"{'destination':'/d','source':'uvm:///run'}],"
		"'annotations':{'io.kubernetes.cri.container-type':'container',"
		"'io.kubernetes.cri.sandbox-id':'pod'}}}" },
	{ "start", BRG_START, BRG_OK, "created", "" },
	{ "execute init", BRG_EXECUTE_PROCESS, BRG_E_FAIL, "created",
		"'Settings':{'ProcessParameters':{'CreateStdInPipe':true,'CreateStdOutPipe':true,"
		"'CreateStdErrPipe':true},"
		"'VsockStdioRelaySettings':{'StdIn':1,'StdOut':2,'StdErr':4294967295},"
		"'HoldfastStreams':{'StdIn':'00112233445566778899aabbccddeeff',"
		"'StdOut':'00112233445566778899aabbccddeeff',"
		"'StdErr':'00112233445566778899aabbccddeeff'}}" },
	{ "execute", BRG_EXECUTE_PROCESS, BRG_E_FAIL, "running",
		"'Settings':{'ProcessParameters':{'OciProcess':{'terminal':true,'args':['/bin/ls'],"
		"'cwd':'/','env':['A=b'],'user':{'uid':0,'gid':0,'additionalGids':[1],"
		"'username':'0'}}}}" },
	{ "execute external", BRG_EXECUTE_PROCESS, BRG_E_FAIL, uvm,
		"'Settings':{'ProcessParameters':{'CommandLine':'ls -l','CommandArgs':['ls','-l'],"
		"'WorkingDirectory':'/','Environment':{'A':'b'},'EmulateConsole':true,"
		"'CreateInUtilityVM':true}}" },
	{ "wait", BRG_WAIT_FOR_PROCESS, BRG_OK, "stopped", "'ProcessId':105,'TimeoutInMs':1" },
	{ "signal", BRG_SIGNAL_PROCESS, BRG_OK, "running",
		"'ProcessId':103,'Options':{'Signal':9}" },
	{ "resize", BRG_RESIZE_CONSOLE, BRG_OK, "stopped",
		"'ProcessId':105,'Height':24,'Width':80" },
	{ "properties", BRG_GET_PROPERTIES, BRG_OK, "running",
		"'Query':{'PropertyTypes':['ProcessList','Statistics']}" },
	{ "dump", BRG_DUMP_STACKS, BRG_OK, uvm, "" },
	{ "graceful", BRG_SHUTDOWN_GRACEFUL, BRG_OK, "running", "" },
	{ "forced", BRG_SHUTDOWN_FORCED, BRG_OK, uvm, "" },
	{ "delete", BRG_DELETE_STATE, BRG_E_FAIL, "stopped", "" },
	{ "disk", BRG_MODIFY_SETTINGS, BRG_OK, uvm,
		"'Request':{'RequestType':'Add','ResourceType':'MappedVirtualDisk','Settings':{"
		"'MountPath':'/run/mounts/m0','Lun':1,'Controller':3,'Partition':2,"
		"'ReadOnly':true,'Encrypted':false,'Options':['ro'],'BlockDev':false,"
		"'EnsureFilesystem':true,'Filesystem':'xfs'}}" },
	{ "eject", BRG_MODIFY_SETTINGS, BRG_OK, uvm,
		"'Request':{'RequestType':'Remove','ResourceType':'SCSIDevice','Settings':{'Lun':1,"
		"'Controller':1}}" },
	{ "layers", BRG_MODIFY_SETTINGS, BRG_OK, uvm,
		"'Request':{'RequestType':'Add','ResourceType':'CombinedLayers','Settings':{"
		"'ContainerRootPath':'/run/c/rootfs','ScratchPath':'/run/c/scratch',"
		"'Layers':[{'Path':'/run/a/b'}]}}" },
	{ "share", BRG_MODIFY_SETTINGS, BRG_E_FAIL, uvm,
		"'Request':{'RequestType':'Add','ResourceType':'MappedDirectory','Settings':{"
		"'MountPath':'/run/m/s','Port':564,'ShareName':'x','ReadOnly':true}}" },
	{ "memory device", BRG_MODIFY_SETTINGS, BRG_OK, uvm,
		"'Request':{'RequestType':'Add','ResourceType':'VPMemDevice','Settings':{"
		"'DeviceNumber':0,'MountPath':'/run/m/p','MappingInfo':{'DeviceOffsetInBytes':512,"
		"'DeviceSizeInBytes':1024}}}" },
	{ "network", BRG_MODIFY_SETTINGS, BRG_OK, uvm,
		"'Request':{'RequestType':'Add','ResourceType':'Network','Settings':{"
		"'NamespaceID':'ns-2','ID':'a-2','MacAddress':'02-00-00-00-00-01',"
		"'DNSSuffix':'a,b','DNSServerList':'10.0.0.1','EncapOverhead':50,"
		"'EnableLowMetric':false,'IPConfigs':[{'IPAddress':'10.0.0.2','PrefixLength':24}],"
		"'Routes':[{'NextHop':'10.0.0.1','DestinationPrefix':'0.0.0.0/0','Metric':1}]}}" },
	{ "limit", BRG_MODIFY_SETTINGS, BRG_OK, uvm,
		"'Request':{'RequestType':'Update','ResourceType':'PodCgroupMemoryLimit'}" },
	{ "constraints", BRG_MODIFY_SETTINGS, BRG_E_FAIL, "running",
		"'Request':{'ResourceType':'ContainerConstraints','Settings':{'Linux':{}}}" },
	{ "vpci", BRG_MODIFY_SETTINGS, BRG_E_FAIL, uvm,
		"'Request':{'ResourceType':'VPCIDevice','Settings':{"
		"'VMBusGUID':'7d1f0f0e-2b5c-4d0c-9d3a-0c7d7a3f2b11'}}" },
	{ "policy", BRG_MODIFY_SETTINGS, BRG_OK, uvm,
		"'Request':{'ResourceType':'SecurityPolicy','Settings':{"
		"'EncodedSecurityPolicy':''}}" },
	{ "fragment", BRG_MODIFY_SETTINGS, BRG_OK, uvm,
		"'Request':{'ResourceType':'SecurityPolicyFragment','Settings':{'Fragment':''}}" },
};

static json_t *message_of(const struct request *rq)
{
	char text[4096], *p = text;
	(void)snprintf(text, sizeof(text),
		"{'ContainerId':'%s','ActivityId':'7d1f0f0e-2b5c-4d0c-9d3a-0c7d7a3f2b11',"
		"'otsc':{'traceparent':'00-1-2-01'}%s%s}",
		rq->container, rq->members[0] ? "," : "", rq->members);
	while ((p = strchr(p, '\'')))
		*p = '"';
	json_t *o = json_loads(text, 0, NULL);
	assert_non_null(o);
	return o;
}

static const char *const inner_texts[] = { "ContainerConfig", "ProcessParameters", "Query" };

static bool is_inner(const char *name)
{
	return !strcmp(name, inner_texts[0]) || !strcmp(name, inner_texts[1]) ||
	       !strcmp(name, inner_texts[2]);
}

/* The message with its inner texts, as one text. */
static char *pack(const json_t *message)
{
	json_t *o = json_deep_copy(message);
	json_t *settings = json_object_get(o, "Settings");
	for (size_t i = 0; i < HF_ARRAY_SIZE(inner_texts); i++) {
		json_t *parent = i == 1 ? settings : o;
		json_t *inner = json_object_get(parent, inner_texts[i]);
		if (!json_is_object(inner))
			continue; /* it is the member under test */
		char *text = json_dumps(inner, 0);
		json_object_set_new(parent, inner_texts[i], json_string(text));
		free(text);
	}
	char *text = json_dumps(o, 0);
	json_decref(o);
	return text;
}

/* Every kind of value. NULL: the member is not there. */
static const char *const hostile[] = { NULL, "null", "true", "0", "-1", "1.5",
	"9223372036854775807", "[]", "[null]", "[[]]", "[7]", "{}", "{\"x\":7}", "\"\"",
	"\"../../etc/passwd\"", "\"/../../etc/passwd\"", "\"a\\u0000b\"", "\"%s%n\"", "LONG" };

static json_t *hostile_value(size_t i)
{
	static char text[20003];
	if (strcmp(hostile[i], "LONG"))
		return json_loads(hostile[i], JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	memset(text, 'x', sizeof(text) - 1);
	return json_string(text);
}

static bool is_bool_or_same(const json_t *a, const json_t *b)
{
	return json_typeof(a) == json_typeof(b) || (json_is_boolean(a) && json_is_boolean(b));
}

/* The text has one of the names in the value, however deep. */
static bool names_below(const char *text, json_t *v)
{
	const char *key;
	json_t *inner;
	size_t i;
	json_object_foreach (v, key, inner)
		if (strcasestr(text, key) || names_below(text, inner))
			return true;
	json_array_foreach (v, i, inner)
		if (names_below(text, inner))
			return true;
	return false;
}

struct place {
	const struct request *rq;
	json_t *message;
	const char *name; /* of the member, or of the array */
	const char *good; /* the error text of the message as it stands, or "" */
	unsigned tried, bad;
};

static void judge(struct place *p, json_t *good, size_t i, const char *sent)
{
	const json_t *answer = agent_ask(p->rq->type, sent, strlen(sent));
	json_int_t result = json_integer_value(json_object_get(answer, "Result"));
	const char *text = json_string_value(json_object_get(answer, "ErrorMessage"));
	json_t *value = hostile[i] ? hostile_value(i) : NULL;
	bool absent = !value || json_is_null(value) ||
		      (is_inner(p->name) && json_string_length(value) == 0);
	bool wrong_type = !absent && !is_bool_or_same(value, good);
	json_decref(value);
	if (text && !strcmp(text, p->good))
		text = NULL; /* it came as far as the good one */
	bool named = !text || strcasestr(text, p->name) || names_below(text, good) ||
		     (!strcmp(p->name, "ContainerId") && strstr(text, "container ")) ||
		     strstr(text, "is running") || /* no OciProcess: starts init */
		     (!strcmp(p->name, "ProcessId") && strstr(text, "process "));
	p->tried++;
	if (named && (!wrong_type || result == BRG_E_INVALID_JSON))
		return;
	print_error("%s: %s = %s: answered 0x%08x \"%.200s\"\n", p->rq->what, p->name,
		hostile[i] ? hostile[i] : "absent", (unsigned)result, text ? text : "");
	p->bad++;
}

static void walk(struct place *p, json_t *at);

/* The value stands in an object under the key, or in an array at the index. */
static void try_all(struct place *p, json_t *holder, const char *key, size_t index, json_t *good)
{
	json_incref(good);
	for (size_t i = 0; i < HF_ARRAY_SIZE(hostile); i++) {
		json_t *value = hostile[i] ? hostile_value(i) : NULL;
		if (!value && !key)
			continue; /* an array without it is as good */
		if (!value)
			json_object_del(holder, key);
		else if (key)
			json_object_set_new(holder, key, value);
		else
			json_array_set_new(holder, index, value);
		char *sent = pack(p->message);
		judge(p, good, i, sent);
		free(sent);
		if (key)
			json_object_set(holder, key, good);
		else
			json_array_set(holder, index, good);
	}
	walk(p, good);
	json_decref(good);
}

static void walk(struct place *p, json_t *at)
{
	const char *outer = p->name;
	if (json_is_object(at)) {
		const char *keys[64];
		size_t n = 0;
		for (void *it = json_object_iter(at); it; it = json_object_iter_next(at, it))
			keys[n++] = json_object_iter_key(it);
		for (size_t i = 0; i < n; i++) {
			char *key = strdup(keys[i]);
			p->name = key;
			try_all(p, at, key, 0, json_object_get(at, key));
			keys[i] = NULL;
			p->name = outer;
			free(key);
		}
	}
	for (size_t i = 0; json_is_array(at) && i < json_array_size(at); i++)
		try_all(p, at, NULL, i, json_array_get(at, i));
}

static void test_every_member_with_every_value(void **state)
{
	(void)state;
	unsigned tried = 0, bad = 0;
	for (size_t i = 0; i < HF_ARRAY_SIZE(requests); i++) {
		struct place p = { .rq = &requests[i], .name = "" };
		p.message = message_of(p.rq);
		char *sent = pack(p.message);
		const json_t *answer = agent_ask(p.rq->type, sent, strlen(sent));
		const char *text = json_string_value(json_object_get(answer, "ErrorMessage"));
		if (json_integer_value(json_object_get(answer, "Result")) != p.rq->result)
			fail_msg("%s: %s", p.rq->what, text ? text : "not refused");
		char *good = strdup(text ? text : "");
		p.good = good;
		free(sent);
		walk(&p, p.message);
		json_decref(p.message);
		free(good);
		tried += p.tried;
		bad += p.bad;
	}
	assert_int_equal(bad, 0);
	assert_true(tried > 3000);
}

/* Messages that are no messages. */
static void test_what_is_no_message(void **state)
{
	(void)state;
	static const char *const bad[] = { "", " ", "[]", "7", "\"\"", "{", "{}{}", "{\"a\":1,}",
		"{\"ContainerId\":\"x\"", "tru", "\xff\xff", "{\"a\":1e999}" };
	for (uint32_t op = 1; op <= 13; op++) {
		for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
			const json_t *answer =
				agent_ask(0x10100001u | op << 8, bad[i], strlen(bad[i]));
			assert_int_equal(json_integer_value(json_object_get(answer, "Result")),
				BRG_E_INVALID_JSON);
		}
		(void)agent_ask(0x10100001u | op << 8, "null", 4); /* all members absent */
		(void)agent_ask(0x10100001u | op << 8, "{}", 2);
	}
}

/* Containers that are not in the state for it. */
static void test_states(void **state)
{
	(void)state;
	static const struct {
		uint32_t type;
		int32_t creating, created, running, stopped, none;
	} table[] = {
		{ BRG_CREATE, BRG_E_ALREADY_EXISTS, BRG_E_ALREADY_EXISTS, BRG_E_ALREADY_EXISTS,
			BRG_E_ALREADY_EXISTS, BRG_E_FAIL },
		{ BRG_EXECUTE_PROCESS, BRG_E_INVALID_STATE, BRG_E_FAIL, BRG_E_INVALID_STATE,
			BRG_E_ALREADY_STOPPED, BRG_E_SYSTEM_NOT_FOUND },
		{ BRG_SHUTDOWN_FORCED, BRG_E_INVALID_STATE, BRG_OK, BRG_OK, BRG_E_ALREADY_STOPPED,
			BRG_E_SYSTEM_NOT_FOUND },
		{ BRG_GET_PROPERTIES, BRG_E_INVALID_STATE, BRG_OK, BRG_OK, BRG_OK,
			BRG_E_SYSTEM_NOT_FOUND },
		{ BRG_DELETE_STATE, BRG_E_INVALID_STATE, BRG_E_FAIL, BRG_E_INVALID_STATE,
			BRG_E_FAIL, BRG_E_SYSTEM_NOT_FOUND },
		{ BRG_SIGNAL_PROCESS, BRG_E_NOT_FOUND, BRG_E_NOT_FOUND, BRG_OK, BRG_E_NOT_FOUND,
			BRG_E_SYSTEM_NOT_FOUND },
	};
	static const char *const names[] = { "creating", "created", "running", "stopped", "none" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(table); i++)
		for (size_t k = 0; k < HF_ARRAY_SIZE(names); k++) {
			const int32_t want[] = { table[i].creating, table[i].created,
				table[i].running, table[i].stopped, table[i].none };
			char text[600];
			(void)snprintf(text, sizeof(text),
				"{\"ContainerId\":\"%s\",\"ProcessId\":103,\"ContainerConfig\":"
				"\"{\\\"SchemaVersion\\\":{\\\"Major\\\":2,\\\"Minor\\\":1},"
				"\\\"OciBundlePath\\\":\\\"/run/c/x\\\",\\\"OciSpecification\\\":{"
				"\\\"process\\\":{},\\\"root\\\":{\\\"path\\\":\\\"/run/x\\\"},"
				"\\\"linux\\\":{}}}\"}",
				names[k]);
			const json_t *answer = agent_ask(table[i].type, text, strlen(text));
			json_int_t got = json_integer_value(json_object_get(answer, "Result"));
			if (got != want[k])
				fail_msg("type 0x%08x, container %s: 0x%08x", table[i].type,
					names[k], (unsigned)got);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_member_with_every_value),
		cmocka_unit_test(test_what_is_no_message),
		cmocka_unit_test(test_states),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
