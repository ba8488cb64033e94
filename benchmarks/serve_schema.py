"""Generated requests against the server's OpenAPI description: no 5xx, and every answer as described.

    pip install schemathesis        (in an environment of its own: it pins packages that the server uses)
    python benchmarks/serve_schema.py RM [--cases 5000] [--schemathesis PATH]

A model of any size will do: what is tested is the server. Exits with schemathesis' exit code, or 1 where the server did
not answer a sound request afterwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile

from serve_common import Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SOUND = {"messages": [{"role": "user", "content": "hello"}], "responses": ["a", "b"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--schemathesis", default="schemathesis")
    options = parser.parse_args()
    server = Server(options.model)
    status, description = server.ask("GET", "/openapi.json")
    assert status == 200
    operations = sum(len(methods) for methods in json.loads(description)["paths"].values())
    command = [options.schemathesis, "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--continue-on-failure"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(options.cases // operations + 1)]
    with tempfile.TemporaryDirectory() as folder:  # where it leaves what it remembers
        done = subprocess.run([*command, "--seed", "1", "--workers", "2", "--no-color"], cwd=folder)
    status, _ = server.ask("POST", "/v1/reward", SOUND)
    code, last = server.stop()
    print(f"a sound request afterwards: {status}; server: exit code {code}, {last}")
    raise SystemExit(done.returncode or status != 200 or code)


if __name__ == "__main__":
    main()
