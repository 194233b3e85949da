// Timing for the micro-benchmarks of the kernels.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "lif_op/target.h"

namespace lif_op::bench {

struct Candidate {
  Target target;
  std::function<void()> run;
};

inline double Milliseconds(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

// Runs the candidates in turn, A B C A B C, so that whatever else the machine does meets all of
// them, and prints median, fastest and the ratio of the medians to the first candidate's.
inline void Compare(const std::string& name, const std::vector<Candidate>& candidates,
                    int rounds = 31) {
  std::vector<std::vector<double>> times(candidates.size());
  for (int round = -1; round < rounds; ++round) {
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const double elapsed = Milliseconds(candidates[i].run);
      if (round >= 0) times[i].push_back(elapsed);  // the first round warms up
    }
  }
  double base = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    std::sort(times[i].begin(), times[i].end());
    const double median = times[i][times[i].size() / 2];
    if (i == 0) base = median;
    std::printf("%-28s %-11s median %8.3f ms  fastest %8.3f ms  x%.2f\n", name.c_str(),
                TargetName(candidates[i].target), median, times[i].front(), base / median);
  }
}

}  // namespace lif_op::bench
