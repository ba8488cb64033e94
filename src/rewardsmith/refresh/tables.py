"""The tables of a refresh store, the same for SQLite and PostgreSQL.

    prompts ──< responses ──< draws                  which policy said it, in which round
                    │  └────< scores >── models      rewards, kept per model
                    └───────< comparisons ──< labels (people, a judge, gold; undone ones stay)
                                │  └───────< leases (who looks at it now: a pair, or the set that it begins)
                                └── set_id ──> comparisons
    models ──< gates, releases

Times are seconds since 1970 (UTC). Texts are messages as JSON. `given`, `flags` and `is_open` of a comparison are
worked out from its labels in the transaction that writes the label: the queue is read from one index.

Answers that are ranked together are a set: all pairs among them have the number of the first of these pairs as their
`set_id`; that of a pair by itself is null. A lease is of a whole set, under the same number.
"""

from __future__ import annotations

from rewardsmith.errors import ConfigError

try:
    import sqlalchemy as sa
    import sqlalchemy.dialects.postgresql
    import sqlalchemy.dialects.sqlite
except ImportError:
    raise ConfigError(
        "the refresh store needs SQLAlchemy, which is not installed: pip install 'rewardsmith[refresh]'"
    ) from None

LAYOUT = 2  # of these tables; a store of another number was written by another version

metadata = sa.MetaData()


def _reference(table: str, *, primary: bool = False, empty: bool = False) -> sa.Column[int]:
    """The column TABLE_id that points at a row of another table."""
    name = f"{table.removesuffix('s')}_id"
    return sa.Column(name, sa.ForeignKey(f"{table}.id"), primary_key=primary, nullable=empty)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True)


meta = sa.Table(
    "refresh_meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

prompts = sa.Table(
    "prompts",
    metadata,
    _id(),
    sa.Column("key", sa.String(32), nullable=False, unique=True),  # hash of the messages and the context
    sa.Column("messages", sa.Text, nullable=False),
    sa.Column("context", sa.Text),  # tools and template variables, or null
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
)

responses = sa.Table(
    "responses",
    metadata,
    _id(),
    _reference("prompts"),
    sa.Column("key", sa.String(48), nullable=False, unique=True),  # the prompt's id and a hash of the messages
    sa.Column("messages", sa.Text, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),  # the first that said it, and when
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("base_logprob", sa.Float),
    sa.Index("responses_by_prompt", "prompt_id"),
)

draws = sa.Table(
    "draws",
    metadata,
    _reference("responses", primary=True),
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    _reference("prompts"),
    sa.Column("logprob", sa.Float),  # of the response under this policy
    sa.Index("draws_by_policy", "policy", "round", "prompt_id", "response_id"),
)

models = sa.Table(
    "models",
    metadata,
    _id(),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("artifact_hash", sa.Text, nullable=False),
    sa.Column("parent", sa.Text),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("data_hash", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
)

scores = sa.Table(
    "scores",
    metadata,
    _reference("models", primary=True),
    _reference("responses", primary=True),
    sa.Column("reward", sa.Float, nullable=False),
    sa.Column("std", sa.Float),
    sqlite_with_rowid=False,
)

comparisons = sa.Table(
    "comparisons",
    metadata,
    _id(),
    _reference("prompts"),
    sa.Column("a_id", sa.ForeignKey("responses.id"), nullable=False),
    sa.Column("b_id", sa.ForeignKey("responses.id"), nullable=False),
    sa.Column("set_id", sa.ForeignKey("comparisons.id")),  # the first pair of the answers ranked together
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("proposed_at", sa.Float, nullable=False),
    sa.Column("overlap", sa.Integer, nullable=False),  # how many labels are wanted
    sa.Column("given", sa.Integer, nullable=False, default=0),  # how many there are: a, b or tie
    sa.Column("flags", sa.Integer, nullable=False, default=0),
    sa.Column("is_open", sa.Integer, nullable=False, default=1),  # 1: given < overlap and no flag
    sa.CheckConstraint("a_id < b_id", name="one_order"),
    sa.UniqueConstraint("prompt_id", "a_id", "b_id"),
    sa.Index("comparisons_counted", "round", "kind", "is_open", "given", "flags"),
)
sa.Index(
    "comparisons_of_set", comparisons.c.set_id,
    sqlite_where=sa.text("set_id IS NOT NULL"), postgresql_where=sa.text("set_id IS NOT NULL"),
)  # fmt: skip
sa.Index(
    "comparisons_open", comparisons.c.score.desc(), comparisons.c.id,
    sqlite_where=sa.text("is_open = 1"), postgresql_where=sa.text("is_open = 1"),
)  # fmt: skip

labels = sa.Table(
    "labels",
    metadata,
    _id(),
    _reference("comparisons"),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("verdict", sa.String(4), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float),
    sa.Column("shown", sa.String(2), nullable=False),  # "ab": a stood left; "ba": b did
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("source", sa.String(8), nullable=False),
    sa.Column("key", sa.Text),  # the sender's own name for it: the same one twice is one label, or one ranking
    sa.Column("undone_at", sa.Float),
    sa.UniqueConstraint("key", "comparison_id"),
)
sa.Index(
    "labels_live", labels.c.comparison_id, labels.c.annotator, unique=True,
    sqlite_where=sa.text("undone_at IS NULL"), postgresql_where=sa.text("undone_at IS NULL"),
)  # fmt: skip

# What status counts and what undo looks for, among the labels that hold.
for _name, _columns in (
    ("labels_counted", ("annotator", "verdict", "source")),
    ("labels_in_turn", ("annotator", "at", "id")),
):
    sa.Index(
        _name, *(labels.c[column] for column in _columns),
        sqlite_where=sa.text("undone_at IS NULL"), postgresql_where=sa.text("undone_at IS NULL"),
    )  # fmt: skip
sa.Index(
    "labels_undone", labels.c.undone_at,
    sqlite_where=sa.text("undone_at IS NOT NULL"), postgresql_where=sa.text("undone_at IS NOT NULL"),
)  # fmt: skip

leases = sa.Table(
    "leases",
    metadata,
    _reference("comparisons", primary=True),  # a pair by itself, or the first pair of a set
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("until", sa.Float, nullable=False),
    sa.Index("leases_by_annotator", "annotator", "until"),
)

gates = sa.Table(
    "gates",
    metadata,
    _id(),
    _reference("models"),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("figures", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    _reference("models"),
    sa.Column("manifest_hash", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)
