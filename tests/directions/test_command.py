"""Claims: the command answers fast, refuses bad input in one line that says what to do, prints one
JSON object, and exits with the documented codes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifacts.command import main
from directions.extract import Extract
from tests.directions import tiny
from tests.directions.conftest import Pair


def _refused(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    assert main(Extract, argv) == code
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in said.err
    return lines[0]


def test_json_is_one_object_with_every_number_and_its_control(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.safetensors"
    assert main(Extract, pair.arguments(out, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"out", "digest", "n", "seconds", "stats", "directions", "notes"} <= set(found)
    assert found["out"] == str(out)
    assert found["n"] == {role: {"harmful": 24, "harmless": 24} for role in ("fit", "test")}
    assert found["stats"]["tokens_asked"] > 0
    assert list(found["directions"]) == [
        "shift",
        "template_shift",
        "did",
        "refusal",
        "refusal_base",
    ]
    for numbers in found["directions"].values():
        assert numbers["low"] <= numbers["auc"] <= numbers["high"]
        assert {"best_block", "auc_shuffled", "auc_random", "split_half_cosine"} <= set(numbers)
    import artifacts

    assert artifacts.load(out).manifest.digest == found["digest"]


def test_the_map_of_one_device_gives_the_same_file(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import artifacts

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    digests = []
    for device in ("cpu", "map"):
        argv = pair.arguments(tmp_path / f"{device}.safetensors", "--quiet")
        argv[argv.index("--device") + 1] = device
        assert main(Extract, argv) == 0
        digests.append(artifacts.load(tmp_path / f"{device}.safetensors").digest)
    assert digests[0] == digests[1]


def test_the_table_names_file_numbers_and_next_command(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.safetensors"
    assert main(Extract, pair.arguments(out)) == 0
    said = capsys.readouterr().out
    for expected in ("24 harmful", "held-out", "refusal", f"wrote {out}", "reports.build"):
        assert expected in said
    assert main(Extract, pair.arguments(tmp_path / "y.safetensors", "--quiet")) == 0
    assert capsys.readouterr().out == ""


def test_a_refusal_direction_that_does_not_beat_its_control_is_written_and_exits_4(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both files hold prompts of the same kind, so the classes cannot be told apart."""
    rows = tiny.rows("harmless", 48)
    first = tiny.write(tmp_path / "a.jsonl", [{"prompt": r["prompt"]} for r in rows[:24]])
    second = tiny.write(tmp_path / "b.jsonl", [{"prompt": r["prompt"]} for r in rows[24:]])
    out = tmp_path / "x.safetensors"
    argv = pair.arguments(out, "--quiet")
    argv[argv.index("--harmful") + 1], argv[argv.index("--harmless") + 1] = str(first), str(second)
    message = _refused(argv, capsys, code=4)
    assert "does not beat its control" in message
    assert out.exists()
    assert main(Extract, [*argv, "--contrast", "shift"]) == 0  # no refusal asked for, none judged


def _harmful(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


GOOD = tiny.rows("harmful", 12)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "x.jsonl.*line 2"),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": "  "}\n', "line 2.*empty"),
        ("x.jsonl", b'{"prompt": "a", "label": "evil"}\n', "line 1.*'evil'.*harmful, harmless"),
        ("x.jsonl", b'{"prompt": "steal a"}\n' * 1, "1 harmful prompts; at least 8"),
        ("x.txt", b"steal\nb\xff\n", "UTF-8"),
        ("x.csv", b"text,label\na,harmful\n", "prompt"),
    ],
)
def test_bad_prompt_files_are_refused_with_the_line(
    pair: Pair,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    message: str,
) -> None:
    import re

    argv = pair.arguments(tmp_path / "o.safetensors")
    argv[argv.index("--harmful") + 1] = str(_harmful(tmp_path / name, content))
    assert re.search(message, _refused(argv, capsys))


