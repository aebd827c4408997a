"""References are followed, sums are done, and nothing else is."""

import json

import pytest

from napari_medseg.bundles.config import Config, inside, monai_evaluator, read_config
from napari_medseg.case import InputError, RefusedError


def config(**content):
    return Config(content, "tiny")


def test_references_are_followed_into_lists_and_mappings():
    c = config(a={"b": [1, {"c": "deep"}]}, d="@a#b#1#c", e=["@a::b::0", "$@d"], f="@e")
    assert c.section("d") == "deep"
    assert c.section("f") == [1, "deep"]
    assert "f" in c and "z" not in c


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("$3", 3),
        ("$-1.5", -1.5),
        ("$@n * 2 + 1", 9),
        ("$[@n, @n // 3]", [4, 1]),
        ("$(@n / 8,)", [0.5]),
        ("$[@n] * 3", [4, 4, 4]),
        ("$[1] + [2]", [1, 2]),
        ("$None", None),
        ("$True", True),
        ("$'text'", "text"),
        ("$'a/' + 'b'", "a/b"),
        ("$[1.5, 1.5] if @n else [3.0, 3.0]", [1.5, 1.5]),
        ("$1 if @n - 4 else 2", 2),
    ],
)
def test_arithmetic_is_worked_out(expression, value):
    assert config(n=4, x=expression).section("x") == value


@pytest.mark.parametrize(
    "expression",
    [
        "$__import__('os').system('true')",
        "$open('/etc/passwd').read()",
        "$[x for x in (1, 2)]",
        "$@n.bit_length()",
        "$(lambda: 1)()",
        "$torch.float32",
        "$import os",
        "$f'{@n}'",
        "$1 if @n.real else 2",
        "$2 ** 99",
        "$@n[0]",
        "$" + "(" * 300 + "1" + ")" * 300,
    ],
)
def test_code_is_refused(expression):
    with pytest.raises(RefusedError, match="tiny: x would run Python code"):
        config(n=4, x=expression).section("x")


def test_a_trusted_bundle_may_use_expressions():
    c = Config({"x": [{"y": "$max(3, 4)"}]}, "tiny", evaluate=lambda where: f"value of {where}")
    assert c.section("x") == [{"y": "value of x#0#y"}]


def test_trusted_expressions_are_those_of_monai(tmp_path):
    content = {"bundle_root": ".", "n": 3, "x": ["$max(@n, 7)", "$str(@bundle_root) + '/models'"]}
    evaluate = monai_evaluator(content, {}, tmp_path)
    assert Config(content, "tiny", evaluate).section("x") == [7, f"{tmp_path}/models"]


@pytest.mark.parametrize("value", ["$[0] * 99999999", "$'a' * 9", "$1 / 0", "$[1] / 2"])
def test_sums_that_cannot_be_done_are_named(value):
    with pytest.raises(InputError, match="tiny: x has an expression"):
        config(x=value).section("x")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": "@y"}, "leads nowhere"),
        ({"x": "@y#3", "y": [1]}, "leads nowhere"),
        ({"x": "@y", "y": "@x"}, "leads back to itself"),
        ({"x": "$@x + 1"}, "leads back to itself"),
        ({"x": "@ y"}, "cannot be read"),
        ({}, "has no x"),
    ],
)
def test_broken_references_are_named(content, words):
    with pytest.raises(InputError, match=words):
        Config(content, "tiny").section("x")


def test_shallow_following_notices_circles():
    with pytest.raises(InputError, match="leads back to itself"):
        config(x="@y", y="@x").part("x")


@pytest.mark.parametrize("path", ["../outside.pt", "models/../../x", "a\\..\\b", "$'.' + './x'", "%/etc/x.json#a"])
def test_paths_that_lead_out_are_refused(path):
    with pytest.raises(RefusedError):
        config(x={"file": path}).section("x")


def test_inside_accepts_what_is_inside_only(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to(tmp_path / "secret")
    assert inside(folder, "models/x") == folder.resolve() / "models" / "x"
    for name in ("../secret", "link", str(tmp_path / "secret"), "/etc/passwd"):
        with pytest.raises(RefusedError, match="outside the bundle"):
            inside(folder, name)


def test_json_and_yaml_are_read(tmp_path):
    folder = tmp_path / "b"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.yaml").write_text("network_def:\n  channels: [1, 2]\n")
    assert read_config(folder, "inference") == {"network_def": {"channels": [1, 2]}}
    (folder / "configs" / "inference.json").write_text(json.dumps({"a": 1}))
    assert read_config(folder, "inference") == {"a": 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("inference.json", "{", "cannot be read"),
        ("inference.json", "[1]", "holds a list"),
        ("inference.yml", "a: [", "cannot be read"),
        ("inference.yml", "a: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("other.json", "{}", "no configs/inference.json"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, text, words):
    folder = tmp_path / "b"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_config(folder, "inference")


@pytest.mark.parametrize(
    "parts",
    [
        {"a0": "lol", **{f"a{k}": [f"@a{k - 1}"] * 10 for k in range(1, 12)}},
        {"a0": "lol", **{f"a{k}": f"$[@a{k - 1}] * 10" for k in range(1, 12)}},
        {"a0": "ha", **{f"a{k}": f"$@a{k - 1} + @a{k - 1}" for k in range(1, 40)}},
        {"a0": "h" * 60_000, "a1": "$@a0 + @a0"},
        {"a0": 1, **{f"a{k}": f"@a{k - 1}" for k in range(1, 5_000)}},
    ],
)
def test_what_grows_without_end_is_refused(parts):
    with pytest.raises(RefusedError, match=r"grows to|nested too deeply") as refused:
        config(**parts, x=[f"@a{len(parts) - 1}"]).section("x")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [lol]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12)),
        "a: &a [*a]\n",
        f"a: {'h' * 100_001}\n",
    ],
)
def test_yaml_that_grows_without_end_is_refused(tmp_path, text):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.yaml").write_text(text)
    with pytest.raises(RefusedError, match=r"grows to|nested too deeply|holds a text"):
        read_config(tmp_path, "inference")
