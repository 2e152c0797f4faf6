"""The pages of the documentation: every command in them, and every row's page.

A comment `<!-- needs … -->` above a block says what its commands need that a test has not. Their
flags are looked at only; those of other blocks are run, in the order of the pages, with small
networks and data.
"""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from attn_lstm.commands import COMMANDS
from attn_lstm.fields import FIELDS
from attn_lstm.methods import METHODS
from tests import patches
from tests.programs import ROOT, run

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

# What stands for a reader's own things, and what of a training takes long.
OWN = {"FOLDER": "mine", "PICTURES": "mine", "DIR": "runs/digits", "COCO": "coco"}
SMALL = (
    "--config.data.image_size=32",
    "--config.decoder.hidden=16",
    "--config.decoder.attention=8",
    "--config.search.beam_size=2",
    "--config.train.steps=4",
    "--config.train.eval_every=4",
    "--config.train.checkpoint_every=4",
)


class Said(NamedTuple):
    """A command of a page: argv behind `python`, with the scripts' names in the place of others."""

    page: str
    argv: tuple[str, ...]
    needs: bool


def blocks(page: Path) -> Iterator[tuple[bool, str]]:
    """Whether it needs something, and the text, of each block that is indented or fenced."""
    needs, fenced, lines = False, False, []
    for line in [*page.read_text().splitlines(), "end"]:
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    ") or (lines and not line):
            lines.append(line)
        else:
            if lines:
                yield needs, "\n".join(lines)
                needs, lines = False, []
            needs = line.startswith("<!-- needs ") or (needs and not line)


def commands(text: str) -> Iterator[tuple[str, ...]]:
    """What a shell would start of our programs."""
    text = text.replace("\\\n", " ")
    for line in text.splitlines():
        if not re.search(r"\bpython |\battn-lstm ", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = [*lexer]
        for i, word in enumerate(words):
            if " " in word and "python" in word:
                yield from commands(word)
            if word.split("/")[-1] not in ("python", "attn-lstm"):
                continue
            behind = words[i + 1 :]
            end = next((n for n, w in enumerate(behind) if re.fullmatch(r"[;&|<>()]+", w)), None)
            argv = tuple(behind[:end])
            yield argv if word.endswith("python") else (COMMANDS[argv[0]].script, *argv[1:])


def said() -> list[Said]:
    found = []
    for page in PAGES:
        for needs, text in blocks(page):
            for argv in commands(text):
                argv = tuple(word for line in argv[:1] for word in line.split())[:2] + argv[1:]
                argv = argv[1:] if argv[0] == "python" else argv
                if argv[0] in ("train.py", "eval.py", "predict.py", "compare.py", "-m"):
                    found.append(Said(str(page.relative_to(ROOT)), argv, needs))
    return found


def name_of(argv: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The command's name, or the module's that is none of them, and its arguments."""
    script = f"python {' '.join(argv[: 2 if argv[0] == '-m' else 1])}"
    rest = argv[2 if argv[0] == "-m" else 1 :]
    for name, command in COMMANDS.items():
        if command.script == script:
            return name, rest
    return argv[1], rest


SAID = said()


def test_commands_are_found_as_a_reader_would():
    assert len(SAID) > 40
    assert any(x.needs for x in SAID) and not all(x.needs for x in SAID)
    text = "for i in 0 1; do python train.py --a=$i & done; wait\nx | python eval.py --b > out"
    assert [*commands(text)] == [("train.py", "--a=$i"), ("eval.py", "--b")]


def test_every_flag_and_field_that_a_page_names_is_there():
    helps = {}
    for page, argv, _ in SAID:
        name, rest = name_of(argv)
        if name not in COMMANDS:
            assert importlib.util.find_spec(name), f"{page}: there is no {name}"
            continue
        if name not in helps:
            helps[name] = run("-m", "attn_lstm", name, "--help").stdout
        for word in rest:
            flag, _, value = word.partition("=")
            if flag.startswith("--config."):
                field = FIELDS.get(flag.removeprefix("--config."))
                assert field, f"{page}: there is no field {flag}"
                if type(field.default) is str and not value.isupper():
                    assert field.wrong(value) is None, f"{page}: {word}"
            elif flag.startswith("--"):
                assert re.search(rf"{flag}\b", helps[name]), f"{page}: {name} has no {flag}"


def test_every_row_has_a_page_with_its_source():
    pages = {path.stem: path.read_text() for path in (DOCS / "methods").glob("*.md")}
    assert pages.keys() == METHODS.keys()
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n")
        source = METHODS[name].source
        assert (source if source != "ours" else "Ours") in text or name == "knn", name


@pytest.mark.slow
def test_every_command_that_needs_nothing_runs(tmp_path):
    for name in ("train.py", "eval.py", "predict.py", "compare.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    patches.write_folder(tmp_path / "mine", 40)
    patches.write_coco(tmp_path / "coco", {"train2014": 40, "val2014": 10})
    done = set()
    for page, argv, needs in SAID:
        argv = tuple(re.sub(r"\b[A-Z]{3,}\b", lambda m: OWN.get(m[0], m[0]), x) for x in argv)
        if needs or argv in done:
            continue
        done.add(argv)
        name, _ = name_of(argv)
        small = SMALL if name in ("train", "compare") else ()
        few = ("--methods=resnet_baseline", "--seeds=1") if name == "compare" else ()
        ended = run(*argv, *small, *few, cwd=tmp_path, environment={"TFDS_DATA_DIR": str(tmp_path)})
        assert ended.returncode == 0, f"{page}: {shlex.join(argv)}: {ended.stderr}"
    assert len(done) > 7
