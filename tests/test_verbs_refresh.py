"""The verbs `refresh init`, `ingest`, `propose` and `status`, from the command line."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rewardsmith.cli import main
from rewardsmith.refresh.project import open_project
from tests.refresh.test_propose import words


@pytest.fixture
def run(capsys):
    def call(*words):
        code = main([*words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def project(tmp_path, run):
    folder = str(tmp_path / "project")
    assert run("refresh", "init", folder)[0] == 0
    return folder


def answers(path, policy, n=8, k=3):
    rows = [
        {"prompt": words(f"q{i}"), "response": words(f"{policy} {i} {j}"), "logp": -1.0}
        for i in range(n)
        for j in range(k)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_whole_way(run, project, tmp_path):
    base, new = answers(tmp_path / "base.jsonl", "base"), answers(tmp_path / "new.jsonl", "rl-1")
    code, out, _ = run("refresh", "ingest", project, base, "--policy", "base", "--logprob", "logp", "--json")
    assert (code, json.loads(out)["round"], json.loads(out)["new_responses"]) == (0, 0, 24)
    code, out, _ = run("refresh", "ingest", project, new, "--policy", "rl-1")
    assert code == 0
    assert "round 1, policy rl-1: 24 answers to 8 prompts, 24 answers and 0 prompts of them new" in out
    code, out, _ = run("refresh", "propose", project, "--budget", "10", "--json")
    found = json.loads(out)
    assert (code, found["added"], found["model"]) == (0, 10, None)
    assert any("name a model" in warning for warning in found["warnings"])
    code, out, _ = run("refresh", "propose", project, "--budget", "10")
    assert "0 pairs added, 10 were there; budget 10" in out
    code, out, _ = run("refresh", "status", project)
    assert "round 1: 10 pairs proposed, 0 labelled, 10 open" in out
    assert "next: 10 pairs wait for labels" in out


def test_propose_with_a_models_rewards_and_the_projects_settings(run, project, tmp_path):
    run("refresh", "ingest", project, answers(tmp_path / "a.jsonl", "rl-1"), "--policy", "rl-1")
    with open_project(project).open() as store:
        store.add_model("m", path="models/m", artifact_hash="h", round=0, at=1.0)
        store.set_scores("m", {r.id: (float(r.id % 5), 0.1 * (r.id % 3)) for r in store.responses()})
        store.add_release("m", manifest_hash="h", at=2.0)
    settings = tmp_path / "project" / "refresh.toml"
    settings.write_text(settings.read_text() + "budget = 4\nnew_base = 0.0\n")
    code, out, _ = run("refresh", "propose", project, "--json")
    found = json.loads(out)
    assert (code, found["budget"], found["model"], found["added"]) == (0, 4, "m", 4)
    assert "with the rewards of m" in run("refresh", "propose", project, "--budget", "5")[1]
    assert "model m (round 0): not tried" in run("refresh", "status", project)[1]


def test_answers_of_a_tilted_policy(run, project, tmp_path):
    rows = [{"prompt": f"q{i}", "response": f"answer {k}", "score": k} for i in range(5) for k in range(4)]
    file = tmp_path / "pool.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("refresh", "ingest", project, str(file), "--policy", "tilt-2", "--tilted", "tilt", "--strength", "2")
    code, out, _ = run(*words, "--reward", "score", "--n", "2", "--base-n", "2", "--json")
    found = json.loads(out)
    assert (code, found["prompts"], found["round"]) == (0, 5, 0)
    assert found["responses"] >= found["new_responses"] > 0
    assert json.loads(run("refresh", "status", project, "--json")[1])["policies"][0]["policy"] == "base"


@pytest.fixture
def server():
    """A policy behind OpenAI's HTTP shape: (its address, the prompts it was asked)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["messages"][-1]["content"])
            texts = [words(f"{asked[-1]} {k}") for k in range(body["n"])]
            choices = [{"index": k, "message": {"content": text}} for k, text in enumerate(texts)]
            reply = json.dumps({"choices": choices}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/v1", asked
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_policy_behind_a_server_is_sampled_once(run, project, tmp_path, server):
    url, asked = server
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    sample = ("refresh", "ingest", project, str(prompts), "--policy", "base", "--sample", "m", "--url", url, "--n", "2")
    code, out, _ = run(*sample, "--json")
    found = json.loads(out)
    assert (code, found["sampled"], found["new_responses"], sorted(asked)) == (0, 4, 4, ["one", "two"])
    code, out, _ = run(*sample, "--json")
    assert (code, json.loads(out)["sampled"], len(asked)) == (0, 0, 2)
    code, out, _ = run("refresh", "ingest", project, "--policy", "rl-1", "--sample", "m2", "--url", url, "--json")
    assert (code, json.loads(out)["round"], json.loads(out)["prompts"]) == (0, 1, 2), "the project's own prompts"
    code, _, err = run(*sample[:-1], "3")
    assert code == 2
    assert "was sampled with other options" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ingest", "P", "--policy", "x"), "name at least one file of answers"),
        (("ingest", "P", "no.jsonl", "--policy", "x"), "no.jsonl: no such file"),
        (("ingest", "P", "no.jsonl", "--policy", "x", "--tilted", "tilt"), "--reward go together"),
        (("ingest", "P", "--policy", "x", "--sample", "m", "--tilted", "tilt"), "exclude each other"),
        (("ingest", "P", "--policy", "x", "--sample", "m"), "the project has no prompts yet"),
        (("propose", "P"), "no answers in round 0"),
        (("propose", "P", "--budget", "0"), "--budget 0"),
        (("propose", "P", "--model", "nowhere"), "no answers in round 0"),
        (("status", "nowhere"), "no refresh project is there"),
        (("init", "P", "--base-policy", "other"), "base_policy is 'base' there"),
        (("init", "Q", "--store", "mysql://me:secret@host/x"), "give a file, or a URL"),
        (("init", "Q", "--store", "postgresql://me:secret@127.0.0.1:9/x"), "127.0.0.1"),
    ],
)
def test_mistakes_are_one_line(run, project, tmp_path, words, said):
    places = {"P": project, "Q": str(tmp_path / "q")}
    code, out, err = run("refresh", *(places.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "secret" not in err


def test_a_model_that_is_none(run, project, tmp_path):
    run("refresh", "ingest", project, answers(tmp_path / "a.jsonl", "rl-1"), "--policy", "rl-1")
    code, _, err = run("refresh", "propose", project, "--model", "nowhere")
    assert code == 2
    assert "no model of this project has this name" in err
