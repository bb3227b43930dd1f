/* SPDX-License-Identifier: MIT */
#include "config.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#define TEXT_MAX 1024

static int key_text(yaml_document_t *doc, int index, char *ret, size_t cap)
{
	const yaml_node_t *n = yaml_document_get_node(doc, index);
	if (!n || n->type != YAML_SCALAR_NODE || n->data.scalar.length >= cap ||
		memchr(n->data.scalar.value, '\0', n->data.scalar.length))
		return -EINVAL;
	memcpy(ret, n->data.scalar.value, n->data.scalar.length);
	ret[n->data.scalar.length] = '\0';
	for (char *p = ret; *p; p++)
		*p = *p == '_' ? '-' : *p;
	return 0;
}

/* A scalar, or a list of scalars joined by '+'. */
static int value_text(yaml_document_t *doc, const yaml_node_t *n, char *ret, size_t cap)
{
	const char *text;
	size_t len = 0;
	if (!n || n->type == YAML_MAPPING_NODE)
		return -EINVAL;
	if (n->type == YAML_SCALAR_NODE) {
		text = (const char *)n->data.scalar.value;
		len = n->data.scalar.length;
		if (len >= cap || memchr(text, '\0', len))
			return -EINVAL;
		memcpy(ret, text, len);
		ret[len] = '\0';
		return 0;
	}
	ret[0] = '\0';
	const yaml_node_item_t *first = n->data.sequence.items.start;
	for (const yaml_node_item_t *i = first; i < n->data.sequence.items.top; i++) {
		const yaml_node_t *item = yaml_document_get_node(doc, *i);
		if (!item || item->type != YAML_SCALAR_NODE)
			return -EINVAL;
		text = (const char *)item->data.scalar.value;
		if (len + item->data.scalar.length + 2 > cap ||
			memchr(text, '\0', item->data.scalar.length))
			return -EINVAL;
		if (i > first)
			ret[len++] = '+';
		memcpy(ret + len, text, item->data.scalar.length);
		len += item->data.scalar.length;
		ret[len] = '\0';
	}
	return 0;
}

static int at_line(const yaml_node_t *n, int r, struct hf_err *reterr)
{
	(void)hf_err_prefix(reterr, "line %zu", n->start_mark.line + 1); /* r is returned */
	return r;
}

static int take_vm(
	yaml_document_t *doc, const yaml_node_t *node, struct dev_options *o, struct hf_err *reterr)
{
	char key[64], value[TEXT_MAX];
	if (o->n_vms == DEV_VMS_MAX)
		return hf_err_set(reterr, -EINVAL, "vms: more than %d", DEV_VMS_MAX);
	if (!node || node->type != YAML_MAPPING_NODE)
		return hf_err_set(reterr, -EINVAL, "vms: each is a mapping of keys");
	struct dev_vm_options *vm = &o->vm[o->n_vms];
	*vm = dev_options_vm_default();
	for (const yaml_node_pair_t *p = node->data.mapping.pairs.start;
		p < node->data.mapping.pairs.top; p++) {
		const yaml_node_t *v = yaml_document_get_node(doc, p->value);
		int r = key_text(doc, p->key, key, sizeof(key));
		if (r < 0)
			return hf_err_set(reterr, r, "vms: a key is no text");
		r = value_text(doc, v, value, sizeof(value));
		r = r < 0 ? hf_err_set(reterr, r, "%s: want a value or a list of values", key)
			  : dev_options_vm_set(vm, key, value, reterr);
		if (r < 0)
			return at_line(yaml_document_get_node(doc, p->key), r, reterr);
	}
	int r = dev_options_vm_check(vm, reterr);
	if (r < 0)
		return at_line(node, r, reterr);
	o->n_vms++;
	return 0;
}

