"""The command line: parse, call the library, print. No verb has logic of its own.

Each verb is a small dataclass of options (its docstring is the help text) and a `run` method that returns a
JSON-ready dict. `main` does the rest for all of them: --config, --json, exit codes, one-line errors.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import os
import re
import sys
import tomllib
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
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
    "evaluate": ("rewardsmith.verbs_evaluation", "Evaluate", "accuracy with intervals and baselines"),
    "calibrate": (
        "rewardsmith.verbs_evaluation",
        "Calibrate",
        "the temperature at which rewards read as probabilities",
    ),
    "compare": ("rewardsmith.verbs_compare", "Compare", "two reward models on the same pairs"),
    "selftest": ("rewardsmith.verbs_compare", "SelfTest", "does a reward depend on what it must not depend on?"),
    "audit": ("rewardsmith.verbs_audit", "Audit", "which edits raise the reward without raising quality"),
    "mitigate": (
        "rewardsmith.verbs_mitigate",
        "Mitigate",
        "mend what an audit found: propose, retrain, audit again",
    ),
    "optimize": (
        "rewardsmith.verbs_optimize",
        "Optimize",
        "what pressure on a reward does to real quality, and how far to go",
    ),
    "explain": ("rewardsmith.verbs_explain", "Explain", "what is rewarded, in words and word by word"),
    "sample": ("rewardsmith.verbs_policy", "Sample", "a policy's answers to prompts, as candidates"),
    "rl": ("rewardsmith.verbs_policy", "Rl", "optimise a policy against a reward model, and record what that buys"),
    "report": ("rewardsmith.verbs_report", "Report", "one page: what a reward model is good for, and where it is weak"),
    "export": ("rewardsmith.verbs", "Export", "a copy of a reward model in another dtype"),
    "ensemble join": ("rewardsmith.verbs_ensemble", "Join", "reward models that were trained apart as one ensemble"),
    "ensemble average": ("rewardsmith.verbs_ensemble", "Average", "one reward model from the mean of weights (WARM)"),
    "ensemble laplace": (
        "rewardsmith.verbs_ensemble",
        "FitLaplace",
        "how sure the last layer is, kept in the artifact",
    ),
    "serve": ("rewardsmith.verbs_serve", "Serve", "rewards over HTTP, in the shapes of vLLM, TEI and OpenRLHF"),
    "keys add": ("rewardsmith.verbs_serve", "KeysAdd", "an API key for serve"),
    "keys revoke": ("rewardsmith.verbs_serve", "KeysRevoke", "take an API key away"),
    "data check": ("rewardsmith.verbs", "DataCheck", "what a preference file holds, and what is wrong with it"),
    "data convert": ("rewardsmith.verbs", "DataConvert", "one shape of preference file to another"),
    "data augment": (
        "rewardsmith.verbs_data",
        "DataAugment",
        "add counterfactual pairs made from the data's own answers",
    ),
    "data balance": (
        "rewardsmith.verbs_data",
        "DataBalance",
        "weights that break what the surface predicts; doubtful labels",
    ),
    "data coverage": (
        "rewardsmith.verbs_coverage",
        "DataCoverage",
        "what the data covers and what it does not: cells, holes against a target, contamination",
    ),
    "data select": ("rewardsmith.verbs_data", "DataSelect", "which pairs of a pool to have labelled next"),
    "refresh init": ("rewardsmith.verbs_refresh", "RefreshInit", "a project that keeps a reward model fresh"),
    "refresh ingest": ("rewardsmith.verbs_refresh", "RefreshIngest", "what a policy said, into the project"),
    "refresh propose": ("rewardsmith.verbs_refresh", "RefreshPropose", "which pairs are worth a label, and why"),
    "refresh label": ("rewardsmith.verbs_label", "Label", "have pairs labelled: by people on a page, a judge, or gold"),
    "refresh export": ("rewardsmith.verbs_label", "Export", "pairs for Label Studio or Argilla"),
    "refresh import": ("rewardsmith.verbs_label", "Import", "labels from Label Studio or Argilla"),
    "refresh train": ("rewardsmith.verbs_refresh_models", "RefreshTrain", "a model from the labels of all rounds"),
    "refresh gate": ("rewardsmith.verbs_refresh_models", "RefreshGate", "may the new model be released?"),
    "refresh release": ("rewardsmith.verbs_refresh_models", "RefreshRelease", "make a model the one that is served"),
    "refresh rollback": ("rewardsmith.verbs_refresh_models", "RefreshRollback", "go back to an earlier release"),
    "refresh run": ("rewardsmith.verbs_refresh_models", "RefreshRun", "the whole loop with an automatic labeller"),
    "refresh status": ("rewardsmith.verbs_refresh", "RefreshStatus", "where a project stands, and what comes next"),
    "refresh simulate": (
        "rewardsmith.verbs_simulate",
        "Simulate",
        "what refreshing a reward model would buy, on recorded answers",
    ),
    "refresh drift": ("rewardsmith.verbs_drift", "Drift", "is a refresh due? new policy outputs without labels"),
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
        print(HELP.format(verbs="\n".join(f"  {name:<16} {text}" for name, (_, _, text) in VERBS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from rewardsmith.installed import own_version

        print(f"rewardsmith {own_version()}")
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
    if os.environ.get("RANK", "0") != "0":  # under torchrun, the first process speaks for all
        return 0
    if common.json:
        print(json.dumps(result, ensure_ascii=True, allow_nan=False))
    else:
        print(options.show(result))
    sys.stdout.flush()
    return int(result.get("exit_code", 0))


def parse(verb: str, arguments: Sequence[str]) -> tuple[Any, Common]:
    """The verb's options and the common ones, from arguments and a --config file (arguments win)."""
    import tyro

    module, name, _ = VERBS[verb]
    options_class = getattr(importlib.import_module(module), name)
    both: list[tuple[str, Any, Any]] = [
        ("options", options_class, field()),
        ("common", Common, field(default_factory=Common)),
    ]
    both_class: Any = make_dataclass("Arguments", both, kw_only=True)
    words = expand_config(arguments, options_class)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: Any = tyro.cli(
                both_class,
                prog=f"rewardsmith {verb}",
                description=inspect.getdoc(options_class),
                args=words,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):  # --help
            raise
        raise ConfigError(f"{one_line(said.getvalue())} See rewardsmith {verb} --help") from None
    return parsed.options, parsed.common


