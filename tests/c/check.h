/* What the C programs here share: a check that names its line, and a watchdog. */
#ifndef CHECK_H_
#define CHECK_H_

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(truth)                                                                  \
  do {                                                                                \
    if (!(truth)) {                                                                   \
      fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #truth,      \
              ncclGetLastError(NULL));                                                \
      exit(1);                                                                        \
    }                                                                                 \
  } while (0)

/* The last error says all of this. */
#define CHECK_SAID(words) CHECK(strstr(ncclGetLastError(NULL), words) != NULL)

#define WATCHDOG_SECONDS 20

#endif
