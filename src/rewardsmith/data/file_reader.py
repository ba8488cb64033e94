"""One file: its shape recognised, its rows turned into groups, its report filled."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from rewardsmith.data.fields import Row, kind_of, short
from rewardsmith.data.files import read_rows
from rewardsmith.data.formats import RawRow
from rewardsmith.data.options import (
    ALIASES,
    NO_PREFERENCE,
    NO_PROMPT,
    REPEATS,
    Dropped,
    FileReport,
    ReadOptions,
    ReadReport,
)
from rewardsmith.data.parts import Parts, pair_keys
from rewardsmith.data.payload import Follower, payload_of, restore
from rewardsmith.data.schema import Group, Preference, content_hash, preferences_from_ratings
from rewardsmith.data.shapes import SHAPES, tag_value
from rewardsmith.data.shapes_rated import rating_columns
from rewardsmith.data.shapes_winner import ANNOTATOR, WINNER_KEYS, zero_one_labels
from rewardsmith.errors import DataError

SAMPLE = 50  # rows that decide the shape
CLEAR = 2 / 3  # share of the recognised rows that one shape must have
SLICE_COLUMNS = ("subset", "source", "category", "slice", "section", "type")
ID_COLUMNS = ("id", "prompt_id", "idx")
OPTIONAL = frozenset({"system", "id", "margin"})  # columns that a row may lack, whatever they are called
LONGEST_TAG = 200  # characters: longer values of slice columns are texts, not slices
MOST_KEYS = 100  # distinct unknown keys that a report names
MOST_SHOWN = 5  # of them in its warning
UNLABELLED = "no row states a preference; the groups can be scored, not trained on"


def choose_shape(path: str, rows: Sequence[Row], options: ReadOptions) -> str:
    """The shape that the sampled rows have. Raises DataError where none fits, or more than one."""
    if options.shape != "auto":
        return ALIASES.get(options.shape, options.shape)
    votes = Counter(name for row in rows for name, shape in SHAPES.items() if shape.matches(row, options))
    if not votes:
        keys = sorted({printable(key) for row in rows for key in row})
        sides = next(filter(None, map(pair_keys, rows)), None)
        if sides is not None:
            raise DataError(
                f"{path}: {' and '.join(sides)} are there, but no column says who won ({', '.join(WINNER_KEYS)}); "
                "add one, or, to score both, put them into one list, 'responses'"
            )
        raise DataError(
            f"{path}: no known shape has the columns {short(', '.join(keys), 160)}; name them (--prompt-key, "
            "--chosen-key, --rejected-key, or --response-key and --rating-key), or give --shape"
        )
    (name, most), *others = votes.most_common()
    if others and most <= CLEAR * (most + others[0][1]):
        found = ", ".join(f"{shape} ({count} of {len(rows)} rows)" for shape, count in votes.most_common())
        raise DataError(f"{path}: the rows fit several shapes: {found}; give --shape")
    return name


def check_columns(path: str, shape: str, rows: Sequence[Row], options: ReadOptions) -> None:
    """Raise DataError where columns can be read in two ways, before a million rows are read in one."""
    if shape == "scored":
        several = next((keys for row in rows if len(keys := rating_columns(row, options)) > 1), None)
        if several:
            raise DataError(f"{path}: several score columns ({', '.join(several)}); name one with --rating-key")
    if shape == "pairwise" and not options.winner_labels:
        column = zero_one_labels(rows)
        if column:
            raise DataError(
                f"{path}: '{column}' is 0 or 1 and never 2, so 0 may mean the first response or a tie; "
                "say it with --winner-labels FIRST SECOND [TIE]"
            )


def printable(text: str) -> str:
    """Text that any terminal or JSON file takes: lone surrogates are shown as escapes."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


@dataclass
class _Scored:
    """The rows of one prompt in a `scored` file, until the file ends."""

    parts: Parts
    source_id: object
    lines: list[int]


