"""Packed, shared, padded and single-row rewards and gradients agree, for every family that is served."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, T5Config, T5EncoderModel, T5Model

from rewardsmith.errors import ModelError
from rewardsmith.model.reward_model import RewardModel, reward_model_loss, rows_of
from rewardsmith.text.pack import pack_rows
from tests.tiny import DECODERS, ENCODERS, VOCAB, tiny_trunk

TOLERANCE = 2e-5


def random_groups(seed: int = 0) -> list[list[list[int]]]:
    """Six groups of 1 to 4 rows with prompts of 0 to 11 tokens, own parts of 1 to 25 tokens; the last continues
    a row of another group, and repeats it."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        return torch.randint(3, VOCAB, (n,), generator=generator).tolist()

    groups = []
    for k, prefix, own in [
        (1, 0, [7]),
        (2, 5, [3, 9]),
        (4, 11, [1, 14, 6, 2]),
        (3, 0, [25, 4, 1]),
        (2, 8, [8, 8]),
    ]:
        head = tokens(prefix)
        groups.append([head + tokens(n) for n in own[:k]])
    groups.append([groups[2][1] + tokens(6), groups[2][1]])
    return groups


def pad_rows(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for b, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[b, place] = torch.tensor(row)
        mask[b, place] = 1
    return ids, mask


@pytest.fixture(params=sorted(DECODERS))
def decoder(request) -> RewardModel:
    torch.manual_seed(1)
    return RewardModel(tiny_trunk(request.param)).eval()


class TestEveryDecoder:
    def test_takes_the_packed_path(self, decoder):
        assert decoder.path == "packed", decoder.path_reason

    def test_packed_shared_padded_and_single_rows_agree(self, decoder):
        groups = random_groups()
        rows = [row for group in groups for row in group]
        with torch.no_grad():
            shared = decoder(batch=pack_rows(groups))
            unshared = decoder(batch=pack_rows(groups, share=False))
            single = torch.cat([decoder(torch.tensor([row])) for row in rows])
            right, left = (decoder(*pad_rows(rows, side)) for side in ("right", "left"))
            padded = RewardModel(decoder.trunk, path="padded")
            padded.value_head = decoder.value_head
            stock = padded._forward_rows(rows)
        assert shared.dtype == torch.float32
        others = {"unshared": unshared, "single": single, "right": right, "left": left, "stock": stock}
        assert shared.std() > 0.1, "rewards that hardly differ would agree by accident"
        for name, other in others.items():
            assert torch.allclose(shared, other, atol=TOLERANCE), name

    def test_gradients_agree_with_the_padded_path(self, decoder):
        groups = random_groups(3)
        weights = torch.linspace(-1, 1, sum(map(len, groups)))

        def gradients() -> list[torch.Tensor]:
            decoder.zero_grad()
            (decoder(batch=pack_rows(groups)) * weights).sum().backward()
            return [p.grad.clone() for p in decoder.parameters() if p.grad is not None]

        packed = gradients()
        decoder._use("padded")
        padded = gradients()
        assert len(packed) == len(padded) > 4
        for a, b in zip(packed, padded, strict=True):
            assert torch.allclose(a, b, atol=1e-4 * max(1.0, float(b.abs().max())))

    def test_siblings_do_not_see_each_other(self, decoder):
        groups = random_groups(5)
        with torch.no_grad():
            before = decoder(batch=pack_rows(groups))
            groups[2][1] = [*groups[2][1][:-3], 5, 6, 7]  # change one response of one group
            after = decoder(batch=pack_rows(groups))
        changed = (before - after).abs() > 1e-6
        assert changed.nonzero().flatten().tolist() == [4]

    def test_gradient_checkpointing_changes_nothing(self, decoder):
        groups = random_groups(7)
        decoder.train()
        loss = []
        for checkpointing in (False, True):
            if checkpointing:
                decoder.trunk.gradient_checkpointing_enable({"use_reentrant": False})
            torch.manual_seed(0)
            decoder.zero_grad()
            total = decoder(batch=pack_rows(groups)).square().sum()
            total.backward()
            loss.append((total.item(), next(decoder.trunk.parameters()).grad.clone()))
        assert loss[0][0] == pytest.approx(loss[1][0], rel=1e-5)
        assert torch.allclose(loss[0][1], loss[1][1], rtol=1e-3, atol=1e-5)


def test_causal_language_model_gives_its_trunk():
    config = tiny_trunk("llama").config
    language_model = AutoModelForCausalLM.from_config(config)
    model = RewardModel(language_model)
    assert model.trunk is language_model.model


def test_value_head_starts_at_the_stated_scale():
    torch.manual_seed(0)
    heads = torch.cat([RewardModel(tiny_trunk(seed=i), path="packed").value_head.weight for i in range(60)])
    assert float(heads.detach().std()) == pytest.approx(33**-0.5, rel=0.05)


def test_head_is_float32_on_a_half_precision_trunk():
    model = RewardModel(tiny_trunk().to(torch.bfloat16))
    rewards = model(torch.tensor([[5, 6, 7]]))
    assert model.value_head.weight.dtype == rewards.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.tensor([[5, 6, 7]])).dtype == torch.float32


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_encoder_rewards_do_not_depend_on_padding(pooling):
    model = RewardModel(tiny_trunk(sorted(ENCODERS)[0]), pooling=pooling).eval()
    assert model.path == "padded"
    rows = [row for group in random_groups() for row in group]
    with torch.no_grad():
        together = model(*pad_rows(rows, "right"))
        single = torch.cat([model(torch.tensor([row])) for row in rows])
    assert together.std() > 0.05
    assert torch.allclose(together, single, atol=TOLERANCE)


