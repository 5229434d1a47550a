"""YAML within bounds: each file gives plain values or an error that names it."""

import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.load import ConfigError, load
from configs.yaml_files import read_yaml, to_yaml, yaml_value

ALIASES = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
)
"""Nine levels of nine aliases: 9^9 values in 400 bytes."""


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)
@given(data=st.binary(max_size=60) | st.text(alphabet="&*!<>[]{}:,-? \n\"'#|a1.~").map(str.encode))
def test_any_bytes_give_a_mapping_or_an_error_that_names_the_file(tmp_path, data):
    path = tmp_path / "file.yaml"
    path.write_bytes(data)
    try:
        assert isinstance(read_yaml(path), dict)
    except ConfigError as error:
        assert "file.yaml" in str(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ALIASES, "more than 1000000 values"),
        ("a: &a [*a]", "more than 1000000 values"),
        ("[" * 10_000, "nested more than 30 levels deep"),
        ("- " * 10_000, "nested more than 30 levels deep"),
        ("a: &a 1\n" + "\n".join(f"b{n}: *a" for n in range(200)), "more than 100 aliases"),
        ("a: 1\na: 2", "duplicate key a"),
        ("? [a, b]\n: 1", "a key that is not a text"),
        ("a: 2001-99-99", "month must be in"),
        ("a: " + "9" * 100_000, "a number of more than 1000 characters"),
        ("a: 1" + ":30" * 200_000, "a number of more than 1000 characters"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_texts_beyond_the_bounds_are_rejected_quickly(text, reason):
    began = time.process_time()
    with pytest.raises(ConfigError, match=reason):
        yaml_value(text, "recipe.yaml")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan"])
def test_a_setting_that_is_not_finite_is_rejected(text):
    with pytest.raises(ConfigError, match=r"optim\.lr: found .*, expected a finite number"):
        load(None, [f"optim.lr={text}"])


def test_what_is_written_is_read_back(tmp_path):
    values = {"a": "1e-3", "b": 1e-3, "c": ["x", None, True], "d": {"e": "null"}, "f": "é"}
    (tmp_path / "file.yaml").write_text(to_yaml(values))
    assert read_yaml(tmp_path / "file.yaml") == values


def test_a_file_of_many_small_values_is_rejected_before_it_takes_memory(tmp_path, monkeypatch):
    """16 MB of lists would take gigabytes while they are loaded."""
    monkeypatch.setattr(yaml, "load", lambda *_, **__: pytest.fail("the values are loaded"))
    (tmp_path / "file.yaml").write_text("a: [" + "[]," * 3_000_000 + "]")
    with pytest.raises(ConfigError, match=r"file\.yaml: more than 1000000 values"):
        read_yaml(tmp_path / "file.yaml")
