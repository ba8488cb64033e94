"""int8 files by a small graph of its own: what each form rounds, what is chosen, and what outlier channels do to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import QuantType, quantize_dynamic

from rewardsmith.model.onnx_int8 import BLOCK, LIMIT, OUTLIERS, block_of, dynamic_error, outlier_channels, quantise

ENTRIES, WIDTH, OUTPUTS = 100, 64, 48
LARGE = [5, 40]  # channels


def small_file(path: Path, table_VI: np.ndarray, seed: int = 0) -> Path:
    """Rewards by an embedding, a product that reads two channels weakly, tanh, the mean over tokens, and a head."""
    rng = np.random.default_rng(seed)
    weight_IO = rng.normal(size=(table_VI.shape[1], OUTPUTS)).astype(np.float32) / 8
    weight_IO[LARGE] /= 100
    constants = {
        "table": table_VI.astype(np.float32),
        "weight": weight_IO,
        "head": rng.normal(size=(OUTPUTS, 1)).astype(np.float32),
        "one": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"], name="embedding", axis=0),
        helper.make_node("MatMul", ["x", "weight"], ["y"], name="product"),
        helper.make_node("Tanh", ["y"], ["z"]),
        helper.make_node("ReduceMean", ["z", "one"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["logits"], name="head_product"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["R", "T"]) for name in ("input_ids", "attention_mask")
    ]
    rewards = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", 1])
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "small", ends, [rewards], initial),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, path)
    return path


def even_table() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ENTRIES, WIDTH))


def table_with_outliers() -> np.ndarray:
    """Two channels that are 300 times as large as the rest, in every token, and nearly the same in each."""
    table = even_table()
    table[:, LARGE] = 300 + table[:, LARGE]
    return table


def wandering_table() -> np.ndarray:
    """Large channels that differ from token to token, and many more channels than the form has room for."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(ENTRIES, 8 * WIDTH))
    return table * np.where(rng.random(table.shape) < 0.01, 50, 1)


def rows_of(n: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(ENTRIES, size=(n, 6))


def rewards(path: Path, ids: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][:, 0]


def in_int8(source: Path, *, dynamic: bool) -> tuple[Path, dict[str, int]]:
    target = source.with_name(f"int8-{dynamic}.onnx")
    return target, quantise(source, target, list(rows_of(8, seed=3)), dynamic=dynamic)


def by_tensor(source: Path) -> Path:
    target = source.with_name("tensor.onnx")
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
    return target


def same_order(found: np.ndarray, exact: np.ndarray) -> float:
    """Accuracy on pairs whose labels are the exact rewards' order."""
    return float(((found[::2] > found[1::2]) == (exact[::2] > exact[1::2])).mean())


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_outlier_channel_costs_no_accuracy(tmp_path: Path, dynamic: bool) -> None:
    source, ids = small_file(tmp_path / "whole.onnx", table_with_outliers()), rows_of(400)
    exact = rewards(source, ids)
    target, counts = in_int8(source, dynamic=dynamic)
    assert counts == {"dynamic": int(dynamic), "weights_only": int(not dynamic), "embeddings": 1}
    assert same_order(rewards(target, ids), exact) >= 0.97
    assert same_order(rewards(by_tensor(source), ids), exact) < 0.9, "the way of before, which this is the remedy for"


@pytest.mark.parametrize("dynamic", [False, True])
def test_rewards_are_within_a_twentieth_of_their_spread(tmp_path: Path, dynamic: bool) -> None:
    source, ids = small_file(tmp_path / "whole.onnx", even_table()), rows_of(200)
    exact, found = rewards(source, ids), rewards(in_int8(source, dynamic=dynamic)[0], ids)
    assert 0 < np.abs(found - exact).max() < exact.std() / 20


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_reward_does_not_depend_on_the_batch(tmp_path: Path, dynamic: bool) -> None:
    source = small_file(tmp_path / "whole.onnx", table_with_outliers())
    target, ids = in_int8(source, dynamic=dynamic)[0], rows_of(30)
    alone = np.concatenate([rewards(target, row[None]) for row in ids])
    np.testing.assert_allclose(rewards(target, ids), alone, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_every_operator_is_of_the_standard(tmp_path: Path, dynamic: bool) -> None:
    target, ids = in_int8(small_file(tmp_path / "whole.onnx", table_with_outliers()), dynamic=dynamic)[0], rows_of(20)
    onnx.checker.check_model(onnx.load(target), full_check=True)
    (theirs,) = ReferenceEvaluator(str(target)).run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    np.testing.assert_allclose(theirs[:, 0], rewards(target, ids), atol=1e-4)


def test_the_error_by_which_a_form_is_chosen_is_the_files(tmp_path: Path) -> None:
    """The middle token's error of the product, by the file itself beside the formula."""
    source = small_file(tmp_path / "whole.onnx", table_with_outliers())
    target = source.with_name("product.onnx")
    ids = rows_of(8, seed=3)
    quantise(source, target, list(ids), dynamic=True, nodes=["product"])

    def product(path: Path) -> np.ndarray:
        model = onnx.load(path)
        model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(["y"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0].reshape(-1, OUTPUTS)

    exact, found = product(source), product(target)
    of_file = np.median(np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1))
    constants = {one.name: numpy_helper.to_array(one) for one in onnx.load(source).graph.initializer}
    x_TI = constants["table"][ids.reshape(-1)]
    of_formula = dynamic_error(x_TI, constants["weight"], outlier_channels(x_TI))
    assert of_file == pytest.approx(of_formula, rel=0.02)
    assert 0 < of_formula < LIMIT


def test_large_channels_that_wander_keep_activations_in_float(tmp_path: Path) -> None:
    _, counts = in_int8(small_file(tmp_path / "whole.onnx", wandering_table()), dynamic=True)
    assert counts == {"dynamic": 0, "weights_only": 1, "embeddings": 1}


def test_weights_move_by_at_most_half_a_level(tmp_path: Path) -> None:
    source = small_file(tmp_path / "whole.onnx", even_table())
    target, _ = in_int8(source, dynamic=False)
    new = {one.name: numpy_helper.to_array(one) for one in onnx.load(target).graph.initializer}
    exact = next(numpy_helper.to_array(one) for one in onnx.load(source).graph.initializer if one.name == "weight")
    levels_BIO, scale_B1O = new["product/w_levels"], new["product/w_scale"]
    assert (levels_BIO.dtype, levels_BIO.shape) == (np.int8, (WIDTH // BLOCK, BLOCK, OUTPUTS))
    found = (levels_BIO * scale_B1O).reshape(exact.shape)
    assert (found[new["product/channels"][:, 0]] == 0).all()
    found[new["product/channels"][:, 0]] = new["product/w_top"]
    moved = np.abs(found - exact)
    assert (moved <= np.repeat(scale_B1O[:, 0], BLOCK, axis=0) * 0.5001).all()
    assert (moved == 0).all(axis=1).sum() == OUTLIERS
    assert "table" not in new
    assert "weight" not in new
    assert "head" in new


@pytest.mark.parametrize(("n_inputs", "block"), [(64, 32), (576, 32), (1600, 32), (40, 8), (36, 36), (7, 7)])
def test_blocks_divide_the_inputs(n_inputs: int, block: int) -> None:
    assert block_of(n_inputs) == block
