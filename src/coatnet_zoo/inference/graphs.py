"""Exported graphs with torchao's observers: which layers an observer belongs to, and running the graph."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import fx, nn

_LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)


def is_inside(layer: str, module: str) -> bool:
    """Whether a layer is, or is inside, a module; both are names as `named_modules()` gives them."""
    return f'{layer}.'.startswith(f'{module}.' if module else '')


def _layer_of(node: fx.Node) -> str | None:
    """The name in the exported part of the layer that a node computes, such as 'blocks.0.mlp.fc1'; or None."""
    return list(node.meta['nn_module_stack'].values())[-1][0] if node.target in _LAYERS else None


def _observer_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The observer that a node calls, or None."""
    from torchao.quantization.pt2e.observer import ObserverBase

    module = graph.get_submodule(node.target) if node.op == 'call_module' else None
    return module if isinstance(module, ObserverBase) else None


def _layers_by_user(graph: fx.GraphModule) -> dict[fx.Node, set[str]]:
    """By node with observed inputs: the layers whose integers need these observers.

    The node is one of these layers, or adds something to their outputs: integer convolutions add the shortcut of a
    block in the same operator.
    """
    found = {}
    for node in graph.graph.nodes:
        if any(_observer_of(graph, n) for n in node.all_input_nodes):
            inputs = [n.args[0] if _observer_of(graph, n) else n for n in node.all_input_nodes]
            found[node] = {name for n in ([node] if _layer_of(node) else inputs) if (name := _layer_of(n))}
    return found


def leave_float(graph: fx.GraphModule, layers: Collection[str]) -> None:
    """Remove the observers of layers, so that the layers are not quantised.

    Args:
        graph: A graph with observers.
        layers: Names of the layers in the exported part.
    """
    for node, names in _layers_by_user(graph).items():
        if not names.isdisjoint(layers):
            for n in node.all_input_nodes:
                if _observer_of(graph, n):
                    node.replace_input_with(n, n.args[0])
    for node in list(graph.graph.nodes):
        if _observer_of(graph, node) and not node.users:
            graph.graph.erase_node(node)
    graph.recompile()


class RoundedGraph:
    """A graph that computes in floating point, and rounds the inputs and the weights of some layers as integers do.

    Args:
        graph: A graph with observers that have observed.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph
        self._interpreter = fx.Interpreter(graph)
        self._layers_by_user = _layers_by_user(graph)
        used = [node for node in graph.graph.nodes if node.users or node.op == 'output']
        self._nodes = [node for node in used if not _observer_of(graph, node)]
        self._observers = {node: _Rounding(o) for node in used if (o := _observer_of(graph, node))}
        # The last node that needs a value.
        self._last: dict[fx.Node, fx.Node] = {
            self._source(n): node for node in self._nodes for n in node.all_input_nodes
        }
        self.layers = list(dict.fromkeys(filter(None, map(_layer_of, self._nodes))))

    def _source(self, node: fx.Node) -> fx.Node:
        return node.args[0] if node in self._observers else node

    def each_alone(self, x: torch.Tensor, groups: Mapping[str, set[str]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Round one group of layers at a time. What comes before the group is computed once for all groups.

        Args:
            x: The input of the graph.
            groups: Names of layers, by name of the group.

        Yields:
            The name of a group, and the output of the graph.
        """
        first = {name: self._first(layers) for name, layers in groups.items()}
        values = {node: x for node in self._nodes if node.op == 'placeholder'}
        for i, node in enumerate(self._nodes):
            for name, layers in groups.items():
                if first[name] == i:
                    rest = dict(values)
                    for following in self._nodes[i:]:
                        self._compute(following, rest, layers)
                    yield name, rest[self._nodes[-1]]
            self._compute(node, values, set())

    def _is_rounded(self, node: fx.Node, layers: set[str]) -> bool:
        names = self._layers_by_user.get(node)
        return bool(names) and names <= layers

    def _first(self, layers: set[str]) -> int:
        return next(i for i, node in enumerate(self._nodes) if self._is_rounded(node, layers))

    def _compute(self, node: fx.Node, values: dict[fx.Node, torch.Tensor], layers: set[str]) -> None:
        """Compute a node, and drop the values that only this node needs."""
        is_rounded = self._is_rounded(node, layers)

        def value(n: fx.Node) -> torch.Tensor:
            x = values[self._source(n)]
            return self._observers[n](x) if is_rounded and n in self._observers else x

        if node.op == 'output':
            (values[node],) = torch.utils._pytree.tree_leaves(fx.map_arg(node.args, value))
        elif node.op != 'placeholder':
            args, kwargs = fx.map_arg((node.args, node.kwargs), value)
            values[node] = getattr(self._interpreter, node.op)(node.target, args, kwargs)
        for n in node.all_input_nodes:
            if self._last[self._source(n)] is node:
                values.pop(self._source(n), None)


class _Rounding:
    """What integers change in a tensor.

    Args:
        observer: The observer of the tensor, after it has observed.
    """

    def __init__(self, observer: nn.Module) -> None:
        self._observer = observer
        self._scales: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        o = self._observer
        if self._scales is None:
            self._scales = o.calculate_qparams()
        scale, zero = self._scales
        if o.qscheme in (torch.per_channel_symmetric, torch.per_channel_affine):
            return torch.fake_quantize_per_channel_affine(x, scale, zero.int(), o.ch_axis, o.quant_min, o.quant_max)
        return torch.fake_quantize_per_tensor_affine(x, scale.item(), int(zero), o.quant_min, o.quant_max)
