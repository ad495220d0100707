/* lane_suite.h - what every kind of lane must do. */
#ifndef SL_TESTS_LINK_LANE_SUITE_H
#define SL_TESTS_LINK_LANE_SUITE_H

#include "tests/link/lane_rig.h"

/* Runs all of them (or those that fit `pattern`) in `world`; returns the failures. */
int lane_suite(const char *name, const char *pattern);

#endif
