"""Which files of a folder belong to the user's code: what git would add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from horovod_client.errors import InvalidInput

IGNORE_FILE = ".gitignore"
NEVER_PACKAGED = (".git", "__pycache__")


@dataclass(frozen=True, kw_only=True)
class _IgnoreFile:
    folder: Path
    patterns: GitIgnoreSpec

    def ignores(self, path: Path, *, is_folder: bool) -> bool | None:
        """Tell whether *path* is ignored, or named again by a `!` pattern, or (None) not spoken of."""
        name = path.relative_to(self.folder).as_posix()
        return self.patterns.check_file(f"{name}/" if is_folder else name).include


def code_files(folder: Path) -> Iterator[Path]:
    """
    Walk the files of *folder* that git would add, in a fixed order.

    As in git, the nearest `.gitignore` that speaks of a file decides, those above *folder* count up to the top of the
    repository, and nothing below an ignored folder comes back. `.git` and `__pycache__` are always left out.

    Args:
        folder: Where to start.

    Raises:
        InvalidInput: If there is something that is neither a file nor a folder, such as a link to a folder.
        OSError: If a folder or a `.gitignore` cannot be read.
    """
    folder = folder.resolve()
    yield from _walk(folder, [found for above in _folders_above(folder) for found in _ignore_file(above)])


def _folders_above(folder: Path) -> list[Path]:
    """List the folders from the top of *folder*'s repository down to its parent; none outside a repository."""
    for index, candidate in enumerate([folder, *folder.parents]):
        if (candidate / ".git").exists():
            return list(folder.parents)[:index][::-1]
    return []


def _ignore_file(folder: Path) -> list[_IgnoreFile]:
    path = folder / IGNORE_FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [_IgnoreFile(folder=folder, patterns=GitIgnoreSpec.from_lines(lines))]


def _walk(folder: Path, above: Sequence[_IgnoreFile]) -> Iterator[Path]:
    ignore_files = [*above, *_ignore_file(folder)]
    for path in sorted(folder.iterdir(), key=lambda entry: entry.name):
        is_folder = path.is_dir() and not path.is_symlink()
        if path.name in NEVER_PACKAGED or _ignored(path, is_folder=is_folder, ignore_files=ignore_files):
            continue
        if is_folder:
            yield from _walk(path, ignore_files)
        elif path.is_file():
            yield path
        else:
            raise InvalidInput(
                f"cannot package '{path}', which is neither a file nor a folder: remove it or name it in {IGNORE_FILE}"
            )


def _ignored(path: Path, *, is_folder: bool, ignore_files: Sequence[_IgnoreFile]) -> bool:
    for ignore_file in reversed(ignore_files):
        ignored = ignore_file.ignores(path, is_folder=is_folder)
        if ignored is not None:
            return ignored
    return False
