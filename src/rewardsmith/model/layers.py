"""A trunk as a stack of layers: what is below, what is on top, and the last one where it matters.

transformers runs `for layer in self.layers`. Everything here works by giving that loop another stack (in shallow
copies of the modules around it, which share every weight) or by PyTorch's hooks; no modelling code is touched.

    split           lower part and upper part of one trunk: upper(given=lower(x)) = trunk(x)
    with_own_top    a second trunk that shares the lower layers and owns copies of the upper ones
    narrow_last     the last layer's feed-forward part for the tokens that are read alone
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rewardsmith.errors import ConfigError

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
ATTENTIONS = ("self_attn", "attn", "attention")
FEED_FORWARDS = ("mlp", "feed_forward")


def layers_of(trunk: nn.Module) -> nn.ModuleList:
    """The stack of decoder or encoder layers. Adapters around the trunk are looked through."""
    n = trunk.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
    for module in trunk.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            return module
    raise ConfigError("--train-layers: the layers of this model were not found")


def depth(trunk: nn.Module) -> int:
    """How many layers there are."""
    return len(layers_of(plain(trunk)))


def final_norms(trunk: nn.Module, layers: nn.ModuleList) -> list[nn.Module]:
    """Modules beside the stack that work on its output: norms named so by their families."""
    return list(_norms_of(trunk, layers).values())


def plain(trunk: nn.Module) -> PreTrainedModel:
    """The transformers model inside peft's wrapper, or the model itself."""
    return trunk.get_base_model() if hasattr(trunk, "get_base_model") else trunk  # type: ignore[operator, return-value]


# -- parts of a trunk ---------------------------------------------------------------------------------------


class Given(nn.Module):
    """Stands where the lower layers were, and hands on what they computed."""

    def forward(self, hidden_states: torch.Tensor, *_: Any, given: torch.Tensor, **__: Any) -> torch.Tensor:
        return given


@dataclass(frozen=True)
class Split:
    """Two callables with the trunk's own arguments; `upper` takes `given=` as well, [1, T, H].

    lower gives last_hidden_state before the first upper layer, without the final norm.
    """

    lower: nn.Module
    upper: nn.Module
    n_lower: int


def split(trunk: nn.Module, n_upper: int) -> Split:
    """The trunk cut below its top `n_upper` layers. Both parts share the trunk's weights."""
    whole = plain(trunk)
    layers = layers_of(whole)
    cut = len(layers) - n_upper
    assert 0 < cut <= len(layers), "the lower part has a layer"
    identities = {name: nn.Identity() for name in _norms_of(whole, layers)}
    lower = _with_stack(whole, list(layers[:cut]), range(cut), identities)
    # The stand-in takes the place, and the kind, of the last lower layer.
    upper = _with_stack(whole, [Given(), *layers[cut:]], range(cut - 1, len(layers)), {})
    return Split(lower, upper, cut)


def share_lower(first: PreTrainedModel, other: PreTrainedModel) -> tuple[PreTrainedModel, int]:
    """(`other` on the layers of `first` up to where their weights differ, how many layers are above that).

    The count is the depth, and `other` itself, where something beside the layers and final norms differs.
    """
    mine, theirs = layers_of(first), layers_of(other)
    apart = {
        id(p)
        for trunk in (first, other)
        for m in [layers_of(trunk), *final_norms(trunk, layers_of(trunk))]
        for p in m.parameters()
    }
    around = [[p for p in trunk.parameters() if id(p) not in apart] for trunk in (first, other)]
    if type(first) is not type(other) or len(mine) != len(theirs) or not _equal(*around):
        return other, len(theirs)
    cut = 0
    while cut < len(mine) and _equal(list(mine[cut].parameters()), list(theirs[cut].parameters())):
        cut += 1
    return _with_stack(first, [*mine[:cut], *theirs[cut:]], range(len(mine)), _norms_of(other, theirs)), len(mine) - cut


