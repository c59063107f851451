/* The plan of a random life: what all of its processes do in every step, worked out from a seed alone. */
#ifndef RANDOM_H_
#define RANDOM_H_

#include "crew.h"

enum { MOST = 8, LINES = 64, STEPS = 14 };

typedef enum { SOUND, BROKEN, REVOKED, OVER } State;

/* A communicator, as all processes know it. */
typedef struct {
  int count, members[MOST];
  State state;
  int goes_on, has_dead;
  ncclComm_t mine;
} Line;

typedef enum { MAKE, MAKE_IN_VAIN, USE, SPLIT, SHRINK, GROW, KILL, REVOKE, ABORT, DESTROY, KINDS } Kind;

/* What is the same in every process of a life. */
typedef struct {
  uint64_t seed;
  int me, processes, alive[MOST], line_count, step;
  Line lines[LINES];
} Life;

/* What happens in one step. */
typedef struct {
  Kind kind;
  int line, way, victim, goes_on, delay_ms;
  int chosen[MOST], colors[MOST], keys[MOST];
} Plan;

static uint64_t dice_state;

static uint64_t roll(void) {
  uint64_t mixed = dice_state += 0x9e3779b97f4a7c15u;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
  return mixed ^ (mixed >> 31);
}

static int below(int bound) { return (int)(roll() % (uint64_t)bound); }

static int rank_in(const Line* line, int process) {
  for (int rank = 0; rank < line->count; rank++) {
    if (line->members[rank] == process) return rank;
  }
  return -1;
}

static int alive_count(const Life* life) {
  int count = 0;
  for (int i = 0; i < life->processes; i++) count += life->alive[i];
  return count;
}

static int alive_outside(const Life* life, const Line* line) {
  int count = 0;
  for (int i = 0; i < life->processes; i++) count += life->alive[i] && rank_in(line, i) < 0;
  return count;
}

static int fits(const Life* life, const Line* line, Kind kind) {
  int others = 0;
  for (int rank = 0; rank < line->count; rank++) others += !life->alive[line->members[rank]];
  switch (kind) {
    case USE: case REVOKE: return line->state == SOUND;
    case SPLIT: return line->state == SOUND || (line->state == REVOKED && !line->has_dead);
    case SHRINK: return line->state != OVER && line->count - others > 0 && line->count > 1;
    case GROW: return line->state == SOUND && alive_outside(life, line) > 0;
    case ABORT: case DESTROY: return line->state != OVER;
    default: return 1;
  }
}

/* A line that the kind can be done to, or none. */
static int pick_line(const Life* life, Kind kind) {
  int found[LINES], count = 0;
  for (int i = 0; i < life->line_count; i++) {
    if (fits(life, &life->lines[i], kind)) found[count++] = i;
  }
  return count == 0 ? -1 : found[below(count)];
}

static Plan plan_of(const Life* life) {
  static const Kind weights[] = {MAKE, MAKE, MAKE_IN_VAIN, USE, USE, USE, USE, SPLIT, SPLIT, SPLIT, SHRINK, SHRINK,
                                 SHRINK, GROW, GROW, KILL, REVOKE, REVOKE, ABORT, ABORT, DESTROY, DESTROY};
  Plan plan = {.line = -1};
  dice_state = life->seed * 1000003 + (uint64_t)life->step;
  plan.kind = life->step == 0 ? MAKE : weights[below(sizeof weights / sizeof *weights)];
  int needs_line = plan.kind != MAKE && plan.kind != MAKE_IN_VAIN && plan.kind != KILL;
  if (needs_line && (plan.line = pick_line(life, plan.kind)) < 0) plan.kind = MAKE;
  if (plan.kind == KILL && alive_count(life) < 3) plan.kind = MAKE;
  if (plan.kind != USE && life->line_count + MOST > LINES) plan.kind = MAKE_IN_VAIN;
  plan.way = below(6), plan.goes_on = below(3) == 0, plan.delay_ms = below(4) * 5;
  for (int i = 0; i < MOST; i++) {
    plan.chosen[i] = below(2), plan.colors[i] = below(4) - 1, plan.keys[i] = below(3) - 1;
  }
  do plan.victim = below(life->processes); while (!life->alive[plan.victim]);
  return plan;
}

#endif
