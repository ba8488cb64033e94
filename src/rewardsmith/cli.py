"""The command line: parse, call the library, print. No verb has logic of its own.

Each verb is a small dataclass of options (its docstring is the help text) and a `run` method that returns a
JSON-ready dict. `main` does the rest for all of them: --config, --json, exit codes, one-line errors.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from rewardsmith.errors import ConfigError, RewardsmithError

# verb -> (module, class, one line of help). Modules are imported only for the verb that is called.
VERBS: dict[str, tuple[str, str, str]] = {
    "quickstart": (
        "rewardsmith.verbs",
        "Quickstart",
        "bundled data and a small real model: the whole line",
    ),
    "train": ("rewardsmith.verbs", "Train", "preferences to a reward model"),
    "score": ("rewardsmith.verbs", "Score", "one row per response, streamed"),
    "evaluate": ("rewardsmith.verbs", "Evaluate", "accuracy with intervals and baselines"),
    "export": ("rewardsmith.verbs", "Export", "a copy of a reward model in another dtype"),
    "data check": ("rewardsmith.verbs", "DataCheck", "what a preference file holds, and what is wrong with it"),
    "data convert": ("rewardsmith.verbs", "DataConvert", "one shape of preference file to another"),
}
HELP = """usage: rewardsmith VERB [options]        rewardsmith VERB --help

From a file of human preferences to a reward model you can defend.

{verbs}

every verb: --json (one JSON object on standard output), --quiet, --config FILE.toml, --help
example:    rewardsmith train --data prefs.jsonl --model HuggingFaceTB/SmolLM2-135M-Instruct --output rm
exit codes: 0 done, 1 a check failed, 2 a mistake in the input, 130 interrupted"""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every verb."""

    json: bool = False
    """Print one JSON object on standard output and nothing else; progress stays on standard error."""
    quiet: bool = False
    """No progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. A user's mistake is one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except RewardsmithError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (head, less): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if "out of memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        print("error: out of memory; lower --tokens-per-batch or use --gradient-checkpointing", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(verbs="\n".join(f"  {name:<13} {text}" for name, (_, _, text) in VERBS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"rewardsmith {version('rewardsmith')}")
        return 0
    words = 2 if " ".join(arguments[:2]) in VERBS else 1
    verb = " ".join(arguments[:words])
    if verb not in VERBS:
        names = ", ".join(VERBS)
        raise ConfigError(f"{verb!r} is no verb; there are: {names}")
    options, common = parse(verb, arguments[words:])
    # What libraries print must not end up in the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        result = options.run(common)
    if common.json:
        print(json.dumps(result, ensure_ascii=True, allow_nan=False))
    else:
        print(options.show(result))
    return int(result.get("exit_code", 0)) if isinstance(result, dict) else 0


def parse(verb: str, arguments: Sequence[str]) -> tuple[Any, Common]:
    """The verb's options and the common ones, from arguments and a --config file (arguments win)."""
    import importlib

    import tyro

    module, name, _ = VERBS[verb]
    options_class = getattr(importlib.import_module(module), name)

    both: list[tuple[str, Any, Any]] = [
        ("options", options_class, field()),
        ("common", Common, field(default_factory=Common)),
    ]
    both_class: Any = make_dataclass("Arguments", both, kw_only=True)
    parsed: Any = tyro.cli(
        both_class,
        prog=f"rewardsmith {verb}",
        description=options_class.__doc__,
        args=expand_config(arguments),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return parsed.options, parsed.common


def expand_config(arguments: Sequence[str]) -> list[str]:
    """Replace `--config FILE.toml` by the options in the file, put first so that later ones win."""
    rest, from_file = [], []
    stream = iter(arguments)
    for word in stream:
        if word == "--config" or word.startswith("--config="):
            file = word.partition("=")[2] or next(stream, "")
            from_file += config_arguments(file)
        else:
            rest.append(word)
    return from_file + rest


def config_arguments(file: str) -> list[str]:
    """A TOML file as command-line words: `learning_rate = 1e-5` is `--learning-rate 1e-5`; tables only group."""
    try:
        with open(file, "rb") as handle:
            table = tomllib.load(handle)
    except OSError as error:
        raise ConfigError(f"--config {file!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: {error}") from None
    words: list[str] = []

    def add(values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                add(value)
            elif value is True:
                words.append(f"--{key.replace('_', '-')}")
            elif value is False:
                words.append(f"--no-{key.replace('_', '-')}") if key in DEFAULT_ON else None
            else:
                many = value if isinstance(value, list) else [value]
                words.extend([f"--{key.replace('_', '-')}", *map(str, many)])

    add(table)
    return words


DEFAULT_ON = ("keep_best",)  # switches that are on unless switched off


if __name__ == "__main__":
    sys.exit(main())