def _equal(a: list[nn.Parameter], b: list[nn.Parameter]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def with_own_top(trunk: PreTrainedModel, n_upper: int, *, own_weights: bool = True) -> PreTrainedModel:
    """A trunk that shares all below the top `n_upper` layers with `trunk`, and owns copies of the rest.

    Without `own_weights` the copied layers hold the same weights: adapters in them are their own.
    """
    layers = layers_of(trunk)
    cut = len(layers) - n_upper
    shared = {} if own_weights else {id(p): p for p in layers[cut:].parameters()}
    own = [copy.deepcopy(layer, dict(shared)) for layer in layers[cut:]]
    norms = {name: copy.deepcopy(norm) for name, norm in _norms_of(trunk, layers).items()}
    return _with_stack(trunk, [*layers[:cut], *own], range(len(layers)), norms)


def _norms_of(trunk: nn.Module, layers: nn.ModuleList) -> dict[str, nn.Module]:
    parent = _chain(trunk, layers)[-1]
    return {name: child for name, child in parent.named_children() if name in FINAL_NORMS}


def _chain(trunk: nn.Module, layers: nn.ModuleList) -> list[nn.Module]:
    """From the trunk down to the module that holds the stack."""
    for path, module in trunk.named_modules():
        if any(child is layers for child in module.children()):
            names = path.split(".") if path else []
            return [trunk.get_submodule(".".join(names[:i])) for i in range(len(names) + 1)]
    raise AssertionError("the stack is part of the trunk")


def _with_stack(trunk: PreTrainedModel, stack: list[nn.Module], kinds: range, others: Mapping[str, nn.Module]) -> Any:
    """A shallow copy of the trunk around another stack. `kinds` are the original places of its layers."""
    layers = layers_of(trunk)
    chain = _chain(trunk, layers)
    replaced: dict[int, nn.Module] = {id(layers): nn.ModuleList(stack)}
    for module in reversed(chain):
        shallow = copy.copy(module)
        shallow._modules = {
            name: child if child is None else replaced.get(id(child), child) for name, child in module._modules.items()
        }
        if module is chain[-1]:
            shallow._modules |= others
            shallow.config = _config_for(module.config, kinds)
        replaced[id(module)] = shallow
    return replaced[id(trunk)]


def _config_for(config: Any, kinds: range) -> Any:
    """The config of a stack of other depth: its loop counts layers, and chooses masks by their kind."""
    changed = copy.copy(config)
    changed.num_hidden_layers = len(kinds)
    if getattr(config, "layer_types", None):
        changed.layer_types = [config.layer_types[i] for i in kinds]
    return changed


# -- the last layer -----------------------------------------------------------------------------------------


def narrow_once(layer: nn.Module) -> narrow_last:
    """The layer's `narrow_last`: models that share their last layer share the hooks on it."""
    if "narrowed" not in layer.__dict__:
        layer.__dict__["narrowed"] = narrow_last(layer)
    return layer.__dict__["narrowed"]


class narrow_last:
    """Hooks on the last layer that run its feed-forward part, most of the layer, on the tokens that are read.

    The others get zeros, which nobody looks at. Which tokens are read stands in the layout that attention is
    called with; without one the hooks do nothing. Raises LookupError for a layer that is not built from an
    attention and a feed-forward module of known names.
    """

    def __init__(self, layer: nn.Module) -> None:
        children = dict(layer.named_children())
        attention = next((children[name] for name in ATTENTIONS if name in children), None)
        mlp = next((children[name] for name in FEED_FORWARDS if name in children), None)
        if attention is None or mlp is None:
            raise LookupError("the last layer has no attention and feed-forward module of a known name")
        self.layer, self.feed_forward = layer, mlp
        self.read_U: torch.Tensor | None = None
        self.n_rows = 0
        self.hooks = [
            attention.register_forward_pre_hook(self._note, with_kwargs=True),
            mlp.register_forward_pre_hook(self._cut),
            mlp.register_forward_hook(self._spread),
        ]

    # Attention runs just before the feed-forward part, and again where checkpointing computes the layer again.
    def _note(self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.read_U = getattr(kwargs.get("layout"), "read_U", None)

    def _cut(self, mlp: nn.Module, args: tuple[Any, ...]) -> Any:
        if self.read_U is None:
            return None
        self.n_rows = args[0].shape[1]
        return (args[0].index_select(1, self.read_U), *args[1:])

    def _spread(self, mlp: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> Any:
        read_U, self.read_U = self.read_U, None
        if read_U is None:
            return output
        return output.new_zeros(1, self.n_rows, output.shape[-1]).index_copy(1, read_U, output)

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.layer.__dict__.pop("narrowed", None)