def one_line(box: str) -> str:
    """What the parser says in a drawn box, as a sentence."""
    bare = re.sub(r"[\u2500-\u257f]|-{5,}", " ", box)  # lines of a box, or what stands for them without Unicode
    text = " ".join(bare.split())
    for title in ("Parsing error ", "Required options ", "Value error ", "Invalid choice ", "Error parsing options: "):
        text = text.removeprefix(title)
    return text.split(" For full helptext")[0].rstrip(".") + "."


def expand_config(arguments: Sequence[str], options_class: type) -> list[str]:
    """Replace `--config FILE.toml` by the options in the file, except those that the arguments give themselves.

    A verb that has `of_project` takes what its project's refresh.toml says below both of them.
    """
    rest: list[str] = []
    table: dict[str, Any] = {}
    stream = iter(arguments)
    for word in stream:
        if word == "--config" or word.startswith("--config="):
            table |= read_config(word.partition("=")[2] or next(stream, ""))
        else:
            rest.append(word)
    given = {
        w.partition("=")[0].removeprefix("--").removeprefix("no-").replace("_", "-") for w in rest if w[:2] == "--"
    }
    if hasattr(options_class, "of_project") and (folder := project_word(rest, options_class)) is not None:
        table = options_class.of_project(folder, {name.replace("-", "_") for name in given} | table.keys()) | table
    if not table:
        return rest
    known = {f.name: (f, place) for f, place in option_fields(options_class)}
    positionals: list[str] = []
    options: list[str] = []
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"--config: {key!r} is no option of this verb")
        option, is_positional = known[key]
        if is_positional:
            positionals += map(str, value if isinstance(value, list) else [value])
        elif key.replace("_", "-") not in given:
            options += option_words(option, value)
    # Lists last: a list before a positional would swallow it.
    return positionals + rest + options


def project_word(words: Sequence[str], options_class: type) -> str | None:
    """The word among the arguments that is the project's folder; None where there is none, or help is asked for."""
    hints = option_hints(options_class) | option_hints(Common)
    taken = 0.0  # words that the option before still takes
    for word in words:
        if word in ("-h", "--help"):
            return None
        if word.startswith("--"):
            name, equals, _ = word.removeprefix("--").replace("-", "_").partition("=")
            name = name if name in hints else name.removeprefix("no_")
            if name not in hints:
                return None  # the parser says so
            many = typing.get_origin(hints[name]) is tuple
            taken = 0 if equals or hints[name] is bool else float("inf") if many else 1
        elif taken:
            taken -= 1
        else:
            return word
    return None


def option_hints(cls: type) -> dict[str, Any]:
    """{name: type} of all options of an options class and of the classes inside it."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        if is_dataclass(hint):
            found |= option_hints(typing.cast(type, hint))
        else:
            found[name] = hint
    return found


def read_config(file: str) -> dict[str, Any]:
    """The options of a TOML file; its tables only group."""
    try:
        with open(file, "rb") as handle:
            table = tomllib.load(handle)
    except OSError as error:
        raise ConfigError(f"--config {file!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: {error}") from None
    flat: dict[str, Any] = {}

    def add(values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                add(value)
            else:
                flat[key.replace("-", "_")] = value

    add(table)
    return flat


def option_fields(cls: type) -> Iterator[tuple[Any, bool]]:
    """(field, whether it is positional) of an options class, of the classes inside it, and of Common."""
    import tyro

    marker = typing.get_args(tyro.conf.Positional[int])[1]
    yield from ((f, False) for f in fields(Common))
    pending: list[Any] = [cls]
    while pending:
        current = pending.pop()
        hints = typing.get_type_hints(current, include_extras=True)
        for f in fields(current):
            if is_dataclass(hints[f.name]):
                pending.append(hints[f.name])
            else:
                yield f, marker in getattr(hints[f.name], "__metadata__", ())


def option_words(option: Any, value: Any) -> list[str]:
    """`learning_rate = 1e-5` is `--learning-rate 1e-5`; a switch is said only where it is not at its default."""
    name = option.name.replace("_", "-")
    if isinstance(value, bool):
        if value == option.default:
            return []
        return [f"--{name}" if value else f"--no-{name}"]
    many = value if isinstance(value, list) else [value]
    return [f"--{name}", *map(str, many)]


if __name__ == "__main__":
    sys.exit(main())
