// From events to the counts a network takes. Nothing here needs ONNX Runtime, and nothing
// allocates after construction.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace spikedeploy {

/// Image size in pixels.
struct Resolution {
  int height = 0;
  int width = 0;

  std::size_t pixels() const {
    return static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  }
  bool operator==(const Resolution& other) const {
    return height == other.height && width == other.width;
  }
  bool operator!=(const Resolution& other) const { return !(*this == other); }
};

/// One brightness change.
struct Event {
  double t = 0;           ///< seconds
  std::uint16_t x = 0;    ///< column, 0 at the left
  std::uint16_t y = 0;    ///< row, 0 at the top
  bool brighter = false;  ///< polarity: true ON, false OFF
};

/// Largest count of integer networks, which saturate there (docs/artifact.md, "cnt").
inline constexpr int kCountLimit = 127;

/// Counts of events per polarity and pixel, [2, H, W]: channel 0 brighter, channel 1 darker.
///
/// Count is std::uint8_t for networks that take bytes (counts saturate at 127) and float for those
/// that take float32 (counts do not saturate). The counts equal those of the Python runtime.
template <class Count>
class EventAccumulator {
  static_assert(std::is_same_v<Count, std::uint8_t> || std::is_same_v<Count, float>,
                "counts are std::uint8_t or float");

 public:
  explicit EventAccumulator(Resolution resolution)
      : resolution_(resolution), counts_(2 * resolution.pixels()) {}

  /// Take in one event. False, and counted in dropped(), where it lies outside the image.
  bool Add(int x, int y, bool brighter) {
    if (x < 0 || y < 0 || x >= resolution_.width || y >= resolution_.height) {
      ++dropped_;
      return false;
    }
    const std::size_t pixel =
        static_cast<std::size_t>(y) * static_cast<std::size_t>(resolution_.width) +
        static_cast<std::size_t>(x);
    Count& count = counts_[brighter ? pixel : pixel + resolution_.pixels()];
    if constexpr (std::is_same_v<Count, float>) {
      count += 1.0F;
    } else if (count < kCountLimit) {
      ++count;
    }
    ++added_;
    return true;
  }

  bool Add(const Event& event) { return Add(event.x, event.y, event.brighter); }

  /// Forget the window, for the next one.
  void Clear() {
    std::fill(counts_.begin(), counts_.end(), Count{0});
    added_ = dropped_ = 0;
  }

  Resolution resolution() const { return resolution_; }
  /// [2, H, W], until the next call that is not const.
  const Count* data() const { return counts_.data(); }
  Count* data() { return counts_.data(); }
  std::size_t size() const { return counts_.size(); }
  /// Events of this window inside and outside the image.
  std::int64_t added() const { return added_; }
  std::int64_t dropped() const { return dropped_; }

 private:
  Resolution resolution_;
  std::vector<Count> counts_;
  std::int64_t added_ = 0;
  std::int64_t dropped_ = 0;
};

/// Blanks pixels that were active in nearly every window so far, as event_flow's loader and
/// calib_data.hot_pixels do. One filter belongs to one recording.
class HotPixelFilter {
 public:
  struct Options {
    std::size_t max_pixels = 100;  ///< most pixels blanked at a time, the most active first
    int min_observations = 5;      ///< windows to see before any is blanked
    double max_rate = 0.8;         ///< share of windows above which a pixel is hot
  };

  explicit HotPixelFilter(Resolution resolution) : HotPixelFilter(resolution, Options()) {}
  HotPixelFilter(Resolution resolution, const Options& options)
      : options_(options), active_(resolution.pixels()), hot_(resolution.pixels()) {}

  /// Take in one window's counts [2, H, W] and zero its hot pixels. Returns how many there were;
  /// the counts must be of the filter's resolution.
  template <class Count>
  std::size_t Apply(EventAccumulator<Count>& events) {
    if (events.size() != 2 * active_.size()) return 0;
    return Apply(events.data());
  }

  template <class Count>
  std::size_t Apply(Count* counts) {
    const std::size_t pixels = active_.size();
    for (std::size_t i = 0; i < pixels; ++i) {
      active_[i] += counts[i] != Count{0} || counts[i + pixels] != Count{0};
    }
    if (++windows_ <= options_.min_observations) return 0;
    const std::size_t count = FindHot();
    for (std::size_t i = 0; i < count; ++i) {
      counts[hot_[i]] = counts[hot_[i] + pixels] = Count{0};
    }
    return count;
  }

  /// Forget everything seen.
  void Reset() {
    std::fill(active_.begin(), active_.end(), 0);
    windows_ = 0;
  }

 private:
  // The hottest pixels to the front of hot_: by activity, then by place.
  std::size_t FindHot() {
    std::size_t count = 0;
    for (std::size_t i = 0; i < active_.size(); ++i) {
      const double rate = static_cast<double>(active_[i]) / static_cast<double>(windows_);
      if (rate > options_.max_rate) hot_[count++] = i;
    }
    if (count <= options_.max_pixels) return count;
    const auto first = hot_.begin();
    std::nth_element(first, first + static_cast<std::ptrdiff_t>(options_.max_pixels),
                     first + static_cast<std::ptrdiff_t>(count),
                     [this](std::size_t a, std::size_t b) {
                       return active_[a] != active_[b] ? active_[a] > active_[b] : a < b;
                     });
    return options_.max_pixels;
  }

  Options options_;
  std::vector<std::int64_t> active_;
  std::vector<std::size_t> hot_;
  std::int64_t windows_ = 0;
};

}  // namespace spikedeploy
