/* SPDX-License-Identifier: MIT */
/* The front-end's messages of postcopy. See frontend.h. */
#include "frontend.h"
#include <errno.h>

int fe_postcopy_advise(struct fe *fe, int *uffd)
{
	struct fe_header header;
	int rc = fe_send(fe, FE_POSTCOPY_ADVISE, 0, NULL, 0, NULL, 0);

	if (rc < 0)
		return rc;
	rc = fe_recv_fd(fe, &header, NULL, 0, uffd);
	if (rc < 0)
		return rc;
	if (header.request != FE_POSTCOPY_ADVISE)
		return -EBADMSG;
	return *uffd < 0 ? -EREMOTEIO : 0;
}

int fe_postcopy_listen(struct fe *fe)
{
	return fe_ack(fe, FE_POSTCOPY_LISTEN, NULL, 0, NULL, 0);
}

int fe_postcopy_table(struct fe *fe, uint64_t *base)
{
	struct fe_table table = {.count = 1}, answer;
	const uint32_t size = 8 + sizeof(struct fe_region);
	struct fe_header header;
	int rc;

	table.regions[0] = (struct fe_region){FE_GPA, fe->size, (uintptr_t)fe->mem, 0};
	rc = fe_send(fe, FE_SET_MEM_TABLE, 0, &table, size, &fe->memfd, 1);
	if (rc < 0)
		return rc;
	rc = fe_recv(fe, &header, &answer, sizeof(answer));
	if (rc < 0)
		return rc;
	if (header.request != FE_SET_MEM_TABLE || rc != (int)size || answer.count != 1 ||
	    answer.regions[0].gpa != FE_GPA || answer.regions[0].size != fe->size)
		return -EBADMSG;
	*base = answer.regions[0].uaddr;
	return 0;
}

int fe_postcopy_ack(struct fe *fe, uint32_t request)
{
	uint64_t zero = 0;

	return fe_send(fe, request, 0, &zero, sizeof(zero), NULL, 0);
}

int fe_postcopy_end(struct fe *fe)
{
	uint64_t value = 1;
	int rc = fe_get_u64(fe, FE_POSTCOPY_END, &value);

	if (rc < 0)
		return rc;
	return value ? -EREMOTEIO : 0;
}
