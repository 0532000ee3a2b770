"""The graph of a network: by torch.fx where its code allows that, else by torch.export.

torch.export follows control flow over shapes, which timm's layers have (`export.py`). Both ways end
in one form: modules are call_module nodes, patterns of transformers are one node, everything else
are functions and methods.
"""

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from tbn_bench.compiler import overwriting, patterns
from tbn_bench.compiler.layer import is_packed
from tbn_bench.layers.binary_input import BinaryInput

# torch.fx replaces methods of nn.Module itself while it traces, and takes that back in order
TRACING = threading.Lock()


class _Proxy(fx.Proxy):
    """Records y += x as an operation in place; torch.fx alone records y = y + x."""


def _augmented(function: Any) -> Callable[[Any, Any], Any]:
    def record(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy(
            "call_function",
            function,
            (self, other),
            {},
        )

    return record


for _name, _function in overwriting.AUGMENTED.items():
    setattr(_Proxy, f"__{_name}__", _augmented(_function))


class Tracer(fx.Tracer):
    """Traces in the thread that made it.

    While torch.fx traces, the modules of all threads call its tracer: for other threads it does
    what the module does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_packed(m) or isinstance(m, BinaryInput):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: Any,
        kwargs: Any,
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(
            m,
            forward,
            args,
            kwargs,
        )

    def getattr(
        self,
        attr: str,
        attr_val: Any,
        parameter_proxy_cache: dict[str, Any],
    ) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def symbolic(model: nn.Module) -> fx.Graph:
    """The graph by torch.fx; nothing runs. Raises what torch.fx and the network's code raise."""
    with TRACING:
        return Tracer().trace(model)


def by_fx(model: nn.Module, image: Tensor) -> tuple[nn.Module, fx.Graph]:
    """torch.fx: (model, its graph).

    Raises what torch.fx raises, and ValueError where a value is overwritten that others may read.
    """
    graph = symbolic(model)
    modules = dict(model.named_modules())
    overwriting.check(graph, modules)
    patterns.simplify(graph, model)
    return model, graph