def test_state_space_model_is_served_by_the_padded_path_and_says_why():
    model = RewardModel(tiny_trunk("mamba")).eval()
    assert model.path == "padded"
    assert model.path_reason
    groups = random_groups()
    with torch.no_grad():
        packed = model(batch=pack_rows(groups))
        single = torch.cat([model(torch.tensor([row])) for group in groups for row in group])
    assert torch.allclose(packed, single, atol=TOLERANCE)


def test_encoder_decoder_is_refused():
    config = T5Config(vocab_size=VOCAB, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="encoder-decoder"):
        RewardModel(T5Model(config))
    assert T5EncoderModel  # the half that could be served; transformers keeps it under its own class


def test_rows_of_inverts_packing():
    groups = random_groups(11)
    assert rows_of(pack_rows(groups)) == [row for group in groups for row in group]


def test_padding_may_share_the_id_of_eos():
    """The last real token is found by the mask: two answers that end in eos = pad still differ."""
    model = RewardModel(tiny_trunk()).eval()
    ids = torch.tensor([[5, 9, 2, 2, 2], [7, 8, 9, 4, 2]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        rewards = model(ids, mask)
        assert rewards[0] == pytest.approx(float(model(torch.tensor([[5, 9, 2]]))[0]), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("ids", "mask", "found"),
    [
        (torch.tensor([[1, 2]]), torch.tensor([[0, 0]]), "no real token"),
        (torch.tensor([[1, 2]]), torch.tensor([[1, 1, 1]]), "does not fit"),
        (torch.tensor([1, 2]), None, r"\[batch, length\]"),
    ],
)
def test_bad_input_is_one_clear_line(ids, mask, found):
    model = RewardModel(tiny_trunk(), path="packed")
    with pytest.raises(ModelError, match=found):
        model(ids, mask)


def test_seed_loss_is_bradley_terry_and_stable():
    model = RewardModel(tiny_trunk()).eval()
    chosen, rejected = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[5, 6, 3], [8, 4, 4]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    loss, accuracy = reward_model_loss(model, chosen, rejected, mask, torch.ones_like(rejected))
    margin = (model(chosen, mask) - model(rejected)).double().detach()
    loss = loss.detach()
    assert float(loss) == pytest.approx(float(torch.log1p(torch.exp(-margin)).mean()), rel=1e-5)
    assert float(accuracy) == float((margin > 0).double().mean())
    with torch.no_grad():
        model.value_head.weight.mul_(1e4)
    loss, _ = reward_model_loss(model, chosen, rejected, mask, torch.ones_like(rejected))
    assert torch.isfinite(loss)
