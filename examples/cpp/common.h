// What the examples share: reading events from text, and percentiles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "spikedeploy/spikedeploy.h"

/// Events of a text file, a line `t x y p` each: seconds, column, row, 1 for ON and 0 or -1 for
/// OFF, as in the RPG data sets. Throws Error at a line that is none, and where times go back.
inline std::vector<spikedeploy::Event> ReadEvents(const std::string& path) {
  using spikedeploy::Code;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "r"),
                                                             &std::fclose);
  if (file == nullptr) throw spikedeploy::Error({Code::kNotFound, path + ": cannot be read"});
  std::vector<spikedeploy::Event> events;
  double t = 0;
  unsigned x = 0;
  unsigned y = 0;
  int polarity = 0;
  int count = 0;
  while ((count = std::fscanf(file.get(), "%lf %u %u %d", &t, &x, &y, &polarity)) == 4) {
    if (x > 65535 || y > 65535 || !(events.empty() || t >= events.back().t)) break;
    events.push_back(
        {t, static_cast<std::uint16_t>(x), static_cast<std::uint16_t>(y), polarity > 0});
  }
  if (count != EOF || events.empty()) {
    throw spikedeploy::Error(
        {Code::kInvalidArgument, path + ": line " + std::to_string(events.size() + 1) +
                                     " is not `t x y p` with a time that is not before the last"});
  }
  return events;
}

/// The value below which that share of the values lies.
inline double Percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  return values[static_cast<std::size_t>(place + 0.5)];
}
