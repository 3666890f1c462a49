// Sends the operators that torch_npu registered for its device to the CPU: they have no kernels without CANN.
#include <ATen/core/dispatch/Dispatcher.h>

#include <map>

#include "host.h"

namespace {

using simulated::on_host;
using simulated::Tensor;

std::map<std::string, c10::RegistrationHandleRAII> redirections;
std::map<std::string, std::string> refusals;

template <typename Signature>
auto npu_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

int64_t format_of(const Tensor& t) { return npu_operator<int64_t(const Tensor&)>("npu::get_npu_format").call(t); }

bool has_internal_format(const Tensor& t) {
  constexpr int64_t base[] = {-1, 0, 1, 2, 27, 30};  // undefined, NCHW, NHWC, ND, NDHWC, NCDHW
  return t.defined() && t.is_privateuseone() && std::find(std::begin(base), std::end(base), format_of(t)) == std::end(base);
}

void refused(const c10::OperatorHandle& op, torch::jit::Stack*) {
  const auto name = c10::toString(op.schema().operator_name());
  TORCH_CHECK(false, "simulated NPU: ", name, ": ", refusals.at(name));
}

// Operators over lists of tensors take base formats only, as in torch_npu, whose words these are.
void on_cpu_in_base_formats(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size()))
    if (value.isTensorList())
      for (const Tensor& t : value.toTensorVector())
        TORCH_CHECK(!has_internal_format(t), "Current operator ", op.schema().name().substr(6),
                    " do not support internal format.");
  simulated::on_cpu(op, stack);
}

// From the next redirection on, the operator is an error that ends with the reason.
void refuse(const std::string& name, const std::string& reason) { refusals.insert_or_assign(name, reason); }

// Replace the device's kernel of each named operator; `restore` brings torch_npu's own back.
void redirect(const std::vector<std::string>& names) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : names) {
    const auto dot = name.find('.');
    const c10::OperatorName op(name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1));
    auto kernel = c10::KernelFunction::makeFromBoxedFunction<&simulated::on_cpu>();
    if (refusals.count(name))
      kernel = c10::KernelFunction::makeFromBoxedFunction<&refused>();
    else if (name.find("foreach_") != std::string::npos || name.find("_fused_") != std::string::npos)
      kernel = c10::KernelFunction::makeFromBoxedFunction<&on_cpu_in_base_formats>();
    redirections.emplace(name, dispatcher.registerImpl(op, c10::DispatchKey::PrivateUse1, std::move(kernel), std::nullopt,
                                                       nullptr, "simulated NPU"));
  }
}

void restore(const std::string& name) { TORCH_CHECK(redirections.erase(name), name, " is not redirected"); }

// torch_npu's own allocation decides whether the format is allowed. In memory the elements stay in their order.
Tensor in_format(const Tensor& t, int64_t format) {
  using Empty = Tensor(simulated::Ints, std::optional<at::ScalarType>, std::optional<at::Layout>, std::optional<at::Device>,
                       std::optional<bool>, int64_t, bool);
  auto result = npu_operator<Empty>("npu::unsafe_empty_with_format")
                    .call(t.sizes(), t.scalar_type(), t.layout(), t.device(), false, format, false);
  on_host(result).copy_(on_host(t));
  return result;
}

Tensor format_cast(const Tensor& t, int64_t format, std::optional<int64_t>, std::optional<int64_t>) {
  simulated::count("npu::npu_format_cast");
  return in_format(t, format);
}

// The gradient of a weight comes in the weight's format (op-plugin, ops/aclops/ConvolutionBackwardKernelNpu.cpp).
simulated::Three convolution_backward(const Tensor& gradient, const Tensor& x, const Tensor& weight,
                                      at::OptionalIntArrayRef bias, simulated::Ints stride, simulated::Ints padding,
                                      simulated::Ints dilation, bool transposed, simulated::Ints output_padding,
                                      int64_t groups, std::array<bool, 3> wanted) {
  auto [dx, dweight, dbias] = simulated::convolution_backward(gradient, x, weight, bias, stride, padding, dilation,
                                                              transposed, output_padding, groups, wanted);
  if (dweight.defined() && has_internal_format(weight)) dweight = in_format(dweight, format_of(weight));
  return {dx, dweight, dbias};
}

Tensor& copy_(Tensor& to, const Tensor& from, bool) {
  simulated::count("aten::copy_");
  on_host(to).copy_(on_host(from));
  return to;
}

Tensor cast(const Tensor& t, at::ScalarType type) {
  simulated::count("npu::_npu_dtype_cast");
  auto result = at::empty(t.sizes(), t.options().dtype(type));
  on_host(result).copy_(on_host(t));
  return result;
}

TORCH_LIBRARY(simulated_npu, m) {
  m.def("redirect", &redirect);
  m.def("refuse", &refuse);
  m.def("restore", &restore);
  m.def("calls", &simulated::calls);
  m.def("forget", &simulated::forget);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("copy_", &copy_);
  m.impl("_copy_from", &simulated::copy_from);
  m.impl("_copy_from_and_resize", &simulated::copy_from_and_resize);
  m.impl("_local_scalar_dense", &simulated::item);
  m.impl("native_batch_norm", &simulated::native_batch_norm);
  m.impl("convolution", &simulated::convolution);
  m.impl("convolution_overrideable", &simulated::convolution);
  m.impl("convolution_backward", &convolution_backward);
  m.impl("convolution_backward_overrideable", &simulated::convolution_backward_overrideable);
}

TORCH_LIBRARY_IMPL(npu, PrivateUse1, m) {
  m.impl("_npu_dtype_cast", &cast);
  m.impl("npu_format_cast", &format_cast);
}

}  // namespace
