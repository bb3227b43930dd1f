/* SPDX-License-Identifier: MIT */
/*
 * replay.c - runs a fuzz target without a fuzzer, so that every corpus is an ordinary test.
 *
 * usage: fuzz_X [--mutate N] FOLDER|FILE ...
 *
 * Each file is given to LLVMFuzzerTestOneInput once as it is and N times with a few bytes changed,
 * cut or repeated. The changes depend on the file's name and the round only: a failure repeats.
 * A folder without files is a failure, because such a test would prove nothing.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long rounds, files, runs;

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* The target gets memory of exactly the input's size, so that a sanitizer sees a byte too many. */
static void run(const uint8_t *data, size_t size)
{
	uint8_t *exact = malloc(size ? size : 1);
	if (!exact)
		abort();
	memcpy(exact, data, size);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	runs++;
}

static size_t mutate(uint8_t *b, size_t size, uint64_t *s)
{
	static const uint8_t edges[] = { 0, 1, 0x7f, 0x80, 0xfe, 0xff };
	unsigned n = 1 + next_random(s) % 4;
	while (n-- && size) {
		size_t at = next_random(s) % size;
		switch (next_random(s) % 5) {
		case 0:
			b[at] ^= (uint8_t)(1u << next_random(s) % 8);
			break;
		case 1:
			b[at] = edges[next_random(s) % sizeof(edges)];
			break;
		case 2:
			b[at] = (uint8_t)next_random(s);
			break;
		case 3:
			size = at;
			break;
		case 4: /* repeat the tail from `at` on */
			if (size + (size - at) <= INPUT_MAX) {
				memcpy(b + size, b + at, size - at);
				size += size - at;
			}
			break;
		}
	}
	return size;
}

static int replay_file(const char *path)
{
	static uint8_t original[INPUT_MAX], changed[INPUT_MAX];
	FILE *f = fopen(path, "rb");
	if (!f) {
		perror(path);
		return -1;
	}
	size_t size = fread(original, 1, sizeof(original), f);
	fclose(f);
	files++;
	run(original, size);

	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	uint64_t s = 0x9e3779b97f4a7c15u;
	for (const char *p = name; *p; p++)
		s = (s ^ (uint8_t)*p) * 0x100000001b3u;
	s |= 1;
	for (unsigned long i = 0; i < rounds; i++) {
		memcpy(changed, original, size);
		run(changed, mutate(changed, size, &s));
	}
	return 0;
}

static int replay(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0) {
		perror(path);
		return -1;
	}
	if (!S_ISDIR(st.st_mode))
		return replay_file(path);
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort);
	if (n < 0) {
		perror(path);
		return -1;
	}
	int r = 0;
	for (int i = 0; i < n; i++) {
		char full[4096];
		snprintf(full, sizeof(full), "%s/%s", path, names[i]->d_name);
		if (names[i]->d_name[0] != '.' && replay_file(full) < 0)
			r = -1;
		free(names[i]);
	}
	free(names);
	return r;
}

int main(int argc, char **argv)
{
	int r = 0, i = 1;
	if (argc > 2 && strcmp(argv[1], "--mutate") == 0) {
		rounds = strtoul(argv[2], NULL, 10);
		i = 3;
	}
	for (; i < argc; i++)
		r |= replay(argv[i]);
	printf("%lu files, %lu runs\n", files, runs);
	return r < 0 || files == 0 ? 1 : 0;
}
