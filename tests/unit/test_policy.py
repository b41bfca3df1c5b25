"""release.yaml: what it says, what it may not say, and what holds where it says nothing."""

from pathlib import Path

import pytest

from flows.releases.policy import describe_defaults, read_policy
from tasks.errors import ParamsError


def test_the_shipped_policy_is_the_default(tmp_path):
    shipped = read_policy(Path(__file__).resolve().parents[2])
    assert shipped == read_policy(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gates: {maximum_flippd: 0.1}", "unknown key 'gates.maximum_flippd'. Did you mean 'maximum_flipped'?"),
        ("kep: 3", "unknown key 'kep'. Did you mean 'keep'?"),
        ("gates: {maximum_flipped: 2}", "'gates.maximum_flipped'"),
        ("gates: {maximum_centroid_shift: .nan}", "'gates.maximum_centroid_shift'"),
        ("keep: 1", "'keep'"),
        ("carry: folder\ngit: push", "lead nowhere"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("- a", "release.yaml"),
        ("keep: 3\ngates: {}\nkeep: 5", "release.yaml, line 3: not valid YAML: the key 'keep' occurs twice"),
        (
            "gates:\n  maximum_flipped: 0.1\n  maximum_flipped: 0.9",
            "release.yaml, line 3: not valid YAML: the key 'maximum_flipped' occurs twice",
        ),
        ("yes: 3", "the key 'yes' is not text"),
        ("keep: '30'", "'keep': Input should be a valid integer. Got '30'."),
        ("keep: true", "'keep': Input should be a valid integer. Got True."),
        ("gates: {maximum_flipped: yes}", "'gates.maximum_flipped'"),
        ("timeout_seconds: 2026-01-01", "'timeout_seconds'"),
    ],
)
def test_a_mistake_in_the_policy_is_named(tmp_path, text, said):
    (tmp_path / "release.yaml").write_text(text)
    with pytest.raises(ParamsError) as caught:
        read_policy(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "release.yaml is missing: gates, keep, carry, git and timeout_seconds have their default values"),
        ("", "release.yaml is empty: gates, keep"),
        ("# nothing yet\n", "release.yaml is empty: gates, keep"),
        ("{}", "release.yaml is empty: gates, keep"),
        ("keep: 30", None),
    ],
)
def test_a_file_that_says_nothing_is_told(tmp_path, text, said):
    if text is not None:
        (tmp_path / "release.yaml").write_text(text)
    told = describe_defaults(tmp_path)
    assert told is None if said is None else told is not None and told.startswith(said)
    assert read_policy(tmp_path).keep == 30
