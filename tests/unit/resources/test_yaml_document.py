"""YAML as Kubernetes reads it, and what is refused."""

from __future__ import annotations

import pytest

from imaging_ingestion.resources.yaml_document import Document, Fault, read_yaml


def values(text: str) -> list[object]:
    return [found.value if isinstance(found, Document) else found for found in read_yaml(text)]


def fault(text: str) -> Fault:
    (found,) = read_yaml(text)
    assert isinstance(found, Fault), found
    return found


def test_documents_come_one_by_one_and_empty_ones_are_left_out():
    assert values("---\n---\na: 1\n---\n# nothing\n---\n[x]\n---\n~\n...\n") == [{"a": 1}, ["x"]]


def test_a_document_knows_where_it_and_its_values_are():
    _, second = read_yaml("a: 1\n---\n\nb:\n  - c: 1\n  - d: 2\n")
    assert isinstance(second, Document)
    assert second.line == 4
    node = second.find(["b", 1, "d"])
    assert node is not None
    assert (node.value, node.start_mark.line + 1) == ("2", 6)
    assert second.find(["b", 2, "d"]) is None
    assert second.find(["nothing"]) is None
    assert second.find(["b", "c"]) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("yes", True),
        ("off", False),
        ('"yes"', "yes"),
        ("5432", 5432),
        ("0x10", 16),
        ("1.5", 1.5),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("{base: &x {k: 1}, d: {<<: *x, l: 2}}", {"base": {"k": 1}, "d": {"k": 1, "l": 2}}),
    ],
)
def test_scalars_are_of_the_types_that_kubernetes_gives_them(text, value):
    assert values(f"v: {text}") == [{"v": value}]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' stands there twice"),
        ("a:\n  x: 1\n  x: 1\n", 3, "the key 'x' stands there twice"),
        ("a:\n\tb: 1\n", 2, "a tab stands where YAML wants spaces"),
        ("? [a]\n: 1\n", 1, "a key must be text"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "the tag !!python/object/apply:os.system"),
        ("a: !secret x\n", 1, "the tag !secret is not known"),
        ("a: !!timestamp 2024-01-01\n", 1, "the tag !!timestamp is not known"),
        ("a: !!int abc\n", 1, "the value is no int"),
        ("a: !!bool perhaps\n", 1, "the value is no bool"),
        ('a: !!int ""\n', 1, "the value is no int"),
        (f"a: {'9' * 5000}\n", 1, "the value is no int"),
        ("a: *nobody\n", 1, "found undefined alias"),
        ("a: &x [*x]\n", 1, "the document unfolds into too many values"),
        ("a: [1\n", 2, "expected"),
        ("a: 'x\n", 2, "unexpected end of stream"),
    ],
)
def test_what_surprises_is_a_fault_with_its_line(text, line, what):
    found = fault(text)
    assert what in found.what
    assert found.line == line


def test_a_fault_of_syntax_leaves_the_documents_before_it():
    first, second = read_yaml("a: 1\n---\nb: [\n")
    assert isinstance(first, Document)
    assert isinstance(second, Fault)


def test_other_faults_leave_the_documents_around_them():
    found = list(read_yaml("a: 1\n---\nb: 1\nb: 1\n---\nc: 1\n"))
    assert [type(one) for one in found] == [Document, Fault, Document]


def test_characters_that_yaml_forbids_are_a_fault():
    assert fault("a: \x07").what == "a character in it is not allowed in YAML"


@pytest.mark.parametrize("depth", [100, 5000, 50_000])
def test_bottomless_nesting_is_a_fault(depth):
    assert "nested too deeply" in fault("[" * depth + "]" * depth).what


def test_aliases_that_unfold_without_end_are_a_fault():
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    assert "unfolds into too many values" in fault("\n".join(lines)).what


def test_merges_that_unfold_without_end_are_a_fault():
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 40)]
    assert "unfolds into too many values" in fault("\n".join(lines)).what