class FileReader:
    """One file's rows, turned into groups, and its part of the report."""

    def __init__(self, path: str, weight: float, options: ReadOptions, report: ReadReport, seen_ids: set[str]) -> None:
        self.path, self.weight, self.options, self.report = path, weight, options, report
        self.renamed = options.renamed
        self.seen_ids = seen_ids
        self.file = FileReport(path=path)
        self.buckets: dict[object, _Scored] = {}
        self.following = ("", 0, 0)  # the group that the next rows of a converted file belong to
        self.tags_seen: set[str] = set()
        self.optional_seen: set[str] = set()  # of the renamed columns that a row may lack
        report.files.append(self.file)

    def groups(self) -> Iterator[Group]:
        """The file's groups in order; raises DataError where no row is usable."""
        rows = read_rows(self.path)
        sample: list[RawRow] = []
        decoded: list[Row] = []
        for raw in rows:
            sample.append(raw)
            if raw.value is not None:
                decoded += self.for_sample(raw.value)
            if len(decoded) >= SAMPLE:
                break
        if decoded:
            self.file.shape = choose_shape(self.path, decoded, self.options)
            check_columns(self.path, self.file.shape, decoded, self.options)
        for raw in chain(sample, rows):
            self.file.rows += 1
            yield from self.attempt([raw.line], lambda raw=raw: self.row(raw))  # type: ignore[misc]
        for bucket in self.buckets.values():
            yield from self.attempt(bucket.lines, lambda b=bucket: self.merged(b))  # type: ignore[misc]
        self.finish()

    def for_sample(self, value: Row) -> list[Row]:
        try:
            return [self.rename(value)]
        except DataError:
            return []

    def attempt(self, lines: list[int], make: Callable[[], Group | None]) -> Iterator[Group]:
        """The group that `make` makes of these lines, if any; a row that cannot be used is named."""
        try:
            group = make()
        except DataError as error:
            self.drop(lines, str(error))
        except RecursionError:
            self.drop(lines, "nested too deeply")
        else:
            if group is not None:
                self.file.groups += 1
                self.file.pairs += len(group.preferences)
                yield group

    def drop(self, lines: list[int], reason: str) -> None:
        self.file.rows_dropped += len(lines)
        self.report.dropped += [Dropped(self.path, line, printable(reason)[:300]) for line in lines]

    def row(self, raw: RawRow) -> Group | None:
        """The group of one row, or None where the row waits for others of its prompt."""
        if raw.value is None:
            raise DataError(raw.reason)
        row = self.rename(raw.value)
        payload = payload_of(row)
        if payload is not None:
            return self.restored(row, payload, raw.line)
        parts = SHAPES[self.file.shape].read(row, self.options)
        parts.tags = self.tags(row) | parts.tags
        self.file.rating_key = self.file.rating_key or parts.rating_key
        self.count_unknown(row)
        if self.file.shape == "scored":
            self.keep_scored(row, parts, raw.line)
            return None
        return self.group(parts, self.source_id(row), [raw.line])

    def rename(self, row: Row) -> Row:
        """The row under the shapes' own column names."""
        renamed = self.renamed
        if not renamed:
            return row
        missing = next((theirs for ours, theirs in renamed.items() if theirs not in row and ours not in OPTIONAL), None)
        if missing is not None:
            raise DataError(f"no '{missing}'")
        self.optional_seen.update(ours for ours in OPTIONAL & renamed.keys() if renamed[ours] in row)
        # A column under our own name is not the one that the user named.
        kept = {key: value for key, value in row.items() if key not in renamed.values() and key not in renamed}
        return kept | {ours: row[theirs] for ours, theirs in renamed.items() if theirs in row}

    def restored(self, row: Row, payload: dict[str, Any], line: int) -> Group | None:
        """The exact group of a file that `convert` wrote; its further rows are used and give nothing new."""
        found = restore(row, payload, self.options)
        if isinstance(found, Follower):
            head, next_row, rows = self.following
            if (found.head, found.row, found.rows) != (head, next_row, rows):
                raise DataError(
                    f"row {found.row} of {found.rows} of group {short(found.head)} is not below its first row"
                    "; to read the rows of a reordered file as plain pairs, remove its 'rewardsmith' column"
                )
            self.following = (head, next_row + 1, rows)
            self.file.rows_used += 1
            return None
        group = self.group(found.parts, found.id, [line])
        self.following = (found.head, 2, found.rows)
        return group

    def keep_scored(self, row: Row, parts: Parts, line: int) -> None:
        """Put one response with the others of its prompt."""
        source_id = self.source_id(row)
        # Only prompt_id says which prompt; an `id` may well number the rows.
        prompt_id = row.get("prompt_id")
        if not isinstance(prompt_id, str | int | float | None):
            raise DataError(f"'prompt_id' is {kind_of(prompt_id)}, not text or a number")
        key = (str(prompt_id), content_hash(parts.prompt, ()))  # as text: nan is not equal to itself
        bucket = self.buckets.get(key)
        if bucket is None:
            self.buckets[key] = _Scored(parts, source_id if prompt_id is None else prompt_id, [line])
            return
        bucket.lines.append(line)
        bucket.parts.responses += parts.responses
        assert bucket.parts.ratings is not None
        bucket.parts.ratings += parts.ratings or []
        self.agree(bucket.parts.tags, parts.tags)

    def agree(self, tags: dict[str, str], others: dict[str, str]) -> None:
        """A tag on which the responses of one prompt disagree is not a tag of the prompt."""
        for name in [name for name, value in tags.items() if others.get(name) != value]:
            del tags[name]
            self.file.defaulted[f"tag {name!r} left out: the responses of a prompt disagree"] += 1

    def merged(self, bucket: _Scored) -> Group:
        if not any(rating is not None for rating in bucket.parts.ratings or ()):
            bucket.parts.ratings = None
        return self.group(bucket.parts, bucket.source_id, bucket.lines)

    def group(self, parts: Parts, source_id: object, lines: list[int]) -> Group:
        """The Group of finished parts. Counts its rows as used once it stands."""
        parts = self.subsample(parts)
        preferences = parts.preferences
        if preferences is None:
            preferences = list(preferences_from_ratings(parts.ratings or (), self.options.rating_gap))
        group = Group(
            prompt=parts.prompt,
            responses=tuple(parts.responses),
            preferences=tuple(preferences),
            ratings=None if parts.ratings is None else tuple(parts.ratings),
            tags=parts.tags,
            tools=parts.tools,
            template_kwargs=parts.template_kwargs,
            weight=parts.weight * self.weight,
            note=parts.note,
            id="" if source_id is None else self.unique_id(str(source_id), lines[0]),
            source=f"{self.path}:{lines[0]}",
        )
        self.file.rows_used += len(lines)
        self.file.defaulted.update(parts.notes)
        self.file.defaulted.update([] if preferences else [NO_PREFERENCE])
        return group

    def subsample(self, parts: Parts) -> Parts:
        """At most `max_responses` responses, drawn by seed and prompt, and what is known among them."""
        most, k = self.options.max_responses, len(parts.responses)
        if most is None or k <= most:
            return parts
        if parts.ratings is not None and len(parts.ratings) != k:
            raise DataError(f"{len(parts.ratings)} ratings for {k} responses")
        draw = random.Random(f"{self.options.subsample_seed}:{content_hash(parts.prompt, ())}")
        kept = sorted(draw.sample(range(k), most))
        self.file.subsampled_groups += 1
        self.file.responses_left_out += k - most
        return replace(
            parts,
            responses=[parts.responses[i] for i in kept],
            ratings=None if parts.ratings is None else [parts.ratings[i] for i in kept],
            preferences=None if parts.preferences is None else among(parts.preferences, kept),
        )

    def source_id(self, row: Row) -> object:
        """The row's own id, or None."""
        for key in ID_COLUMNS:
            value = row.get(key)
            if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
                return tag_value(value, key)
            if value is not None and value != "":
                self.file.defaulted[f"'{key}' is {kind_of(value)}: not used as id"] += 1
        return None

    def unique_id(self, source_id: str, line: int) -> str:
        """The id, made unique where the files repeat it: two groups never share one that a source gave."""
        if source_id in self.seen_ids:
            self.file.defaulted[REPEATS] += 1
            source_id = f"{source_id}@{Path(self.path).name}:{line}"
        self.seen_ids.add(source_id)
        return source_id

    def tags(self, row: Row) -> dict[str, str]:
        """The row's slice columns, and the columns the user named."""
        tags = {}
        for key in SLICE_COLUMNS:
            value = row.get(key)
            if (
                isinstance(value, str | int | float)
                and value != ""
                and len(shown := tag_value(value, key)) <= LONGEST_TAG
            ):
                tags[key] = shown
        for key in self.options.tag_keys:
            if row.get(key) is not None:
                tags[key] = tag_value(row[key], key)
        self.tags_seen.update(tags)
        return tags

    def count_unknown(self, row: Row) -> None:
        """Count the keys that neither the shape nor the options read."""
        options = self.options
        known = {
            *options.tag_keys,
            *SLICE_COLUMNS,
            options.rating_key,
            options.responses_key,
            self.file.rating_key,
        }
        unknown = self.file.unknown_keys
        for key in row.keys() - SHAPES[self.file.shape].keys - known:
            if not ANNOTATOR.fullmatch(key):
                shown = printable(key)[:100]
                unknown[shown if shown in unknown or len(unknown) < MOST_KEYS else "(others)"] += 1

    def finish(self) -> None:
        """The warnings of a file read to its end, and the invariant: every row is used or named."""
        file, report = self.file, self.report
        assert file.rows == file.rows_used + file.rows_dropped, file
        if not file.groups:
            first = next((d for d in report.dropped if d.file == self.path), None)
            why = f"; the first, line {first.line}: {first.reason}" if first else ""
            raise DataError(f"{self.path}: none of the {file.rows} rows is usable{why}")
        if not file.pairs:
            report.warnings.append(f"{self.path}: {UNLABELLED}")
        report.warnings += [f"{self.path}: {remark}" for remark in self.remarks()]

    def remarks(self) -> Iterator[str]:
        """What a person should know of a file that was read to its end, a line each."""
        file = self.file
        for ours in sorted(OPTIONAL & self.renamed.keys() - self.optional_seen):
            yield f"no row has the {ours} column {self.renamed[ours]!r}"
        for key in self.options.tag_keys:
            if key not in self.tags_seen:
                yield f"no row has the tag column {key!r}"
        for what, count in file.defaulted.items():
            if what == REPEATS:
                yield f"ids that repeat earlier ones ({count}): file and line were added to them"
            elif what != NO_PREFERENCE or file.pairs:  # none at all is said above
                of = f" of {file.groups} groups" if what in (NO_PREFERENCE, NO_PROMPT) else f" time{'s' * (count != 1)}"
                yield f"{what} ({count}{of})"
        if file.unknown_keys:
            shown = [f"{short(key)} ({count})" for key, count in file.unknown_keys.most_common(MOST_SHOWN)]
            more = len(file.unknown_keys) - len(shown)
            yield f"columns that nothing reads, with their rows: {', '.join(shown)}" + f" and {more} more" * (more > 0)
        if file.responses_left_out:
            often = f"{file.responses_left_out} in {file.subsampled_groups} of {file.groups} groups"
            yield f"responses left out by --max-responses {self.options.max_responses}: {often}"


def among(preferences: Sequence[Preference], kept: Sequence[int]) -> list[Preference]:
    """The preferences between kept responses, with their new indices."""
    at = {old: new for new, old in enumerate(kept)}
    return [
        replace(p, chosen=at[p.chosen], rejected=at[p.rejected])
        for p in preferences
        if p.chosen in at and p.rejected in at
    ]
