/* SPDX-License-Identifier: MIT */
/*
 * See numa.h. The list is read here, since numa_parse_nodestring() prints what it dislikes; which
 * nodes there are is libnuma's answer.
 */
#include "os/numa.h"
#include "base/error.h"
#include "os/hooks.h"
#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <stdbool.h>
#include <stddef.h>

static const struct {
	int mode;
	unsigned max_nodes;
} policies[] = {
	[GR_NUMA_DEFAULT] = {MPOL_DEFAULT, 0},
	[GR_NUMA_BIND] = {MPOL_BIND, GR__NUMA_NODES},
	[GR_NUMA_PREFERRED] = {MPOL_PREFERRED, 1},
	[GR_NUMA_INTERLEAVE] = {MPOL_INTERLEAVE, GR__NUMA_NODES},
};

/* The decimal number at *text, which moves past it; false: there is none, or it is no node. */
static bool read_node(const char **text, unsigned *node)
{
	const char *at = *text;
	unsigned value = 0;

	if (*at < '0' || *at > '9')
		return false;
	for (; *at >= '0' && *at <= '9'; at++) {
		value = value * 10 + (*at - '0');
		if (value >= GR__NUMA_NODES)
			return false;
	}
	*text = at;
	*node = value;
	return true;
}

/* Returns how many nodes the list sets, or 0 when it is malformed. */
static unsigned read_list(const char *text, unsigned long *nodes)
{
	unsigned first, last, node, count = 0;

	for (;; text++) {
		if (!read_node(&text, &first))
			return 0;
		last = first;
		if (*text == '-') {
			text++;
			if (!read_node(&text, &last) || last < first)
				return 0;
		}
		for (node = first; node <= last; node++) {
			unsigned long bit = 1UL << node % GR__NUMA_WORD;

			count += !(nodes[node / GR__NUMA_WORD] & bit);
			nodes[node / GR__NUMA_WORD] |= bit;
		}
		if (!*text)
			return count;
		if (*text != ',')
			return 0;
	}
}

static bool exists(unsigned node)
{
	return node < numa_all_nodes_ptr->size && numa_bitmask_isbitset(numa_all_nodes_ptr, node);
}

int gr__numa_parse(enum gr_numa_policy policy, const char *nodes, struct gr__numa *numa)
{
	struct gr__numa parsed = {.mode = MPOL_DEFAULT};
	unsigned node, count;

	if ((unsigned)policy > GR_NUMA_INTERLEAVE)
		return gr__fail(-EINVAL, "numa_policy %u: there is no such policy", policy);
	if (policy == GR_NUMA_DEFAULT) {
		if (nodes)
			return gr__fail(
				-EINVAL,
				"numa_nodes \"%s\" without a numa_policy: say how to use them",
				nodes);
		*numa = parsed;
		return 0;
	}
	if (!nodes)
		return gr__fail(-EINVAL, "numa_policy %u needs numa_nodes, as in \"0-1,3\"",
				policy);
	count = read_list(nodes, parsed.nodes);
	if (!count)
		return gr__fail(-EINVAL,
				"numa_nodes \"%s\": not a list as in \"0-1,3\", nodes 0 to %u",
				nodes, GR__NUMA_NODES - 1);
	if (count > policies[policy].max_nodes)
		return gr__fail(-EINVAL, "numa_nodes \"%s\": GR_NUMA_PREFERRED takes one node",
				nodes);
	if (GR_FAULT("numa") || numa_available() < 0)
		return gr__fail(-ENOTSUP, "numa_policy: this kernel knows no NUMA nodes");
	for (node = 0; node < GR__NUMA_NODES; node++)
		if (parsed.nodes[node / GR__NUMA_WORD] & 1UL << node % GR__NUMA_WORD &&
		    !exists(node))
			return gr__fail(-EINVAL,
					"numa_nodes \"%s\": there is no node %u with memory that "
					"we may use "
					"(see /sys/devices/system/node/has_memory)",
					nodes, node);
	parsed.mode = policies[policy].mode;
	*numa = parsed;
	return 0;
}
