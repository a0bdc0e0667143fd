"""Claims: rows keep their source and pair; splits share neither; bad rows are refused by line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import InputError
from evaluation.catalogue import SHIPPED as CATALOGUE
from evaluation.catalogue import shipped as catalogue_set
from probes.labels import cut, labels_of
from probes.rows import SHIPPED, Row, digest, read_rows, rows_of, settle, shipped


def rows(n: int = 16, source: str = "a", pairs: bool = False) -> list[Row]:
    return [
        Row(
            prompt=f"{source} request {label} {i}",
            label=label,
            source=source,
            group=f"{source}{i}" if pairs else f"{source}{label}{i}",
            place=f"{source}, line {i}",
        )
        for i in range(n)
        for label in ("harmful", "harmless")
    ]


def _write(path: Path, *lines: dict) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_the_shipped_sources_are_those_of_the_catalogue() -> None:
    sets = {
        "test": ["test"],
        "development": ["development"],
        "twins": ["borderline", "unsafe-twins"],
    }
    for source, names in sets.items():
        files = [file for name in names for file, _ in CATALOGUE[name].files]
        assert sorted(files) == sorted(SHIPPED[source])
    found, notes = settle(shipped())
    assert {row.source for row in found} == set(SHIPPED)
    assert notes == ()
    texts = {
        p.prompt for names in sets.values() for name in names for p in catalogue_set(name).prompts
    }
    assert {row.prompt for row in found} == texts


def test_values_with_prompt_label_and_source_become_rows() -> None:
    found = rows_of(catalogue_set("development").prompts)
    assert {row.source for row in found} == {"theodolite-dev"}
    assert rows_of(rows()) == tuple(rows())


def test_a_file_is_read_with_its_sources_or_under_one_name(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "x.jsonl",
        {"prompt": " Steal it. ", "label": "harmful", "source": "s", "pair": "p", "more": 1},
        {"prompt": "Bake it.", "label": "harmless"},
    )
    first, second = read_rows(file)
    assert (first.prompt, first.source, first.group) == ("Steal it.", "s", "p")
    assert (second.source, second.group) == ("x", "bake it")
    assert {row.source for row in read_rows(f"mine={file}")} == {"mine"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": ', "line 2.*not strict JSON"),
        ('{"prompt": "a", "prompt": "b", "label": "harmful"}', "duplicate key"),
        ('{"prompt": " ", "label": "harmful"}', "line 2: the prompt is empty"),
        ('{"prompt": "a", "label": "evil"}', "line 2: label 'evil'; use one of harmful, harmless"),
        ('{"prompt": "a"}', "line 2: label ''"),
        ('{"prompt": 3, "label": "harmful"}', "line 2: prompt is int, not text"),
        ("[1]", "not a JSON object"),
    ],
)
def test_bad_lines_are_refused_with_their_place(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"prompt": "ok", "label": "harmful"}}\n{line}\n')
    with pytest.raises(InputError, match=message):
        read_rows(str(path))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    for spec, message in (("gone.jsonl", "no such file"), (".", "folder"), ("b.jsonl", "UTF-8")):
        with pytest.raises(InputError, match=message):
            read_rows(str(tmp_path / spec))


def test_sources_without_both_classes_or_with_few_prompts_are_refused() -> None:
    lone = [row for row in rows(source="b") if row.label == "harmful"]
    with pytest.raises(InputError, match="source 'b' has harmful prompts only"):
        settle([*rows(), *lone])
    with pytest.raises(InputError, match="source 'a': 7 harm.* at least 8"):
        settle(rows(7))
    with pytest.raises(InputError, match="no prompts"):
        settle([])


def test_repeats_are_dropped_and_counted_also_between_sources() -> None:
    again = [Row(r.prompt.upper() + "!", r.label, "b", r.group, r.place) for r in rows()[:4]]
    found, notes = settle([*rows(), *rows(source="b"), *again])
    assert len(found) == 64
    assert notes == ("4 repeated prompts dropped",)


@pytest.mark.parametrize("pairs", [False, True])
def test_folds_share_no_group_and_have_both_classes(pairs: bool) -> None:
    found = [*rows(pairs=pairs), *rows(12, source="b", pairs=pairs)]
    labels = labels_of(found, seed=0)
    assert labels.names == ("a", "b")
    assert labels.crossed
    for source in range(2):
        homes: dict[str, set[int]] = {}
        for fold in labels.folds(source):
            assert min(labels.positive[fold].sum(), (~labels.positive[fold]).sum()) >= 2
        for row, number, fold in zip(found, labels.source, labels.fold, strict=True):
            if number == source:
                homes.setdefault(row.group, set()).add(int(fold))
        assert all(len(where) == 1 for where in homes.values())


@pytest.mark.parametrize(("n", "parts"), [(8, 2), (24, 3)])
def test_one_source_is_cut_into_parts_that_share_no_group(n: int, parts: int) -> None:
    found = rows(n, pairs=True)
    labels = labels_of(found, seed=0)
    assert not labels.crossed
    assert labels.k == parts
    homes: dict[str, set[int]] = {}
    for row, number in zip(found, labels.source, strict=True):
        homes.setdefault(row.group, set()).add(int(number))
    assert all(len(where) == 1 for where in homes.values())


def test_splits_repeat_and_depend_on_the_seed() -> None:
    found = rows(24)
    first, again, other = (labels_of(found, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.fold, again.fold)
    assert (first.fold != other.fold).any() or (first.source != other.source).any()


def test_too_few_groups_to_cut_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be cut.*2 groups"):
        cut(np.arange(20) % 2 == 0, np.arange(20) % 10 == 0, 5, seed=0, what="a")


def test_the_digest_follows_the_content() -> None:
    changed = [*rows()[1:], rows()[0]]
    assert digest(rows()) == digest(rows())
    assert digest(rows()) != digest(changed)
