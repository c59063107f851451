/* The collectives with a configuration, on two ranks of one process: every selection gives the same sums, and
 * what is wrong with one is said before anything is sent. */
#include "check.h"
#include "nccl.h"
#include "shoal.h"

enum { RANKS = 2, COUNT = 300 };

static ncclComm_t comms[RANKS];
static float mine[RANKS][RANKS * COUNT], got[RANKS][RANKS * COUNT];

static void fill(void) {
  for (int rank = 0; rank < RANKS; rank++)
    for (int i = 0; i < RANKS * COUNT; i++) {
      mine[rank][i] = (float)(1000 * rank + i);
      got[rank][i] = -1;
    }
}

static float value(int rank, int place) { return (float)(1000 * rank + place); }

static void all_reduce(const ncclCollConfig_t* config) {
  fill();
  CHECK(ncclGroupStart() == ncclSuccess);
  for (int rank = 0; rank < RANKS; rank++)
    CHECK(ncclAllReduceConfig(mine[rank], got[rank], COUNT, ncclFloat, ncclSum, comms[rank], NULL, config) ==
          ncclSuccess);
  CHECK(ncclGroupEnd() == ncclSuccess);
  for (int rank = 0; rank < RANKS; rank++)
    for (int i = 0; i < COUNT; i++) CHECK(got[rank][i] == value(0, i) + value(1, i));
}

static void selections(void) {
  static const char* const good[] = {NULL, "", "ring", "TREE", " exchange , ", "pairwise,ring", "^ring", "^nvls"};
  static const char* const bad[] = {"nvls", "bogus", "ring,bogus", "^", "ring;tree", "pat,nvlstree"};
  ncclCollConfig_t config = NCCL_COLLCONFIG_INITIALIZER;
  all_reduce(NULL);
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    config.algSelection = good[i];
    all_reduce(&config);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    config.algSelection = bad[i];
    config.forceAlgSelection = 1;
    CHECK(ncclAllReduceConfig(mine[0], got[0], COUNT, ncclFloat, ncclSum, comms[0], NULL, &config) ==
          ncclInvalidArgument);
    CHECK_SAID("ncclAllReduceConfig: config.algSelection is ");
    config.forceAlgSelection = 0;
    all_reduce(&config);
  }
}

static void options(void) {
  ncclCollConfig_t config = NCCL_COLLCONFIG_INITIALIZER;
  ncclConfigExt_t foreign = {NULL, {12345, 1}, {0}}, own = {&foreign, {SHOAL_CONFIG_VENDOR, 0}, {0}};
  own.key.optionId = SHOAL_OPTION_ALGORITHM;
  own.val.s = "tree";
  config.ext = &own;
  config.algSelection = "ring";
  all_reduce(&config);
  own.val.s = "nonsense";
  CHECK(ncclAllReduceConfig(mine[0], got[0], COUNT, ncclFloat, ncclSum, comms[0], NULL, &config) ==
        ncclInvalidArgument);
  CHECK_SAID("nonsense");
  own.key.optionId = SHOAL_OPTION_COALESCE;
  own.val.i = 0;
  all_reduce(&config);
  own.val.i = 5;
  CHECK(ncclAllReduceConfig(mine[0], got[0], COUNT, ncclFloat, ncclSum, comms[0], NULL, &config) ==
        ncclInvalidArgument);
  CHECK_SAID("SHOAL_OPTION_COALESCE to 5");
}

/* Each of the others once, under the algorithm that all of them have. */
static void others(void) {
  ncclCollConfig_t config = NCCL_COLLCONFIG_INITIALIZER;
  config.algSelection = "exchange";
#define ALL(call, truth)                                           \
  do {                                                             \
    fill();                                                        \
    CHECK(ncclGroupStart() == ncclSuccess);                        \
    for (int r = 0; r < RANKS; r++) CHECK((call) == ncclSuccess);  \
    CHECK(ncclGroupEnd() == ncclSuccess);                          \
    for (int r = 0; r < RANKS; r++)                                \
      for (int i = 0; i < COUNT; i++) CHECK(truth);                \
  } while (0)
  ALL(ncclReduceConfig(mine[r], got[r], COUNT, ncclFloat, ncclSum, 1, comms[r], NULL, &config),
      got[1][i] == value(0, i) + value(1, i));
  ALL(ncclBroadcastConfig(mine[r], got[r], COUNT, ncclFloat, 1, comms[r], NULL, &config),
      got[r][i] == value(1, i));
  ALL(ncclReduceScatterConfig(mine[r], got[r], COUNT, ncclFloat, ncclSum, comms[r], NULL, &config),
      got[r][i] == value(0, r * COUNT + i) + value(1, r * COUNT + i));
  ALL(ncclAllGatherConfig(mine[r], got[r], COUNT, ncclFloat, comms[r], NULL, &config),
      got[r][i] == value(0, i) && got[r][COUNT + i] == value(1, i));
  ALL(ncclAlltoAllConfig(mine[r], got[r], COUNT, ncclFloat, comms[r], NULL, &config),
      got[r][i] == value(0, r * COUNT + i) && got[r][COUNT + i] == value(1, r * COUNT + i));
  ALL(ncclGatherConfig(mine[r], got[r], COUNT, ncclFloat, 0, comms[r], NULL, &config),
      got[0][i] == value(0, i) && got[0][COUNT + i] == value(1, i));
  ALL(ncclScatterConfig(mine[r], got[r], COUNT, ncclFloat, 0, comms[r], NULL, &config),
      got[r][i] == value(0, r * COUNT + i));
#undef ALL
}

static void wrong_structures(void) {
  ncclCollConfig_t config = NCCL_COLLCONFIG_INITIALIZER;
#define REFUSED(words)                                                                                     \
  do {                                                                                                     \
    CHECK(ncclBroadcastConfig(mine[0], got[0], 1, ncclFloat, 0, comms[0], NULL, &config) ==                \
          ncclInvalidArgument);                                                                            \
    CHECK_SAID("ncclBroadcastConfig: config");                                                             \
    CHECK_SAID(words);                                                                                     \
    CHECK(ncclBroadcastConfig(mine[0], got[0], 1, ncclFloat, 0, NULL, NULL, &config) ==                    \
          ncclInvalidArgument);                                                                            \
    CHECK_SAID(words);                                                                                     \
    config = good;                                                                                         \
  } while (0)
  const ncclCollConfig_t good = config;
  config.size = 8;
  REFUSED("8 bytes");
  config.magic = 3;
  REFUSED("magic 0x3");
  config.forceAlgSelection = -1;
  REFUSED("forceAlgSelection is -1");
  config.CTAPolicy = 4;
  REFUSED("CTAPolicy is 4");
  config.algSelection = "tree,unheard";
  CHECK(ncclGroupStart() == ncclSuccess);
  CHECK(ncclAllReduceConfig(mine[0], got[0], 1, ncclFloat, ncclSum, comms[0], NULL, &config) ==
        ncclInvalidArgument);
  CHECK(ncclGroupEnd() == ncclInvalidArgument);
#undef REFUSED
}

int main(void) {
  alarm(WATCHDOG_SECONDS);
  CHECK(ncclCommInitAll(comms, RANKS, NULL) == ncclSuccess);
  selections();
  options();
  others();
  wrong_structures();
  all_reduce(NULL);
  for (int rank = 0; rank < RANKS; rank++) CHECK(ncclCommDestroy(comms[rank]) == ncclSuccess);
  return 0;
}
