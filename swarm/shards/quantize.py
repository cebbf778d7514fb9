"""int8 and nf4 weights through bitsandbytes, fused experts included.

bitsandbytes replaces `nn.Linear` only and leaves the fused expert tensors `[experts, out, in]` of transformers alone.
Here every expert becomes quantized linears too, called through transformers' own experts interface.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from swarm.core.config import Quantization
from swarm.core.errors import ConfigError, ModelError

_EXPERTS = "layerswarm_quantized"
_MAX_LEFT = 0.1  # part of a layer that may stay unquantized: routers, convolutions
_NF4_BLOCK = 64  # on the CPU, bitsandbytes' nf4 needs input sizes that are multiples of this


def require_bitsandbytes() -> ModuleType:
    """The package, imported when it is first needed.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import bitsandbytes
    except ImportError as exc:
        raise ConfigError("--quantize needs bitsandbytes: pip install 'layerswarm[quantize]'") from exc
    return bitsandbytes


def quantized_bytes(model: PreTrainedModel, dtype: torch.dtype, kind: Quantization) -> int:
    """Memory of a (meta) model's weights after quantization: matrices at 1 or 0.5625 bytes, the rest in `dtype`."""
    matrix = 1.0 if kind == "int8" else 0.5625
    total = 0.0
    for parameter in model.parameters():
        total += parameter.numel() * (matrix if parameter.dim() >= 2 else dtype.itemsize)
    return int(total)


def quantize_layer(
    model: PreTrainedModel, layer: nn.Module, kind: Quantization, device: torch.device
) -> None:
    """Replace the matrices of one decoder layer by quantized ones on `device`, and move the rest there.

    Raises:
        ModelError: if most of this layer cannot be quantized, or not on this device.
    """
    before = _matrix_elements(layer)
    for module in list(layer.modules()):
        for name, child in list(module.named_children()):
            if type(child) in (nn.Linear, Conv1D):
                setattr(module, name, quantized_linear(child, kind, device))
        if _is_fused(module):
            _quantize_experts(module, kind, device)
    left = _matrix_elements(layer)
    if sum(left.values()) > _MAX_LEFT * sum(before.values()):
        largest = max(left, key=lambda name: left[name])
        raise ModelError(f"{type(model).__name__} keeps {largest} in a form that cannot be quantized")
    if any(_is_split(module) for module in layer.modules()):
        model.set_experts_implementation(_EXPERTS)
    layer.to(device=device)


def _matrix_elements(layer: nn.Module) -> dict[str, int]:
    """Elements of each floating-point matrix of the layer."""
    found = layer.named_parameters()
    return {name: p.numel() for name, p in found if p.dim() >= 2 and p.is_floating_point()}


def quantized_linear(linear: nn.Module, kind: Quantization, device: torch.device) -> nn.Module:
    """The same linear map with quantized weights on `device`.

    Raises:
        ModelError: if bitsandbytes cannot do it for these sizes on this device.
    """
    weight, bias = linear._parameters["weight"], linear._parameters["bias"]
    assert weight is not None
    matrix = weight.data.t() if isinstance(linear, Conv1D) else weight.data
    return _quantized(matrix, None if bias is None else bias.data, kind, device)


def state_bytes(model: nn.Module) -> int:
    """Memory of the scales that quantized matrices keep beside their parameters."""
    total = 0
    for parameter in model.parameters():
        scales = [getattr(parameter, "SCB", None)]
        if (state := getattr(parameter, "quant_state", None)) is not None:
            scales += [state.absmax, getattr(state.state2, "absmax", None)]
        total += sum(scale.numel() * scale.element_size() for scale in scales if isinstance(scale, Tensor))
    return total


def _quantized(weight: Tensor, bias: Tensor | None, kind: Quantization, device: torch.device) -> nn.Module:
    bnb = require_bitsandbytes()
    out_features, in_features = weight.shape
    made: Any
    if kind == "int8":
        made = bnb.nn.Linear8bitLt(
            in_features, out_features, bias is not None, has_fp16_weights=False, device="meta"
        )
        made.weight = bnb.nn.Int8Params(
            weight.cpu().contiguous(), requires_grad=False, has_fp16_weights=False
        )
    else:
        if device.type == "cpu" and in_features % _NF4_BLOCK:
            raise ModelError(
                f"nf4 on the CPU needs matrix widths divisible by {_NF4_BLOCK}, this model has {in_features}: "
                "use --quantize int8, or a GPU"
            )
        made = bnb.nn.Linear4bit(
            in_features,
            out_features,
            bias is not None,
            compute_dtype=weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        made.weight = bnb.nn.Params4bit(
            weight.cpu().contiguous(), requires_grad=False, quant_type="nf4", module=made
        )
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return _Flat(made.to(device), torch.float16 if kind == "int8" else None).eval()


class _Flat(nn.Module):
    """Calls a linear with two dimensions and in its own dtype.

    bitsandbytes' int8 fails on four dimensions, and computes in half precision.
    """

    def __init__(self, linear: nn.Module, compute: torch.dtype | None) -> None:
        super().__init__()
        self.linear = linear
        self.compute = compute

    @property
    def weight(self) -> Tensor:
        """Some layers look at the dtype or device of a weight."""
        found: Tensor = self.linear.weight  # type: ignore[assignment]
        return found

    @property
    def bias(self) -> Tensor | None:
        found: Tensor | None = self.linear.bias  # type: ignore[assignment]
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        flat: Tensor = self.linear(rows if self.compute is None else rows.to(self.compute))
        return flat.to(inputs.dtype).view(*inputs.shape[:-1], flat.shape[-1])


def _is_fused(module: nn.Module) -> bool:
    """Whether transformers' experts interface runs this module, and its experts are fused parameters."""
    down = module._parameters.get("down_proj")
    return hasattr(module, "is_transposed") and down is not None and down.dim() == 3


def _is_split(module: nn.Module) -> bool:
    return "quantized_down" in module._modules


def _quantize_experts(module: Any, kind: Quantization, device: torch.device) -> None:
    """Turn `[experts, out, in]` parameters into one quantized linear per expert."""
    if module.has_post_expert_norm:
        raise ModelError(f"{type(module).__name__} normalizes each expert's output; it cannot be quantized")
    up_name = "gate_up_proj" if "gate_up_proj" in module._parameters else "up_proj"
    for name, made in ((up_name, "quantized_up"), ("down_proj", "quantized_down")):
        experts = module._parameters.pop(name).data
        matrices = (expert.t() if module.is_transposed else expert for expert in experts)
        setattr(module, made, nn.ModuleList(_quantized(matrix, None, kind, device) for matrix in matrices))


def _experts_forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Each token through its chosen experts; the sum is kept in float32 as in the fused versions."""
    total = torch.zeros_like(hidden_states, dtype=torch.float32)
    for expert in torch.unique(top_k_index).tolist():
        if expert >= len(self.quantized_up):  # transformers marks tokens of other ranks so
            continue
        token, choice = torch.where(top_k_index == expert)
        inner = self.quantized_up[expert](hidden_states[token])
        if self.has_bias:
            inner = inner + (self.gate_up_proj_bias if self.has_gate else self.up_proj_bias)[expert]
        inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
        output = self.quantized_down[expert](inner)
        if self.has_bias:
            output = output + self.down_proj_bias[expert]
        total.index_add_(0, token, (output * top_k_weights[token, choice, None]).float())
    return total.to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register(_EXPERTS, _experts_forward)
