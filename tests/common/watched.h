/* SPDX-License-Identifier: MIT */
/*
 * Is each access watched in this build? Sanitizers map, keep and free memory in ways of their own,
 * so that what the process maps and holds says nothing; and all takes several times as long.
 */
#ifndef WATCHED_H
#define WATCHED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WATCHED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
	__has_feature(memory_sanitizer)
#define WATCHED 1
#endif
#endif
#ifndef WATCHED
#define WATCHED 0
#endif

#endif
