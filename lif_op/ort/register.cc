// Entry point of the op library.
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

#include "lif_op/target.h"
#include "ort/api.h"
#include "ort/lif_node.h"
#include "ort/node.h"
#include "ort/op.h"
#include "ort/qconv_lif_node.h"
#include "ort/qconv_node.h"
#include "ort/qlif_node.h"
#include "ort/spikes_node.h"

namespace lif_op::ort {
namespace {

constexpr char kLibrary[] = "spikedeploy op library";

template <class Function>
Function ApiSlot(const RawApi* table, std::size_t slot) {
  return reinterpret_cast<Function>(reinterpret_cast<void* const*>(table)[slot]);
}

Api ApiFromTable(const RawApi* table) {
  Api api{};
#define LIF_OP_ORT_LOAD(slot, name, result, parameters) \
  api.name = ApiSlot<decltype(api.name)>(table, slot);
  LIF_OP_ORT_SLOTS(LIF_OP_ORT_LOAD)
#undef LIF_OP_ORT_LOAD
  return api;
}

// The fused layers for one type of x and of the membrane.
template <class X, class Mem>
struct FusedOps {
  explicit FusedOps(const Api& api) : plain(api), recurrent(api) {}
  Op<QconvLifNode<X, Mem, false>> plain;
  Op<QconvLifNode<X, Mem, true>> recurrent;
};

// The ops of this library as one runtime knows them. The runtime keeps pointers to all of it for as
// long as it has sessions, so it is never destroyed.
class Runtime {
 public:
  explicit Runtime(const RawApi* table) : api_(ApiFromTable(table)) {}

  void AddTo(SessionOptions* options) {
    if (snn_ == nullptr) {
      snn_ = Domain("snn", {&lif_, &qlif_int16_, &qlif_int8_, &qconv_, &qconv_packed_,
                            &pack_spikes_, &unpack_spikes_, &counts16_.plain, &counts16_.recurrent,
                            &counts8_.plain, &counts8_.recurrent, &spikes16_.plain,
                            &spikes16_.recurrent, &spikes8_.plain, &spikes8_.recurrent});
    }
    if (foreign_ == nullptr) foreign_ = Domain("SNN_implementation", {&foreign_lif_});
    Check(api_.AddCustomOpDomain(options, snn_));
    Check(api_.AddCustomOpDomain(options, foreign_));
  }

  const Api& api() const { return api_; }

 private:
  CustomOpDomain* Domain(const char* name, std::initializer_list<const CustomOp*> ops) const {
    CustomOpDomain* domain = nullptr;
    Check(api_.CreateCustomOpDomain(name, &domain));
    for (const CustomOp* op : ops) Check(api_.CustomOpDomain_Add(domain, op));
    return domain;
  }

  const Api api_;
  const Op<LifNode> lif_{api_};
  const Op<ForeignLifNode> foreign_lif_{api_};
  const Op<QlifNode<std::int16_t>> qlif_int16_{api_};
  const Op<QlifNode<std::int8_t>> qlif_int8_{api_};
  const Op<QconvNode> qconv_{api_};
  const Op<QconvPackedNode> qconv_packed_{api_};
  const Op<PackSpikesNode> pack_spikes_{api_};
  const Op<UnpackSpikesNode> unpack_spikes_{api_};
  const FusedOps<std::uint8_t, std::int16_t> counts16_{api_};
  const FusedOps<std::uint8_t, std::int8_t> counts8_{api_};
  const FusedOps<std::uint32_t, std::int16_t> spikes16_{api_};
  const FusedOps<std::uint32_t, std::int8_t> spikes8_{api_};
  CustomOpDomain* snn_ = nullptr;
  CustomOpDomain* foreign_ = nullptr;
};

// Ops by the runtime's table of functions.
struct Runtimes {
  std::mutex mutex;
  std::map<const RawApi*, std::unique_ptr<Runtime>> by_table;
};

Runtimes& AllRuntimes() {
  static auto* runtimes = new Runtimes;
  return *runtimes;
}

// A runtime whose table is too short for us. The one slot read here is in every table.
Status* TooOld(const ApiBase* base) noexcept {
  const RawApi* table = base->GetApi(1);
  if (table == nullptr) return nullptr;
  Api api{};
  api.CreateStatus = ApiSlot<decltype(api.CreateStatus)>(table, 0);
  return Guard(api, kLibrary, [&] {
    throw std::runtime_error(std::string("needs ONNX Runtime ") + kOldestRuntime +
                             " or newer, this is " + base->GetVersionString());
  });
}

Status* Register(SessionOptions* options, const RawApi* table) noexcept {
  return Guard(ApiFromTable(table), kLibrary, [&] {
    ActiveTarget();  // a wrong LIF_OP_TARGET is reported here, before any model is loaded
    Runtimes& runtimes = AllRuntimes();
    const std::lock_guard<std::mutex> lock(runtimes.mutex);
    std::unique_ptr<Runtime>& runtime = runtimes.by_table[table];
    if (runtime == nullptr) runtime = std::make_unique<Runtime>(table);
    runtime->AddTo(options);
  });
}

}  // namespace
}  // namespace lif_op::ort

extern "C" __attribute__((visibility("default"))) lif_op::ort::Status* RegisterCustomOps(
    lif_op::ort::SessionOptions* options, const lif_op::ort::ApiBase* base) noexcept {
  using namespace lif_op::ort;
  const RawApi* table = base->GetApi(kApiVersion);
  return table == nullptr ? TooOld(base) : Register(options, table);
}
