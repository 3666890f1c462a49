// A SIMULATED device for tests: host memory under the name PrivateUse1, kernels of the CPU. torch_npu has no part in it.
// It refuses operators on mixed devices, and counts all.
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>

#include "host.h"

namespace {

using simulated::Ints;
using simulated::Tensor;
constexpr auto kNpu = c10::DeviceType::PrivateUse1;
const c10::Device only{kNpu, 0};

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* memory = size ? c10::alloc_cpu(size) : nullptr;
    return {memory, memory, &c10::free_cpu, only};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
} memory;

// One device, one stream, and everything is over when it returns.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kNpu; }
  c10::Device exchangeDevice(c10::Device) const override { return only; }
  c10::Device getDevice() const override { return only; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, only); }
  c10::Stream getDefaultStream(c10::Device) const override { return getStream(only); }
  c10::Stream getNewStream(c10::Device, int) const override { return getStream(only); }
  c10::Stream exchangeStream(c10::Stream) const override { return getStream(only); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    static char done;
    *event = &done;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  void synchronizeEvent(void*) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  at::Device getDeviceFromPtr(void*) const override { return only; }
  bool isPinnedPtr(const void*) const override { return false; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
};

Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
             std::optional<c10::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic_symint(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                          c10::dtype_or_default(type), format);
}

Tensor empty_strided(Ints size, Ints stride, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                     std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(type));
}

// Results of the CPU fallback are made empty, then this long.
const Tensor& resize_(const Tensor& t, Ints size, std::optional<at::MemoryFormat>) {
  auto* impl = t.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  const size_t needed = (impl->storage_offset() + impl->numel()) * impl->dtype().itemsize();
  TORCH_CHECK(needed <= impl->storage().nbytes() || impl->storage().nbytes() == 0, "simulated NPU: it cannot grow a tensor");
  if (needed > impl->storage().nbytes()) {
    impl->storage().set_data_ptr_noswap(memory.allocate(needed));
    impl->storage().set_nbytes(needed);
  }
  return t;
}

Tensor& set_storage(Tensor& t, at::Storage from, int64_t offset, Ints size, Ints stride) {
  return at::cpu::set_(t, from, offset, size, stride);
}

Tensor& set_whole_storage(Tensor& t, at::Storage from) {
  const int64_t length = static_cast<int64_t>(from.nbytes() / t.dtype().itemsize());
  return at::cpu::set_(t, from, 0, {length}, {1});
}

void record_stream(Tensor&, c10::Stream) {}

TORCH_LIBRARY(simulated_npu, m) {
  m.def("calls", &simulated::calls);
  m.def("forget", &simulated::forget);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&simulated::on_cpu>()); }
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("resize_", &resize_);
  m.impl("record_stream", &record_stream);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("_copy_from", &simulated::copy_from);
  m.impl("_copy_from_and_resize", &simulated::copy_from_and_resize);
  m.impl("_local_scalar_dense", &simulated::item);
  m.impl("native_batch_norm", &simulated::native_batch_norm);
  m.impl("convolution_overrideable", &simulated::convolution);
  m.impl("convolution_backward_overrideable", &simulated::convolution_backward_overrideable);
}

const bool registered = [] {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(kNpu, &memory);
  return true;
}();

}  // namespace
