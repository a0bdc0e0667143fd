"""The run folder: finished shards and a ledger, so that a killed run goes on where it stopped.

    OUT.run/header.json           configuration, its digest, the time of the first start
    OUT.run/ledger.RANK.jsonl     one line a finished shard: number, SHA-256, prompts, counters
    OUT.run/shard-00000.safetensors

A shard counts only when its line is in a ledger and its file has the digest of that line. Files
are written beside their place, synced and renamed; a line is appended after its file stands.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from artifacts.errors import InputError
from artifacts.names import safe_join

Config = Mapping[str, object]
"""JSON values; two runs with equal configurations may share shards."""

_OURS = re.compile(
    r"header\.json|ledger\.\d+\.jsonl|shard-\d{5}\.safetensors|\.?[\w.-]+\.partial", re.ASCII
)


@dataclass(frozen=True)
class Entry:
    """One finished shard."""

    shard: int
    digest: str
    n: int
    stats: Mapping[str, float]


def shard_name(shard: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{shard:05d}.safetensors"


def config_digest(config: Config) -> str:
    """Return SHA-256 over the configuration as sorted JSON."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """The run folder as one process sees it; ranks write to ledgers of their own."""

    def __init__(self, folder: Path, config: Config, *, rank: int = 0) -> None:
        """Name the folder; nothing is read or written yet."""
        self.folder = folder
        self._config = config
        self._rank = rank
        self.orphans = 0
        """Files that belonged to no finished shard and were removed by :meth:`start`."""

    def start(self, created: str) -> str:
        """Create the folder or take up the run in it; return when it was first started.

        Every recorded digest is computed again; shards that fail and files without a line are
        removed. Call it in one process only, before any other reads the folder.

        Raises:
            InputError: the folder is a link, holds foreign files, or belongs to a run with another
                configuration; the message names what differs.
            OSError: the file system fails.
        """
        self._refuse_foreign()
        self.folder.mkdir(exist_ok=True)
        header = self._header()
        if header is None:
            for path in self.folder.iterdir():
                self._drop(path)
            header = {"created": created, "digest": config_digest(self._config)}
            text = json.dumps({**header, "config": self._config}, sort_keys=True, indent=1)
            write_atomically(self.folder / "header.json", text.encode())
        elif header.get("digest") != config_digest(self._config):
            raise InputError(
                f"{self.folder} holds an unfinished run with another configuration "
                f"({self._differences(header)}); finish it with the same command, or delete it"
            )
        self._clean()
        return str(header["created"])

    def entries(self) -> dict[int, Entry]:
        """Return the recorded shards by number; a torn last line is no entry."""
        found: dict[int, Entry] = {}
        for path in sorted(self.folder.glob("ledger.*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                entry = _parse(line)
                if entry is not None:
                    found[entry.shard] = entry
        return found

    def commit(
        self, shard: int, tensors: Mapping[str, Tensor], n: int, stats: Mapping[str, float]
    ) -> None:
        """Store a finished shard, then its line.

        Raises:
            OSError: the file system fails; the shard then counts as not done.
        """
        from safetensors.torch import save

        data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        write_atomically(safe_join(self.folder, shard_name(shard)), data)
        digest = hashlib.sha256(data).hexdigest()
        line = json.dumps({"shard": shard, "digest": digest, "n": n, "stats": dict(stats)})
        path = safe_join(self.folder, f"ledger.{self._rank}.jsonl")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o666)
        try:
            # The leading newline ends a line that a killed writer may have left torn.
            os.write(descriptor, f"\n{line}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def path(self, shard: int) -> Path:
        """Return where a shard's states are."""
        return safe_join(self.folder, shard_name(shard))

    def remove(self) -> None:
        """Remove the run folder; it holds nothing but our files."""
        self._refuse_foreign()
        shutil.rmtree(self.folder)

    def _refuse_foreign(self) -> None:
        if self.folder.is_symlink():
            raise InputError(f"{self.folder} is a symbolic link; remove it or choose another --out")
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; remove it or choose another --out")
        for path in sorted(self.folder.iterdir()):
            if path.is_symlink() or path.is_dir() or _OURS.fullmatch(path.name) is None:
                raise InputError(
                    f"{path} does not belong to an extraction; move it away or choose another --out"
                )

    def _header(self) -> dict[str, object] | None:
        path = self.folder / "header.json"
        if not path.exists():
            return None
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(header, dict) or not isinstance(header["created"], str):
                raise ValueError("not a header")
        except (ValueError, KeyError) as error:
            raise InputError(f"{path} is damaged; delete {self.folder} and run again") from error
        return header

    def _differences(self, header: Mapping[str, object]) -> str:
        before = header.get("config")
        old = _flat(before if isinstance(before, dict) else {})
        new = _flat(json.loads(json.dumps(self._config)))
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        shown = [f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} now" for key in keys]
        more = "" if len(shown) <= 3 else f" and {len(shown) - 3} more"
        return "; ".join(shown[:3]) + more if shown else "the header's digest"

    def _clean(self) -> None:
        entries = self.entries()
        good: list[Entry] = []
        for entry in entries.values():
            path = self.path(entry.shard)
            if path.is_file() and _file_digest(path) == entry.digest:
                good.append(entry)
        keep = {shard_name(entry.shard) for entry in good} | {"header.json"}
        for path in self.folder.iterdir():
            if path.name not in keep and not path.name.startswith("ledger."):
                self._drop(path)
        lines = [json.dumps({**vars(entry), "stats": dict(entry.stats)}) for entry in good]
        write_atomically(self.folder / "ledger.0.jsonl", "\n".join([*lines, ""]).encode())
        for path in self.folder.glob("ledger.*.jsonl"):
            if path.name != "ledger.0.jsonl":
                path.unlink()

    def _drop(self, path: Path) -> None:
        path.unlink()
        self.orphans += 1


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` whole or not at all: sibling, sync, rename, sync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(line: bytes) -> Entry | None:
    try:
        fields = json.loads(line)
        stats = {str(name): float(value) for name, value in fields["stats"].items()}
        return Entry(int(fields["shard"]), str(fields["digest"]), int(fields["n"]), stats)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, object] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."
