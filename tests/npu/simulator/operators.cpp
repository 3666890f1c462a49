// Sends the operators that torch_npu registered for its device to the CPU: they have no kernels without CANN.
#include <ATen/core/dispatch/Dispatcher.h>

#include <map>

#include "host.h"

namespace {

using simulated::on_host;
using simulated::Tensor;

std::map<std::string, c10::RegistrationHandleRAII> redirections;

// Replace the device's kernel of each named operator; `restore` brings torch_npu's own back.
void redirect(const std::vector<std::string>& names) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : names) {
    const auto dot = name.find('.');
    const c10::OperatorName op(name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1));
    redirections.emplace(
        name, dispatcher.registerImpl(op, c10::DispatchKey::PrivateUse1,
                                      c10::KernelFunction::makeFromBoxedFunction<&simulated::on_cpu>(), std::nullopt,
                                      nullptr, "simulated NPU"));
  }
}

void restore(const std::string& name) { TORCH_CHECK(redirections.erase(name), name, " is not redirected"); }

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
  m.impl("convolution_backward", &simulated::convolution_backward);
  m.impl("convolution_backward_overrideable", &simulated::convolution_backward_overrideable);
}

TORCH_LIBRARY_IMPL(npu, PrivateUse1, m) { m.impl("_npu_dtype_cast", &cast); }

}  // namespace
