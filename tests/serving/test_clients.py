"""Other people's clients against the server: the openai package, TRL's trainer, and OpenRLHF's requests."""

from __future__ import annotations

import base64
import importlib.util
import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rewardsmith.data.schema import Group, Message
from rewardsmith.model.artifact import save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import load_scorer
from rewardsmith.serving.engine import load_engine
from rewardsmith.serving.keys import KeyRing
from rewardsmith.text.render import Renderer
from tests.serving.conftest import Running, running, tiny_scorer
from tests.test_peers import python_with
from tests.tiny import tiny_tokenizer, tiny_trunk

PROMPT, ANSWERS = "hello there", ["a good", "b bad answer"]
RENDERED = [f"<|user|>{PROMPT}</s><|assistant|>{answer}</s>" for answer in ANSWERS]
KEY = "a-key-of-sixteen-or-more"


def offline(*answers: str) -> Any:
    group = Group(
        prompt=(Message("user", PROMPT),), responses=tuple((Message("assistant", answer),) for answer in answers)
    )
    return pytest.approx(tiny_scorer().score([group])[0].rewards.tolist(), abs=1e-5)


# -- openai -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openai() -> Any:
    return pytest.importorskip("openai", reason="openai is not installed")


def test_openai_lists_the_model_and_pools(openai: Any, server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="any") as client:
        (model,) = client.models.list()
        assert (model.id, model.object, model.owned_by) == ("tiny", "model", "rewardsmith")
    with openai.OpenAI(base_url=server.address, api_key="any") as client:
        body = {"model": "tiny", "input": RENDERED, "encoding_format": "float"}
        pooled = client.post("/pooling", body=body, cast_to=object)
        assert [row["data"][0] for row in pooled["data"]] == offline(*ANSWERS)
        packed = client.post("/pooling", body=body | {"encoding_format": "base64"}, cast_to=object)
        assert [struct.unpack("<f", base64.b64decode(row["data"]))[0] for row in packed["data"]] == offline(*ANSWERS)
        turns = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWERS[0]}]
        classes = client.post("/classify", body={"model": "tiny", "messages": turns}, cast_to=object)
        assert classes["data"][0]["probs"] == offline(ANSWERS[0])
        scores = client.post("/score", body={"queries": PROMPT, "documents": ANSWERS}, cast_to=object)
        assert [row["score"] for row in scores["data"]] == offline(*ANSWERS)


def test_openai_understands_refusals(openai: Any) -> None:
    with running(keys=KeyRing([KEY])) as server:
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["tiny"], "the key goes as a bearer token"
        wrong = openai.OpenAI(base_url=f"{server.address}/v1", api_key="another-key-of-sixteen", max_retries=0)
        with wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        with openai.OpenAI(base_url=server.address, api_key=KEY, max_retries=0) as client:
            with pytest.raises(openai.NotFoundError) as missing:
                client.post("/classify", body={"model": "other", "input": "x"}, cast_to=object)
            assert (missing.value.body["message"], missing.value.param) == (
                "The model `other` does not exist.",
                "model",
            )
            with pytest.raises(openai.BadRequestError) as wrong_type:
                client.post("/classify", body={"input": {}}, cast_to=object)
            assert wrong_type.value.type == "BadRequestError"


# -- OpenRLHF ---------------------------------------------------------------------------------------------------


def test_openrlhf_asks_by_its_wire_format(server: Running) -> None:
    """What `request_api_wrapper` of openrlhf/utils/remote_rm_utils.py sends with requests, and reads of the answer."""
    requests = pytest.importorskip("requests", reason="requests is not installed")
    data = {"query": RENDERED, "prompts": [RENDERED[0].split("a good")[0]] * 2, "labels": [None, ""]}
    url, headers = f"{server.address}/get_reward", {"Content-Type": "application/json"}
    with requests.Session() as session:
        response = session.post(url=url, json=data, headers=headers, timeout=180)
        response.raise_for_status()
        assert response.json()["rewards"] == offline(*ANSWERS)
        with pytest.raises(requests.HTTPError):
            session.post(url=url, json={"query": 3}, headers=headers, timeout=180).raise_for_status()


def test_openrlhf_itself(server: Running) -> None:
    if importlib.util.find_spec("openrlhf") is None:
        pytest.skip("openrlhf is not installed: it needs CUDA to build")
    from openrlhf.utils.remote_rm_utils import request_api_wrapper

    found = request_api_wrapper(f"{server.address}/get_reward", {"query": RENDERED})
    assert (found["rewards"] if isinstance(found, dict) else found) == offline(*ANSWERS)


# -- TRL --------------------------------------------------------------------------------------------------------

# Runs in the environment with TRL. The reward function is what a user would write around the client; the trainer
# calls it with its own prompts and completions, here without generating or training.
TRL = """
import json, sys, tempfile
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer
from rewardsmith import Group, Message, RemoteScorer

url, rm, out = sys.argv[1:]
scorer = RemoteScorer(url)

def remote_reward(prompts, completions, **_):
    groups = [
        Group(prompt=tuple(Message(**turn) for turn in prompt), responses=(tuple(Message(**turn) for turn in answer),))
        for prompt, answer in zip(prompts, completions)
    ]
    return [float(scores.rewards[0]) for scores in scorer.score(groups)]

tokenizer = AutoTokenizer.from_pretrained(rm, padding_side="left")
shape = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
ids = dict(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
policy = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **ids))
prompts = [[{"role": "user", "content": "hello there"}]] * 2
completions = [[{"role": "assistant", "content": text}] for text in ("a good", "b bad answer")]
with tempfile.TemporaryDirectory() as folder:
    options = dict(per_device_train_batch_size=2, num_generations=2, report_to=[], bf16=False, use_cpu=True)
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=[remote_reward, rm],
        args=GRPOConfig(output_dir=folder, **options),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
    )
    rows = [{"prompt": prompt} for prompt in prompts]
    rewards = trainer._calculate_rewards(rows, prompts, completions, [[0] for _ in prompts])
open(out, "w").write(json.dumps(rewards.tolist()))
"""


@pytest.mark.slow
def test_trl_with_a_remote_reward_function(tmp_path: Path) -> None:
    """Both reward functions of one trainer: ours through the server, and TRL's own with the same folder."""
    python = python_with("trl")
    rm, out = tmp_path / "rm", tmp_path / "rewards.json"
    save_reward_model(RewardModel(tiny_trunk(seed=0)).eval(), Renderer(tiny_tokenizer()), rm)
    with running(load_engine(str(rm))) as server:
        done = subprocess.run(
            [python, "-c", TRL, server.address, str(rm), str(out)], capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr[-2000:]
    group = Group(prompt=(Message("user", PROMPT),), responses=tuple((Message("assistant", a),) for a in ANSWERS))
    wanted = load_scorer(str(rm)).score([group])[0].rewards
    for (remote, local), reward in zip(json.loads(out.read_text()), wanted, strict=True):
        assert remote == pytest.approx(reward, abs=1e-4)
        assert local == pytest.approx(reward, abs=1e-3)
