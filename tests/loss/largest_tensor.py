"""Notes how large temporary tensors get."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of a result."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            # a view that is expanded has elements, but no memory
            if isinstance(tensor, torch.Tensor) and 0 not in tensor.stride():
                self.most = max(self.most, tensor.numel())
        return result
