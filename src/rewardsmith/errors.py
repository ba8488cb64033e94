"""The exceptions a user can meet.

    RewardsmithError(ValueError)
    ├── DataError        a preference file or a row of it cannot be used (names file and line)
    ├── ModelError       a model, tokenizer or artifact cannot be loaded, served or saved
    ├── ConfigError      options that contradict each other or the machine
    ├── TrainingError    training cannot go on (NaN, mismatching checkpoint)
    ├── StoreError       a refresh store cannot be opened, read or written
    └── Interrupted      Ctrl-C was honoured: state is saved, the message says how to resume

Each message is one line: what was found, where, and what to do about it. The command line prints it
and exits with `exit_code`; nothing here ever ends in a traceback for a user. Our own invariants are
`assert`s, not these.
"""

from __future__ import annotations


class RewardsmithError(ValueError):
    """Base of every error that a user can cause and mend."""

    exit_code = 2


class DataError(RewardsmithError):
    """A preference file, or one row of it, cannot be used."""


class ModelError(RewardsmithError):
    """A model, tokenizer or artifact cannot be loaded, served or saved."""


class ConfigError(RewardsmithError):
    """Options contradict each other, or ask for what this machine does not have."""


class TrainingError(RewardsmithError):
    """Training cannot go on: a loss is not finite, or a checkpoint is not of this run."""


class StoreError(RewardsmithError):
    """A refresh store cannot be opened, read or written. What was being written is not there in part."""


class Interrupted(RewardsmithError):
    """Ctrl-C: the state was saved and the message says how to go on."""

    exit_code = 130