def test_a_missing_file_and_a_missing_class_are_refused(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = pair.arguments(tmp_path / "o.safetensors")
    argv[argv.index("--harmful") + 1] = str(tmp_path / "gone.jsonl")
    assert "gone.jsonl" in _refused(argv, capsys)
    argv = pair.arguments(tmp_path / "o.safetensors")
    at = argv.index("--harmless")
    assert "--harmful is given without --harmless" in _refused(argv[:at] + argv[at + 2 :], capsys)
    argv = pair.arguments(tmp_path / "o.safetensors", "--test-harmless", str(pair.harmless))
    assert "--test-harmless is given without --test-harmful" in _refused(argv, capsys)


def test_duplicates_of_fit_and_test_are_dropped_and_counted(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("harmful", "harmless"):
        rows = [*tiny.rows(label, 4), *tiny.rows(label, 12, start=60)]
        tiny.write(tmp_path / f"{label}.jsonl", rows)
    argv = pair.arguments(
        tmp_path / "o.safetensors",
        *("--test-harmful", str(tmp_path / "harmful.jsonl")),
        *("--test-harmless", str(tmp_path / "harmless.jsonl"), "--json"),
    )
    assert main(Extract, argv) in (0, 4)
    found = json.loads(capsys.readouterr().out)
    assert "8 duplicate prompts dropped" in found["notes"]
    assert found["n"]["test"] == {"harmful": 12, "harmless": 12}
    everything = pair.arguments(
        tmp_path / "p.safetensors",
        *("--test-harmful", str(pair.harmful), "--test-harmless", str(pair.harmless)),
    )
    assert "0 harmful prompts to test on, after 96 duplicates" in _refused(everything, capsys)


def test_models_of_different_depth_are_refused(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = tiny.save(tmp_path / "deep", tiny.model(num_hidden_layers=4))
    argv = pair.arguments(tmp_path / "o.safetensors")
    argv[argv.index("--aligned") + 1] = str(deep)
    message = _refused(argv, capsys)
    assert "n_layers 3" in message
    assert "has 4" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": tiny.TEMPLATE.replace("<|end|>", "<|end|> ")}, "chat templates"),
        ({"extra": ("novel",)}, "tokenizers"),
    ],
)
def test_another_tokenizer_is_refused_and_recorded_when_allowed(
    pair: Pair,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict,
    message: str,
) -> None:
    other = tiny.save(tmp_path / "other", tiny.model(seed=3), **change)
    argv = pair.arguments(tmp_path / "o.safetensors", "--json")
    argv[argv.index("--base") + 1] = str(other)
    refusal = _refused(argv, capsys)
    assert message in refusal
    assert "--allow-mismatch" in refusal
    assert main(Extract, [*argv, "--allow-mismatch"]) in (0, 4)
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any(message in note and "allowed by --allow-mismatch" in note for note in notes)


def test_tokens_that_one_model_does_not_know_are_refused_even_when_mismatch_is_allowed(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tuple(f"w{i}" for i in range(20))
    aligned = tiny.model(seed=3)
    aligned.resize_token_embeddings(80)
    folder = tiny.save(tmp_path / "wide", aligned, extra=words)
    rows = [{"prompt": f"w19 {r['prompt']}"} for r in tiny.rows("harmful", 12)]
    argv = pair.arguments(tmp_path / "o.safetensors", "--allow-mismatch")
    argv[argv.index("--aligned") + 1] = str(folder)
    argv[argv.index("--harmful") + 1] = str(tiny.write(tmp_path / "h.jsonl", rows))
    assert "but one of the models knows only 48" in _refused(argv, capsys)


def test_a_model_without_chat_template_is_refused(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tiny.save(tmp_path / "bare", tiny.model(), template=None)
    argv = pair.arguments(tmp_path / "o.safetensors")
    for flag in ("--base", "--aligned"):
        argv[argv.index(flag) + 1] = str(bare)
    assert "no chat template" in _refused(argv, capsys)


def test_a_tokenizer_without_pad_token_is_served(pair: Pair, tmp_path: Path) -> None:
    """Padding is masked, so which token pads cannot matter; asking the user for one would."""
    folders = []
    for name, made in (("base", pair.base), ("aligned", pair.aligned)):
        folder = tmp_path / name
        folder.mkdir()
        for path in made.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings.pop("pad_token")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        folders.append(folder)
    argv = pair.arguments(tmp_path / "o.safetensors", "--quiet")
    argv[argv.index("--base") + 1], argv[argv.index("--aligned") + 1] = map(str, folders)
    assert main(Extract, argv) == 0


def test_a_prompt_longer_than_the_context_is_refused_by_id(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*tiny.rows("harmful", 12), {"id": "epic", "prompt": "steal " * 80}]
    argv = pair.arguments(tmp_path / "o.safetensors")
    argv[argv.index("--harmful") + 1] = str(tiny.write(tmp_path / "h.jsonl", rows))
    message = _refused(argv, capsys)
    assert "epic" in message
    assert "64" in message


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("gone/o.safetensors", "does not exist; create it first"),
        ("o.pt", "must end in .safetensors"),
        ("folder.safetensors", "is a link or a folder"),
        ("link.safetensors", "is a link or a folder"),
    ],
)
def test_places_that_cannot_be_written_are_refused_before_any_work(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, message: str
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "elsewhere")
    start = time.perf_counter()
    assert message in _refused(pair.arguments(tmp_path / out), capsys)
    assert time.perf_counter() - start < 1
    assert not (tmp_path / "elsewhere").exists()


def test_models_that_are_not_there_are_refused(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = pair.arguments(tmp_path / "o.safetensors")
    argv[argv.index("--base") + 1] = "nosuchmodel"
    assert "nosuchmodel" in _refused(argv, capsys)


@pytest.mark.parametrize(
    ("flag", "value", "choice"),
    [
        ("--sites", "attn.hook_z", "hook_resid_post"),
        ("--positions", "first", "template"),
        ("--contrast", "drift", "refusal_base"),
        ("--dtype", "int8", "bfloat16"),
        ("--moments", "third", "second"),
    ],
)
def test_a_value_outside_the_choices_exits_2_and_lists_them(
    pair: Pair,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    value: str,
    choice: str,
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(Extract, pair.arguments(tmp_path / "o.safetensors", flag, value))
    assert exit_.value.code == 2
    assert choice in "".join(capsys.readouterr().err.split())


def test_help_imports_nothing_heavy_and_answers_within_a_second() -> None:
    code = (
        "import sys\nfrom artifacts.command import main\nfrom directions.extract import Extract\n"
        "try:\n    main(Extract, ['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'sklearn', 'transformers', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "--test-harmful" in done.stdout
    assert min(seconds) < 1


def test_another_configuration_on_unfinished_work_is_refused(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.safetensors"
    assert main(Extract, pair.arguments(out, "--quiet", "--keep-shards")) == 0
    assert (tmp_path / "o.safetensors.run").is_dir()
    message = _refused(pair.arguments(out, "--seed", "1"), capsys)
    assert "options.seed: 0 there, 1 now" in message
    assert main(Extract, pair.arguments(out, "--json")) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    assert stats["shards_resumed"] == stats["shards"] == 2
    assert not (tmp_path / "o.safetensors.run").exists()


def test_a_second_run_on_the_same_file_fails_at_once_and_names_the_process(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from artifacts.locks import locked
    from directions.target import run_folder

    out = tmp_path / "o.safetensors"
    with locked(run_folder(out)):
        start = time.perf_counter()
        message = _refused(pair.arguments(out), capsys, code=3)
        assert time.perf_counter() - start < 1.5
    assert str(os.getpid()) in message
