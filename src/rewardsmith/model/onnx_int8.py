"""An ONNX file in int8: the weights, and on request the activations as they come.

    T tokens    I inputs of a product, its channels    O outputs    B blocks of inputs    V entries of an embedding

A few channels are far larger than the rest: they multiply what rounding does to their weights, and one scale for them
and the rest would leave the rest a few levels. So the OUTLIERS largest ones (by the probe rows) stay float32,
x = rest + top, and a product y = x W takes one of two forms:

weights only  W_rest is int8 with a scale for each output of each block of inputs; x and the product are float32.
dynamic       both are int8, y = (round(rest / s_T) round(W_rest / s_O)) s_T s_O + x_top W_top, with the scales
              s_T = max |rest| / 127 of each token and s_O = max |W_rest| / 127 of each output. A token's scale is its
              own, so that a reward does not depend on what else is in the batch.

With `dynamic`, a product takes that form where it moves little: where for the middle token of the probe rows the error
is at most LIMIT of the output's norm. In gated MLPs the last product fails this: the large channels of its input differ
from token to token. Embeddings are int8 with a scale for each entry, times one for each channel. The head, the norms
and products with fewer than SMALLEST outputs stay float32. All operators are of the ONNX standard.

Dynamic products multiply unsigned by signed bytes, which onnxruntime does fast. On x86 processors without VNNI it adds
pairs of them in 16 bits, which saturate: on SmolLM2 that alone is an error of 1.5% of the output at the middle token.

Sources: Dettmers et al. (2208.07339) for outlier channels, Yao et al. (2206.01861) for scales by token.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

OUTLIERS = 16  # channels of a product that stay float32
LIMIT = 0.015  # of a dynamic product's error at the middle token, in norms of the output
BLOCK = 32  # inputs that share a scale where only weights are int8
LEVELS = 127
ZERO = 128  # of unsigned levels
SMALLEST = 32  # outputs that are worth it: the head has one
WHOLE_FILE = 2**31 - 2**26  # bytes of constants that protobuf holds in one file; more go beside it

# name = Operator[:attribute=value] inputs; x and y are the node's own, the rest is local to it or a constant.
SPLIT = """
    rest = Mul x mask
    size = Abs rest
    largest = ReduceMax size last_axis
    above_zero = Max largest tiny
    scale = Mul above_zero step
    scaled = Div rest scale
    rounded = Round scaled
    shifted = Add rounded shift
    levels = Cast:to=2 shifted
    top = Gather:axis=-1 x channels
"""
DYNAMIC = """
    whole = MatMulInteger x_levels w_levels zero
    float = Cast:to=1 whole
    by_output = Mul float w_scale
    by_token = Mul by_output x_scale
    outliers = MatMul x_top w_top
    y = Add by_token outliers
"""
WEIGHTS_ONLY = """
    float = Cast:to=1 w_levels
    blocks = Mul float w_scale
    rest = Reshape blocks shape
    weight = ScatterND rest channels w_top
    y = MatMul x weight
"""
EMBEDDING = """
    levels = Gather w_levels x
    float = Cast:to=1 levels
    scale = Gather w_scale x
    by_entry = Mul float scale
    y = Mul by_entry channel_scale
"""


def quantise(
    source: Path,
    target: Path,
    rows: Sequence[np.ndarray],
    *,
    dynamic: bool = False,
    nodes: Collection[str] | None = None,
) -> dict[str, int]:
    """Write the file `source` in int8 as `target`; returns how many products took which form.

    `rows` are token ids of probe rows, by which channels and forms are chosen. `nodes` names the nodes to
    quantise, to measure what each costs; None is all.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    seen = activations(source, rows)
    whole = ONNXModel(onnx.load(source))
    whole.replace_gemm_with_matmul()
    graph = _Graph({one.name: one for one in whole.model.graph.initializer}, seen, dynamic)
    for node in whole.model.graph.node:
        if nodes is None or node.name in nodes:
            graph.take(node)
        else:
            graph.nodes.append(node)
    graph.put_into(whole.model.graph)
    apart = whole.model.ByteSize() > WHOLE_FILE
    onnx.save(whole.model, target, save_as_external_data=apart, location=f"{target.name}.data")
    return graph.counts


