"""The verbs `refresh init`, `ingest`, `propose` and `status`, from the command line."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rewardsmith.cli import main
from rewardsmith.refresh.project import open_project
from rewardsmith.refresh.sides import is_test, labelled
from rewardsmith.refresh.status import TRAINED, label_mark
from rewardsmith.refresh.tables import comparisons, sa
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
    other = json.loads(run("refresh", "propose", project, "--budget", "9", "--round", "0", "--json")[1])
    assert any("base policy base itself" in warning for warning in other["warnings"])
    code, out, _ = run("refresh", "propose", project, "--budget", "10")
    assert "0 pairs added, 10 were there; budget 10" in out
    code, out, _ = run("refresh", "status", project)
    pairs = 10 + found["tests"]["added"]
    assert f"round 1: {pairs} pairs proposed, 0 labelled, {pairs} open" in out
    assert f"next: pairs wait for labels ({pairs + other['added'] + other['tests']['added']})" in out


def test_pairs_of_held_out_prompts_are_drawn_apart_and_blindly(run, project, tmp_path):
    run("refresh", "ingest", project, answers(tmp_path / "new.jsonl", "rl-1", n=40), "--policy", "rl-1")
    code, out, _ = run("refresh", "propose", project, "--budget", "12", "--tests", "6", "--json")
    assert (code, json.loads(out)["tests"]) == (0, {"before": 0, "added": 6, "missing": 0})
    with open_project(project).open() as store:
        queue = store.open_comparisons()
        assert all((pair.kind == "held-out") == is_test(pair.prompt.messages) for pair in queue)
        assert (len(queue), sum(pair.kind == "held-out" for pair in queue)) == (18, 6)
        assert any(pair.kind == "held-out" for pair in queue[9:]), "not all of them before the others"
        assert not any("rewards" in pair.why or "model r" in pair.why for pair in queue if pair.kind == "held-out")
        for pair in queue:
            store.record_label(pair.id, "ann", "a", at=1.0)
        sides = labelled(store)
        assert (len(sides.train), len(sides.tests_of(0))) == (12, 6)
    code, out, _ = run("refresh", "propose", project, "--budget", "12", "--tests", "6")
    assert "0 test pairs of held-out prompts added, 6 were there" in out
    code, out, _ = run("refresh", "propose", project, "--budget", "12", "--tests", "9", "--json")
    assert json.loads(out)["tests"] == {"before": 6, "added": 3, "missing": 0}
    code, out, _ = run("refresh", "propose", project, "--budget", "12", "--tests", "500")
    assert "test pairs fewer than 500" in out


def test_one_answer_a_prompt_is_tested_against_the_base_policys(run, project, tmp_path):
    for policy in ("base", "rl-1"):
        run("refresh", "ingest", project, answers(tmp_path / "a.jsonl", policy, n=40, k=1), "--policy", policy)
    found = json.loads(run("refresh", "propose", project, "--budget", "8", "--json")[1])
    assert found["tests"]["added"] == 2
    with open_project(project).open() as store:
        tests = [pair for pair in store.open_comparisons() if pair.kind == "held-out"]
        assert all({pair.a.policy, pair.b.policy} == {"base", "rl-1"} for pair in tests)


def test_status_names_the_next_step_in_every_state(run, project, tmp_path):
    def following():
        return json.loads(run("refresh", "status", project, "--json")[1])["next"]

    def verb():
        return following().partition("rewardsmith refresh ")[2].split()[0]

    assert verb() == "ingest"
    assert project in following()
    run("refresh", "ingest", project, answers(tmp_path / "a.jsonl", "base", n=40), "--policy", "base")
    assert verb() == "propose"
    run("refresh", "propose", project, "--budget", "8")
    assert verb() == "label"
    with open_project(project).open() as store:
        queue = store.open_comparisons()
        for pair in queue:
            store.record_label(pair.id, "ann", "flag", at=1.0)
        assert verb() == "propose", "flagged pairs are no labels"
        for pair in queue[:-1]:
            store.record_label(pair.id, "ann", "a", at=2.0)
        assert verb() == "train"
        store.undo("ann", now=3.0, seconds=60, comparison_id=queue[0].id)
        assert verb() == "label"
        assert "or train on those" in following()
        with store.writing() as connection:  # labelled once, where two labels are wanted
            connection.execute(
                sa.update(comparisons).where(comparisons.c.id == queue[1].id).values(overlap=2, is_open=1)
            )
        store.record_label(queue[0].id, "ann", "b", at=4.0)

        def train(name):
            store.add_model(name, path=f"models/{name}", artifact_hash=name, round=0, at=5.0)
            counts = store.counts(5.0)
            store.set_value(TRAINED, json.dumps({"model": name, "labels": label_mark(counts)}))

        assert "or have the 1 that want one more labelled" in following()
        train("one")
        store.add_model("outside", path="/elsewhere", artifact_hash="x", round=0, at=6.0)
        assert verb() == "gate"
        store.add_gate("one", passed=False, figures={}, at=7.0)
        assert following().startswith("the gate blocks one")
        assert verb() == "propose"
        store.add_gate("one", passed=True, figures={}, at=8.0)
        assert verb() == "release"
        store.add_release("one", manifest_hash="h", at=9.0)
        assert verb() == "ingest"
        store.record_label(queue[0].id, "ann", "a", at=10.0)
        assert verb() == "train", "a label has changed"
        train("two")
        store.add_release("two", manifest_hash="h2", at=11.0)
        store.add_release("one", manifest_hash="h", at=12.0)
        assert following().startswith("two was rolled back")
    run("refresh", "ingest", project, answers(tmp_path / "b.jsonl", "rl-1"), "--policy", "rl-1")
    assert following().startswith("choose pairs of round 1")


def test_labels_by_a_column(run, project, tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [
        {"prompt": words(f"q{i}"), "response": words(f"{i} {j}"), "worth": float(j)}
        for i in range(20)
        for j in range(3)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("refresh", "ingest", project, str(file), "--policy", "base")
    run("refresh", "propose", project, "--budget", "8")
    gold = ("refresh", "label", project, "--gold", "column:worth")
    assert "belong together" in run(*gold)[2]
    code, out, _ = run(*gold, "--candidates", str(file), "--json")
    assert (code, json.loads(out)["unlabelled"], json.loads(out)["labelled"]) == (0, 0, json.loads(out)["pairs"])
    worth = {row["response"]: row["worth"] for row in rows}
    with open_project(project).open() as store:
        for group in store.labelled_groups():
            first, second = (worth[turn[-1].content] for turn in group.responses)
            assert (group.preferences[0].chosen == 0) == (first > second)


def test_drift_of_a_project(run, project, tmp_path):
    def said(policy, length, n=60):
        rows = [{"prompt": words(f"q{i}"), "response": words(f"{policy} {i} {j}", length + i % 5)}
                for i in range(n) for j in range(2)]  # fmt: skip
        file = tmp_path / f"{policy}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert run("refresh", "ingest", project, str(file), "--policy", policy)[0] == 0

    def drift(*more, code=0):
        got, out, err = run("refresh", "drift", "--project", project, "--permutations", "199", "--json", *more)
        assert got == code
        return err if code else json.loads(out)

    assert "no answers in round 0" in drift(code=2)
    said("base", 8)
    assert "round 0 is the first" in drift(code=2)
    said("same", 8)
    said("long", 30)
    assert "0 prompts of rounds before 2 have labels" in drift(code=2)
    longer = drift("--against", "rounds")
    assert (longer["verdict"], longer["round"], longer["n_new"], longer["n_reference"]) == ("due", 2, 60, 60)
    assert "they are longer by" in longer["text"]
    same = drift("--against", "rounds", "--round", "1")
    assert not any(row["alarm"] for row in same["signals"])
    run("refresh", "propose", project, "--round", "0", "--budget", "60")
    with open_project(project).open() as store:
        for pair in store.open_comparisons():
            store.record_label(pair.id, "ann", "a", at=1.0)
        train = {group.prompt_id for group, _ in labelled(store).train}
        store.add_model("m", path="models/m", artifact_hash="h", round=0, at=1.0)
        late = {r.id for r in store.responses(round=2)}
        store.set_scores("m", {r.id: (5.0 * (r.id in late) + r.id % 7, None) for r in store.responses()})
        store.add_release("m", manifest_hash="h", at=2.0)
    found = drift()
    assert (found["n_reference"], found["model"], found["against"]) == (len(train), "m", "training")
    alarmed = {row["signal"] for row in found["signals"] if row["alarm"]}
    assert {"reward", "length"} <= alarmed
    assert "round 2: 60 new prompts against" in run("refresh", "drift", "--project", project)[1]
    for words_, what in ((("x.jsonl",), "in the place of files"), (("--aggregate", "min"), "leave out --aggregate")):
        assert what in drift(*words_, code=2)


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
