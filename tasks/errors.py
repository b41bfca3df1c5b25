"""Errors that users see, each with the exit code of the command that raises it."""


class EpoxyError(Exception):
    """A mistake in input, params or set-up; shown without a traceback.

    The message says what is wrong, where, what was found against what was expected, and what to do.
    """

    exit_code = 1


class ParamsError(EpoxyError):
    """params.yaml (or a file it names) is not what the program expects."""

    exit_code = 2


class DataError(EpoxyError):
    """A table, array or index is missing, damaged or breaks its schema."""

    exit_code = 3


class LabelingFunctionError(EpoxyError):
    """A labeling function raised, returned an unknown class, or cannot be loaded."""

    exit_code = 4


class StageError(EpoxyError):
    """A stage ended badly, ran out of time, or the repository is in use."""

    exit_code = 5


class GateError(EpoxyError):
    """The policy of releases refuses a candidate; the last release stays in place."""

    exit_code = 6


class QueryError(EpoxyError):
    """A question names an item, labeling function, class, method or column that is not there."""

    exit_code = 2
