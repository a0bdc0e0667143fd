"""Claims: a chat template is a foreign program; all it does ends as one typed line, in time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import hooks
from artifacts.command import main
from artifacts.errors import InputError
from directions.extract import Extract
from hooks.errors import TokenizerError
from tests.directions import tiny
from tests.directions.conftest import Pair

ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__()[0] }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{% set _ = messages.append({'role': 'user'}) %}",
)
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + tiny.TEMPLATE
)


def _model(folder: Path, template: str | None) -> hooks.Model:
    return hooks.load(str(tiny.save(folder, tiny.model(), template)), dtype="float32", device="cpu")


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_attribute_escape_is_stopped_by_the_sandbox(tmp_path: Path, escape: str) -> None:
    canary = tmp_path / "canary"
    model = _model(tmp_path / "m", escape.replace("CANARY", str(canary)) + tiny.TEMPLATE)
    with pytest.raises(TokenizerError, match="the chat template failed"):
        model.encode(["bake bread"])
    assert not canary.exists()


def test_a_template_that_refuses_a_system_prompt_says_so_and_works_without(tmp_path: Path) -> None:
    model = _model(tmp_path / "m", NO_SYSTEM)
    with pytest.raises(TokenizerError, match="System role not supported.*without a system prompt"):
        model.encode(["bake bread"], system="please")
    assert len(model.encode(["bake bread"])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("template", ENDLESS)
def test_an_endless_template_is_stopped_within_five_seconds(tmp_path: Path, template: str) -> None:
    """In a process of its own, so that a template which is not stopped fails one test only."""
    tiny.save(tmp_path / "m", tiny.model(), template + tiny.TEMPLATE)
    code = (
        "import sys, time\nimport hooks\n"
        "from hooks.errors import TokenizerError\n"
        "model = hooks.load(sys.argv[1], dtype='float32', device='cpu')\n"
        "start = time.perf_counter()\n"
        "try:\n    model.encode(['bake bread'])\n"
        "except TokenizerError as error:\n"
        "    print('typed', time.perf_counter() - start, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("typed "), done.stderr[-500:]
    assert float(done.stdout.split()[1]) <= 5


def test_the_command_turns_a_hostile_template_into_one_line(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = pair.arguments(tmp_path / "o.safetensors")
    for flag in ("--base", "--aligned"):
        folder = tiny.save(tmp_path / flag[2:], tiny.model(), ESCAPES[0])
        argv[argv.index(flag) + 1] = str(folder)
    assert main(Extract, argv) == 2
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1
    assert "the chat template failed" in errors[0]
    assert "(SecurityError" in errors[0]


def test_a_template_that_ignores_the_generation_prompt_becomes_a_note(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    ignores = tiny.TEMPLATE.replace("{% if add_generation_prompt %}", "{% if true %}")
    argv = pair.arguments(tmp_path / "o.safetensors", "--json")
    for flag, seed in (("--base", 0), ("--aligned", 1)):
        folder = tiny.save(tmp_path / flag[2:], tiny.model(seed), ignores)
        argv[argv.index(flag) + 1] = str(folder)
    assert main(Extract, argv) in (0, 4)
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("ignores add_generation_prompt" in note for note in notes)


def test_a_slow_but_honest_template_is_served(tmp_path: Path) -> None:
    """The limit must not hit templates that merely work hard."""
    busy = "{% for a in range(2000) %}{% if a < 0 %}{{ a }}{% endif %}{% endfor %}" + tiny.TEMPLATE
    start = time.perf_counter()
    assert len(_model(tmp_path / "m", busy).encode(["bake bread"] * 3)) == 3
    assert time.perf_counter() - start < 30


def test_a_template_that_drops_the_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="drops the user's text"):
        _model(tmp_path / "m", "<|user|> hello <|assistant|>").encode(["bake bread"])
