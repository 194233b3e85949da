// The checks of the C++ tests here: EXPECT counts, Failures ends main.
#pragma once

#include <cstdio>

inline int& Failures() {
  static int count = 0;
  return count;
}

#define EXPECT(condition)                                                           \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
      ++Failures();                                                                 \
    }                                                                               \
  } while (false)
