"""The verbs `refresh label`, `refresh export` and `refresh import`: options, calls into the library, what is said."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.errors import ConfigError
from rewardsmith.labelling.settings import PageLimits
from rewardsmith.progress import Bar, say
from rewardsmith.verbs_common import Name, ScorerOptions, at_least

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rewardsmith.cli import Common
    from rewardsmith.refresh.store import Store
    from rewardsmith.scoring import Scorer

COLUMN = "column:"  # before the name of a column that says what answers are worth
WHO = {"judge", "gold", "candidates"}  # options that say who labels


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """A judge model at an OpenAI-compatible address."""

    judge: str | None = None
    """Label by a judge model: the address up to and with /v1. Each pair is shown in both orders."""
    judge_model: str | None = None
    """The name the judge's server knows its model by."""
    judge_disagreeing: Literal["tie", "leave"] = "tie"
    """What becomes of a pair on which the two orders disagree."""
    judge_max_tokens: int = 1024
    """Most tokens of a judge's reply."""
    judge_at_once: int = 4
    """Pairs that are before the judge at the same time."""
    judge_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the judge's key."""
    judge_instructions: str | None = None
    """A text file that takes the place of the judge's instructions; it must ask for [[A]], [[B]] or [[C]]."""


@dataclass(frozen=True, kw_only=True)
class GoldErrors:
    """Errors of a scorer as labeller."""

    gold_temperature: float = 0.0
    """Errors as people make them: the first answer wins with probability sigmoid(reward gap / this). 0: none."""
    gold_seed: int = 0
    """Seed of those errors."""


@dataclass(frozen=True, kw_only=True)
class GoldOptions:
    """A scorer as labeller."""

    gold: str | None = None
    """Label by a reward model: the answer with the higher reward is better; or by column:NAME of --candidates. For
    studies."""
    candidates: tuple[str, ...] = ()
    """With --gold column:NAME: files of answers with that column, several to each prompt, as of optimize."""
    errors: GoldErrors = field(default_factory=GoldErrors)


