// Whether two functions look the same to the calling convention, for proofs that a hand-written API
// table agrees with the official headers.
#pragma once

#include <type_traits>

namespace lif_op::ort {

// Two types that look the same to the calling convention: both pointers, or scalars of one size.
template <class Ours, class Theirs>
constexpr bool kSameKind = std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> &&
                           std::is_floating_point_v<Ours> == std::is_floating_point_v<Theirs> &&
                           sizeof(Ours) == sizeof(Theirs);

template <class Ours, class Theirs>
struct Compare {
  static constexpr bool kSame = kSameKind<Ours, Theirs>;
};

template <>
struct Compare<void, void> {
  static constexpr bool kSame = true;
};

// Signatures: the kinds of the result and of every parameter, and how many there are. Whether a
// function is declared noexcept does not matter.
template <class R, class... A, class S, class... B>
struct Compare<R (*)(A...), S (*)(B...)> {
  template <bool kSameCount>
  static constexpr bool Parameters() {
    if constexpr (kSameCount) {
      return (Compare<A, B>::kSame && ...);
    } else {
      return false;
    }
  }
  static constexpr bool kSame = Compare<R, S>::kSame && Parameters<sizeof...(A) == sizeof...(B)>();
};

template <class R, class... A, class S, class... B>
struct Compare<R (*)(A...), S (*)(B...) noexcept> : Compare<R (*)(A...), S (*)(B...)> {};

template <class Ours, class Theirs>
constexpr bool kAgree = Compare<Ours, Theirs>::kSame;

}  // namespace lif_op::ort
