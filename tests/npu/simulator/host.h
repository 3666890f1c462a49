// What both simulated devices do with an operator: count it, refuse mixed devices, compute it on the CPU.
#pragma once
#include <ATen/ATen.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/convolution_backward.h>
#include <torch/library.h>

#include <mutex>

namespace simulated {

using at::Tensor;
using Ints = at::IntArrayRef;
using Three = std::tuple<Tensor, Tensor, Tensor>;

inline std::mutex mutex;
inline c10::Dict<std::string, int64_t> counts;

inline void count(const std::string& name) {
  std::lock_guard<std::mutex> lock(mutex);
  counts.insert_or_assign(name, counts.contains(name) ? counts.at(name) + 1 : 1);
}

inline c10::Dict<std::string, int64_t> calls() {
  std::lock_guard<std::mutex> lock(mutex);
  return counts.copy();
}

inline void forget() {
  std::lock_guard<std::mutex> lock(mutex);
  counts.clear();
}

// The same bytes as a CPU tensor.
inline Tensor on_host(const Tensor& t) {
  if (!t.defined() || !t.is_privateuseone()) return t;
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), [t](void*) {}, t.options().device(c10::kCPU));
}

inline void refuse_mixed(const std::string& name, const Tensor& t, std::optional<c10::Device>& seen) {
  if (!t.defined() || (t.dim() == 0 && t.is_cpu())) return;  // a scalar of the CPU may mix, as on real devices
  TORCH_CHECK(!seen || *seen == t.device(), "simulated NPU: ", name, " mixes tensors on ", *seen, " and ", t.device());
  seen = t.device();
}

inline void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto name = c10::toString(schema.operator_name());
  count(name);
  std::optional<c10::Device> seen;
  for (const auto& value : torch::jit::last(*stack, schema.arguments().size())) {
    if (value.isTensor()) refuse_mixed(name, value.toTensor(), seen);
    if (value.isTensorList())
      for (const Tensor& t : value.toTensorVector()) refuse_mixed(name, t, seen);
  }
  at::native::cpu_fallback(op, stack);
}

inline at::Scalar item(const Tensor& t) {
  count("aten::_local_scalar_dense");
  return on_host(t).item();
}

inline Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  on_host(to).copy_(on_host(from));
  return to;
}

inline Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

// The CPU fallback cannot serve convolution: upstream has it dispatch on the device.
inline Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, Ints stride,
                          Ints padding, Ints dilation, bool transposed, Ints output_padding, int64_t groups) {
  count("aten::convolution");
  std::optional<c10::Device> seen;
  for (const Tensor& t : {x, weight, bias.value_or(Tensor())}) refuse_mixed("aten::convolution", t, seen);
  TORCH_CHECK(x.dtype() == weight.dtype(), "simulated NPU: convolution of ", x.dtype(), " by ", weight.dtype());
  const auto host_bias = bias && bias->defined() ? std::optional<Tensor>(on_host(*bias)) : std::nullopt;
  return at::convolution(on_host(x), on_host(weight), host_bias, stride, padding, dilation, transposed, output_padding,
                         groups)
      .to(x.device());
}

inline Three convolution_backward(const Tensor& gradient, const Tensor& x, const Tensor& weight, at::OptionalIntArrayRef,
                                  Ints stride, Ints padding, Ints dilation, bool transposed, Ints output_padding,
                                  int64_t groups, std::array<bool, 3> wanted) {
  count("aten::convolution_backward");
  auto [dx, dweight, dbias] =
      at::convolution_backward(on_host(gradient), on_host(x), on_host(weight), Ints{weight.size(transposed ? 1 : 0)},
                               stride, padding, dilation, transposed, output_padding, groups, wanted);
  auto back = [&](const Tensor& t) { return t.defined() ? t.to(x.device()) : t; };
  return {back(dx), back(dweight), back(dbias)};
}

inline Three convolution_backward_overrideable(const Tensor& gradient, const Tensor& x, const Tensor& weight,
                                               Ints stride, Ints padding, Ints dilation, bool transposed,
                                               Ints output_padding, int64_t groups, std::array<bool, 3> wanted) {
  return simulated::convolution_backward(gradient, x, weight, std::nullopt, stride, padding, dilation, transposed, output_padding,
                              groups, wanted);
}

// The CPU fallback would update copies of the running statistics: the schema does not say that they change.
inline Three native_batch_norm(const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                               const std::optional<Tensor>& mean, const std::optional<Tensor>& variance, bool training,
                               double momentum, double epsilon) {
  count("aten::native_batch_norm");
  auto host = [](const std::optional<Tensor>& t) { return t ? std::optional<Tensor>(on_host(*t)) : std::nullopt; };
  std::optional<c10::Device> seen;
  for (const auto& t : {std::optional<Tensor>(x), weight, bias, mean, variance})
    if (t) refuse_mixed("aten::native_batch_norm", *t, seen);
  auto [y, batch_mean, batch_deviation] = at::native_batch_norm(on_host(x), host(weight), host(bias), host(mean),
                                                                host(variance), training, momentum, epsilon);
  return {y.to(x.device()), batch_mean.to(x.device()), batch_deviation.to(x.device())};
}

}  // namespace simulated