@dataclass(frozen=True, kw_only=True)
class Label:
    """Have the proposed pairs labelled: by people on a page, by a judge model, or by a gold reward model. Answers that
    were proposed together (refresh propose --answers) are ranked on the page.

    Example: rewardsmith refresh label project
    Example: rewardsmith refresh label project --judge http://127.0.0.1:8001/v1 --judge-model NAME

    What is not given here is taken from [label] in refresh.toml.
    """

    project: Annotated[Name, tyro.conf.arg(metavar="PROJECT")]
    """The folder of a refresh project."""
    judged: JudgeOptions = field(default_factory=JudgeOptions)
    golden: GoldOptions = field(default_factory=GoldOptions)
    labeller: str | None = None
    """Name of the judge or the gold model in the store. Default: judge:MODEL, or gold."""
    limit: int | None = None
    """Most pairs that the judge or the gold model labels. Default: all that are open."""
    round: int | None = None
    """Only pairs of this round, for the judge or the gold model."""
    host: str = "127.0.0.1"
    """Address the page listens on. Other than this machine's own, keys are needed."""
    port: int = 8010
    """Port the page listens on; 0 takes a free one."""
    key_file: str | None = None
    """Hashes of the annotators' keys, one for each: the key's name is the annotator's. See keys add."""
    tls_cert: str | None = None
    """Certificate chain (PEM): serve https."""
    tls_key: str | None = None
    """The certificate's private key (PEM)."""
    allow_host: tuple[str, ...] = ()
    """Further names that requests may call the page by, where no keys are used."""
    limits: PageLimits = field(default_factory=PageLimits)
    scoring: ScorerOptions = field(default_factory=ScorerOptions)

    def __post_init__(self) -> None:
        at_least(port=(self.port, 0), limit=(self.limit, 1), judge_at_once=(self.judged.judge_at_once, 1))
        if self.judged.judge and self.golden.gold:
            raise ConfigError("--judge and --gold: one labels at a time; run the verb twice")
        if (self.golden.gold or "").startswith(COLUMN) != bool(self.golden.candidates):
            raise ConfigError("--gold column:NAME and --candidates FILE... belong together")
        if self.judged.judge and not self.judged.judge_model:
            raise ConfigError("--judge needs --judge-model: the name its server knows the model by")

    @staticmethod
    def of_project(folder: str, given: Collection[str]) -> dict[str, Any]:
        """What [label] of the project says, under the options that are `given`."""
        return labelling_settings(folder, given)

    def run(self, common: Common) -> dict[str, Any]:
        with project_store(self.project) as store:
            if self.judged.judge or self.golden.gold:
                return self.automatically(store, common)
            return self.by_people(store, common)

    def automatically(self, store: Store, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.labellers import Gold, Labeller, label_open

        labeller: Labeller
        if self.golden.gold:
            labeller = Gold(
                scorer=self.gold_scorer(self.golden.gold),
                name=self.labeller or "gold",
                temperature=self.golden.errors.gold_temperature,
                seed=self.golden.errors.gold_seed,
            )
        else:
            labeller = self.judged_by()
        n_open = store.counts(0.0).open
        with Bar("labelling pairs", min(n_open, self.limit or n_open), quiet=common.quiet) as bar:
            return label_open(store, labeller, limit=self.limit, round=self.round, advance=bar.advance)

    def gold_scorer(self, gold: str) -> Scorer:
        from rewardsmith.refresh.candidates import Recorded

        if not gold.startswith(COLUMN):
            return self.scoring.open(gold)
        scorer = Recorded(self.golden.candidates, gold.removeprefix(COLUMN)).gold
        assert scorer is not None, "a column was named"
        return scorer

    def judged_by(self) -> Any:
        from rewardsmith.overoptimization.sample_server import Server
        from rewardsmith.refresh.judge import INSTRUCTIONS, Judge

        options = self.judged
        assert options.judge is not None, "asked for"
        assert options.judge_model is not None, "checked before"
        file = options.judge_instructions
        try:
            instructions = INSTRUCTIONS if file is None else Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--judge-instructions {file}: {getattr(error, 'strerror', None) or error}") from None
        server = Server(
            url=options.judge,
            model=options.judge_model,
            n=1,
            max_tokens=options.judge_max_tokens,
            temperature=0.0,
            logprobs=False,
            api_key_env=options.judge_key_env,
            requests_at_once=options.judge_at_once,
        )
        name = self.labeller or ""
        return Judge(server=server, disagreeing=options.judge_disagreeing, name=name, instructions=instructions)

    def by_people(self, store: Store, common: Common) -> dict[str, Any]:
        try:
            import fastapi  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"the labelling page needs {error.name}; install it with: pip install 'rewardsmith[serve,refresh]'"
            ) from None
        from rewardsmith.labelling.desk import Desk
        from rewardsmith.labelling.run import serve_page
        from rewardsmith.serving.keys import KeyRing

        desk = Desk(store, Path(self.project).name or self.project, self.limits)

        def started(address: str, stop: Callable[[], None]) -> None:
            say(f"labelling {self.project} at {address}/ (Ctrl-C ends it; labels are kept as they come)")

        serve_page(
            desk,
            host=self.host,
            port=self.port,
            keys=KeyRing((), self.key_file),
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            allow_hosts=self.allow_host,
            log_requests=not common.quiet,
            on_started=started,
        )
        return {"project": self.project, "labelled": desk.n_labels, **desk.report()}

    def show(self, result: dict[str, Any]) -> str:
        if "labeller" not in result:
            return f"stopped: {result['labelled']} labels kept since the start"
        lines = [
            f"{result['labeller']}: {result['labelled']} of {result['pairs']} pairs labelled "
            f"({result['tie']} ties), {result['unlabelled']} left unlabelled"
        ]
        lines += [f"  {count} × {why}" for why, count in sorted(result["reasons"].items())]
        lines += [f"  for example pair {one['comparison']}: {one['why']}" for one in result["examples"]]
        if (share := result.get("named_first")) and share["value"] is not None:
            lines.append(
                f"the answer that stood first was named in {share['value']:.0%} "
                f"[{share['low']:.0%}, {share['high']:.0%}] of the verdicts (50%: order plays no part); "
                f"{result['orders_disagree']} of {result['both_orders']} pairs depend on the order"
                if share["low"] is not None
                else f"{result['orders_disagree']} of {result['both_orders']} pairs depend on the order"
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write pairs as tasks of Label Studio or records of Argilla, with the labels they have, and the tool's settings.

    Example: rewardsmith refresh export project --to label-studio --output tasks.json
    """

    project: Annotated[Name, tyro.conf.arg(metavar="PROJECT")]
    """The folder of a refresh project."""
    output: str
    """The file to write, .json. The tool's settings are written beside it."""
    to: Literal["label-studio", "argilla"] = "label-studio"
    """The tool."""
    pairs: Literal["open", "labelled", "all"] = "open"
    """Which pairs: those that want a label, those that have one, or all."""
    limit: int | None = None
    """Most pairs."""

    def __post_init__(self) -> None:
        at_least(limit=(self.limit, 1))

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.exchange import export_pairs

        with project_store(self.project) as store:
            return export_pairs(store, self.output, self.to, which=self.pairs, limit=self.limit)

    def show(self, result: dict[str, Any]) -> str:
        left = f"; {result['left_out']} labels of judges and scorers stay here" if result["left_out"] else ""
        return (
            f"{result['output']}: {result['pairs']} pairs with {result['labels']} labels{left}\n"
            f"{result['settings']}: the settings of a {result['to']} project for them"
        )


@dataclass(frozen=True, kw_only=True)
class Import:
    """Take labels from an export of Label Studio or Argilla whose tasks came from refresh export.

    Example: rewardsmith refresh import project labelled.json
    """

    project: Annotated[Name, tyro.conf.arg(metavar="PROJECT")]
    """The folder of a refresh project."""
    file: Annotated[Name, tyro.conf.arg(metavar="FILE")]
    """The tool's export, .json. Which tool it is from is seen."""
    annotators: tuple[str, ...] = ()
    """What the tool calls its people, as ID=NAME: an id, an e-mail address. Default: as the tool says."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.exchange import import_labels

        names = {}
        for said in self.annotators:
            id, equals, name = said.partition("=")
            if not (id and equals and name):
                raise ConfigError(f"--annotators {said!r}: write ID=NAME")
            names[id] = name
        with project_store(self.project) as store:
            return import_labels(store, self.file, names)

    def show(self, result: dict[str, Any]) -> str:
        from rewardsmith.verbs_common import dropped_lines

        lines = [
            f"{result['file']} ({result['from']}): {result['new']} new labels of {result['labels']} on "
            f"{result['tasks']} pairs; {result['unlabelled']} pairs have none there"
        ]
        return "\n".join([*lines, *dropped_lines(result["dropped"])])


def labelling_settings(folder: str, given: Collection[str]) -> dict[str, Any]:
    """What [label] of a project's refresh.toml says.

    Who labels is one choice: where one of its options is `given`, the table's do not count. ConfigError for a key that
    is no option of `refresh label` and a value of another type.
    """
    from rewardsmith.cli import option_hints
    from rewardsmith.refresh.project import open_project

    known = {name: hint for name, hint in option_hints(Label).items() if name != "project"}
    stated = open_project(folder).stated("label", known)
    return {name: value for name, value in stated.items() if not (WHO & set(given) and name in WHO)}


@contextmanager
def project_store(folder: str) -> Iterator[Store]:
    """The store of a project."""
    from rewardsmith.refresh.project import open_project

    with open_project(folder).open() as store:
        yield store