def activations(file: Path, rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """[T, I] float32 of each input of a product with constant weights, over the tokens of all rows."""
    import onnx
    import onnxruntime

    model = onnx.load(file, load_external_data=False)
    known = {one.name for one in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in known]
    names = sorted({node.input[0] for node in products} - known)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    probed = file.with_name(f"probed-{file.name}")  # beside the weights, which it refers to
    onnx.save(model, probed)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probed, options, providers=["CPUExecutionProvider"])
    found = [
        session.run(
            names, {"input_ids": row[None].astype(np.int64), "attention_mask": np.ones((1, len(row)), np.int64)}
        )
        for row in rows
    ]
    probed.unlink()
    return {
        name: np.concatenate([x.reshape(-1, x.shape[-1]) for x in parts])
        for name, parts in zip(names, zip(*found, strict=True), strict=True)
    }


# Choosing ------------------------------------------------------------------------------------------


def outlier_channels(x_TI: np.ndarray) -> np.ndarray:
    """The OUTLIERS channels with the largest absolute values, in order; half of them all where there are few."""
    largest_I = np.abs(x_TI).max(0)
    return np.sort(np.argsort(-largest_I, kind="stable")[: min(OUTLIERS, len(largest_I) // 2)])


def dynamic_error(x_TI: np.ndarray, weight_IO: np.ndarray, top: np.ndarray) -> float:
    """What the dynamic form moves at the middle token: the median over tokens of |y' - y| / |y|."""
    rest_TI, rest_IO = without(x_TI, top, axis=1), without(weight_IO, top, axis=0)
    moved_TO = rounded(rest_TI, axis=1) @ rounded(rest_IO, axis=0) - rest_TI @ rest_IO
    size_T = np.maximum(np.linalg.norm(x_TI @ weight_IO, axis=1), 1e-12)
    return float(np.median(np.linalg.norm(moved_TO, axis=1) / size_T))


def without(values: np.ndarray, channels: np.ndarray, *, axis: int) -> np.ndarray:
    """A copy with zeros in these places of an axis."""
    rest = values.copy()
    np.moveaxis(rest, axis, 0)[channels] = 0
    return rest


def scale_of(values: np.ndarray, *, axis: int) -> np.ndarray:
    """What one level stands for, along an axis that stays with length 1."""
    return (np.maximum(np.abs(values).max(axis, keepdims=True), 1e-12) / LEVELS).astype(np.float32)


def levels_of(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8, from -127 to 127."""
    return np.clip(np.rint(values / scale), -LEVELS, LEVELS).astype(np.int8)


def rounded(values: np.ndarray, *, axis: int) -> np.ndarray:
    """What is left of float32 values in int8 with one scale along an axis."""
    scale = scale_of(values, axis=axis)
    return levels_of(values, scale) * scale


def block_of(n_inputs: int) -> int:
    """Inputs that share a scale: BLOCK, or what divides both; all of them where that would be few."""
    block = math.gcd(n_inputs, BLOCK)
    return block if block >= BLOCK // 4 else n_inputs


# Writing -------------------------------------------------------------------------------------------


class _Graph:
    """The nodes as they are made anew, in the order of the old ones, and every constant, old and new."""

    def __init__(
        self, constants: dict[str, onnx.TensorProto], seen: Mapping[str, np.ndarray], may_be_dynamic: bool
    ) -> None:
        self.constants = constants
        self.seen = seen
        self.may_be_dynamic = may_be_dynamic
        self.nodes: list[onnx.NodeProto] = []
        self.counts = {"dynamic": 0, "weights_only": 0, "embeddings": 0}
        self.split: dict[str, str] = {}  # activation -> prefix of its parts' names, which all its products read

    def take(self, node: onnx.NodeProto) -> None:
        """Add what stands for a node: itself, where int8 has nothing to do with it."""
        along_first_axis = not any(one.i for one in node.attribute)
        reads_activation = node.op_type == "MatMul" and node.input[0] in self.seen
        if reads_activation and (weight_IO := self.matrix(node.input[1])) is not None:
            self.product(node, weight_IO)
        elif node.op_type == "Gather" and along_first_axis and (table_VO := self.matrix(node.input[0])) is not None:
            self.embedding(node, table_VO)
        else:
            self.nodes.append(node)

    def product(self, node: onnx.NodeProto, weight_IO: np.ndarray) -> None:
        x_TI = self.seen[node.input[0]]
        top = outlier_channels(x_TI)
        if self.may_be_dynamic and dynamic_error(x_TI, weight_IO, top) <= LIMIT:
            self.dynamic(node, weight_IO, top)
        else:
            self.weights_only(node, weight_IO, top)

    def matrix(self, name: str) -> np.ndarray | None:
        """The float32 constant of that name, where it is a matrix with columns enough."""
        import onnx

        one = self.constants.get(name)
        if one is None or one.data_type != onnx.TensorProto.FLOAT or len(one.dims) != 2 or one.dims[1] < SMALLEST:
            return None
        return onnx.numpy_helper.to_array(one)

    def dynamic(self, node: onnx.NodeProto, weight_IO: np.ndarray, top: np.ndarray) -> None:
        x = node.input[0]
        if x not in self.split:
            self.split[x] = f"{node.name}/x"
            constants = {
                "mask": without(np.ones(len(weight_IO), np.float32), top, axis=0),
                "channels": top.astype(np.int64),
                "last_axis": np.array([-1]),
                "tiny": np.float32(1e-12),
                "step": np.float32(1 / LEVELS),
                "shift": np.float32(ZERO),
            }
            self.write(self.split[x], SPLIT, {"x": x}, constants)
        rest_IO = without(weight_IO, top, axis=0)
        scale_1O = scale_of(rest_IO, axis=0)
        constants = {
            "w_levels": levels_of(rest_IO, scale_1O),
            "w_scale": scale_1O[0],
            "w_top": weight_IO[top],
            "zero": np.uint8(ZERO),
        }
        names = {f"x_{part}": f"{self.split[x]}/{part}" for part in ("levels", "scale", "top")}
        self.write(node.name, DYNAMIC, names | {"y": node.output[0]}, constants)
        self.counts["dynamic"] += 1

    def weights_only(self, node: onnx.NodeProto, weight_IO: np.ndarray, top: np.ndarray) -> None:
        """onnxruntime puts the weights together once, as it loads the file."""
        blocks_BIO = without(weight_IO, top, axis=0).reshape(-1, block_of(len(weight_IO)), weight_IO.shape[1])
        scale_B1O = scale_of(blocks_BIO, axis=1)
        constants = {
            "w_levels": levels_of(blocks_BIO, scale_B1O),
            "w_scale": scale_B1O,
            "shape": np.array(weight_IO.shape, np.int64),
            "channels": top.astype(np.int64)[:, None],
            "w_top": weight_IO[top],
        }
        self.write(node.name, WEIGHTS_ONLY, {"x": node.input[0], "y": node.output[0]}, constants)
        self.counts["weights_only"] += 1

    def embedding(self, node: onnx.NodeProto, table_VO: np.ndarray) -> None:
        channel_O = np.maximum(np.abs(table_VO).max(0), 1e-12)
        even_VO = table_VO / channel_O
        scale_V1 = scale_of(even_VO, axis=1)
        constants = {
            "w_levels": levels_of(even_VO, scale_V1),
            "w_scale": scale_V1,
            "channel_scale": channel_O.astype(np.float32),
        }
        self.write(node.name, EMBEDDING, {"x": node.input[1], "y": node.output[0]}, constants)
        self.counts["embeddings"] += 1

    def write(self, prefix: str, steps: str, names: Mapping[str, str], constants: Mapping[str, Any]) -> None:
        """Add the nodes of a form. `names` are those of tensors outside it; the others are put below `prefix`."""
        import onnx

        for name, value in constants.items():
            full = f"{prefix}/{name}"
            self.constants[full] = onnx.numpy_helper.from_array(np.asarray(value), full)
        for line in steps.strip().splitlines():
            output, _, kind, *inputs = line.split()
            operator, _, attribute = kind.partition(":")
            key, _, number = attribute.partition("=")
            given: dict[str, Any] = {key: int(number)} if key else {}
            ends = [names.get(name, f"{prefix}/{name}") for name in (output, *inputs)]
            self.nodes.append(onnx.helper.make_node(operator, ends[1:], ends[:1], name=f"{prefix}/{output}", **given))

    def put_into(self, graph: onnx.GraphProto) -> None:
        """Replace a graph's nodes, and its constants by those that are used."""
        used = {name for node in self.nodes for name in node.input}
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(one for name, one in self.constants.items() if name in used)
