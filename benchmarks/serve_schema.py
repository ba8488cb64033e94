"""Generated requests against the server's OpenAPI description: no 5xx, and every answer as described.

    python benchmarks/serve_schema.py RM [--cases 5000] [--schemathesis PATH]

A model of any size will do: what is tested is the server. Cases are spread evenly over the operations that
take a body; the key is an admin's, so that /admin/reload is asked too and not only refused. Exits with schemathesis'
exit code, or 1 where fewer cases than asked for were generated or the server did not answer a sound request afterwards.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile

from serve_common import Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
KEY = "an-admin-key-of-this-benchmark"
SOUND = {"messages": [{"role": "user", "content": "hello"}], "responses": ["a", "b"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schemathesis", default="schemathesis")
    options = parser.parse_args()
    server = Server(options.model, "--api-key", KEY)
    status, description = server.ask("GET", "/openapi.json")
    assert status == 200
    operations = [operation for methods in json.loads(description)["paths"].values() for operation in methods.values()]
    examples = options.cases // sum("requestBody" in operation for operation in operations) + 1
    command = [options.schemathesis, "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--continue-on-failure"]
    command += ["--header", f"X-API-Key: {KEY}", "--seed", str(options.seed), "--workers", "2", "--no-color"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)]
    with tempfile.TemporaryDirectory() as folder:  # where it leaves what it remembers
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    found = re.search(r"(\d+) generated", done.stdout)
    n_cases = int(found.group(1)) if found else 0
    status, _ = server.ask("POST", "/v1/reward", SOUND, headers={"x-api-key": KEY})
    code, last = server.stop()
    print(f"{n_cases} cases of {options.cases}; a sound request afterwards: {status}; server: exit code {code}, {last}")
    raise SystemExit(done.returncode or n_cases < options.cases or status != 200 or code)


if __name__ == "__main__":
    main()