static int take_pair(yaml_document_t *doc, const yaml_node_pair_t *p, struct dev_options *o,
	dev_config_fn *set, void *ctx, struct hf_err *reterr)
{
	char key[64], value[TEXT_MAX];
	const yaml_node_t *v = yaml_document_get_node(doc, p->value);
	int r = key_text(doc, p->key, key, sizeof(key));
	if (r < 0 || !v)
		return hf_err_set(reterr, -EINVAL, "a key is no text");
	if (strcmp(key, "vms") == 0) {
		if (v->type != YAML_SEQUENCE_NODE)
			return hf_err_set(reterr, -EINVAL, "vms: want a list");
		for (const yaml_node_item_t *i = v->data.sequence.items.start;
			i < v->data.sequence.items.top && r == 0; i++)
			r = take_vm(doc, yaml_document_get_node(doc, *i), o, reterr);
		return r;
	}
	if (v->type != YAML_SEQUENCE_NODE) {
		r = value_text(doc, v, value, sizeof(value));
		r = r < 0 ? hf_err_set(reterr, r, "%s: want a value", key)
			  : set(ctx, key, value, reterr);
		return r < 0 ? at_line(v, r, reterr) : 0;
	}
	/* An option that may be given several times. */
	for (const yaml_node_item_t *i = v->data.sequence.items.start;
		i < v->data.sequence.items.top && r == 0; i++) {
		r = value_text(doc, yaml_document_get_node(doc, *i), value, sizeof(value));
		r = r < 0 ? hf_err_set(reterr, r, "%s: want a list of values", key)
			  : set(ctx, key, value, reterr);
	}
	return r < 0 ? at_line(v, r, reterr) : 0;
}

static int take_document(yaml_document_t *doc, struct dev_options *o, dev_config_fn *set, void *ctx,
	struct hf_err *reterr)
{
	const yaml_node_t *root = yaml_document_get_root_node(doc);
	if (!root)
		return hf_err_set(reterr, -EINVAL, "it is empty");
	if (root->type != YAML_MAPPING_NODE)
		return hf_err_set(reterr, -EINVAL, "want a mapping of keys, as 'vms: [...]'");
	int r = 0;
	for (const yaml_node_pair_t *p = root->data.mapping.pairs.start;
		p < root->data.mapping.pairs.top && r == 0; p++)
		r = take_pair(doc, p, o, set, ctx, reterr);
	return r;
}

static int read_text(const char *path, char **ret_text, size_t *ret_len, struct hf_err *reterr)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return hf_err_set(reterr, -errno, "cannot open: %s", strerror(errno));
	char *text = malloc(DEV_CONFIG_BYTES_MAX + 1);
	size_t n = text ? fread(text, 1, DEV_CONFIG_BYTES_MAX + 1, f) : 0;
	int error = ferror(f) ? -EIO : 0;
	(void)fclose(f); /* was only read */
	if (!text || error < 0 || n > DEV_CONFIG_BYTES_MAX) {
		free(text);
		return !text       ? hf_err_set(reterr, -ENOMEM, "out of memory")
		       : error < 0 ? hf_err_set(reterr, error, "cannot read it")
				   : hf_err_set(reterr, -EFBIG, "longer than %u bytes",
					     DEV_CONFIG_BYTES_MAX);
	}
	*ret_text = text;
	*ret_len = n;
	return 0;
}

int dev_config_read(const char *path, struct dev_options *o, dev_config_fn *set, void *ctx,
	struct hf_err *reterr)
{
	HF_CLEANUP(hf_freep) char *text = NULL;
	size_t len = 0;
	yaml_parser_t parser;
	yaml_document_t doc;
	int r = read_text(path, &text, &len, reterr);
	if (r < 0)
		return hf_err_prefix(reterr, "--config %s", path);
	if (!yaml_parser_initialize(&parser))
		return hf_err_set(reterr, -ENOMEM, "out of memory");
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	if (yaml_parser_load(&parser, &doc)) {
		r = take_document(&doc, o, set, ctx, reterr);
		yaml_document_delete(&doc);
	} else {
		r = hf_err_set(reterr, -EINVAL, "line %zu: %s", parser.problem_mark.line + 1,
			parser.problem ? parser.problem : "no YAML");
	}
	yaml_parser_delete(&parser);
	return r < 0 ? hf_err_prefix(reterr, "--config %s", path) : 0;
}
