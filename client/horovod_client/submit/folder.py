"""The files of a folder that belong to the user's code: those that git would add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

from horovod_client.submit.files import Purpose, walk_files

IGNORE_FILE: Final = ".gitignore"
NEVER_PACKAGED: Final = (".git", "__pycache__")
PACKAGE: Final = Purpose(verb="package", remedy=f"remove it or name it in {IGNORE_FILE}")


@dataclass(frozen=True, kw_only=True)
class _IgnoreFile:
    folder: Path
    patterns: GitIgnoreSpec

    def ignores(self, path: Path, *, is_folder: bool) -> bool | None:
        """Return whether *path* is ignored; False if a `!` pattern includes it, None if no pattern matches."""
        name = path.relative_to(self.folder).as_posix()
        return self.patterns.check_file(f"{name}/" if is_folder else name).include


def code_files(folder: Path) -> Iterator[Path]:
    """
    Walk the files of *folder* that git would add, in a fixed order.

    As in git, the nearest `.gitignore` with a matching pattern decides, those above *folder* count up to the top of the
    repository, and a pattern cannot include files below an ignored folder. `.git` and `__pycache__` are always left
    out. Unlike in git, links are followed, because their targets do not exist on the nodes.

    Args:
        folder: Folder to walk.

    Raises:
        InvalidInput: If there is a file that cannot be packaged (see `walk_files`).
        OSError: If a folder or a `.gitignore` cannot be read.
    """
    folder = folder.resolve()
    return walk_files(folder, purpose=PACKAGE, leaves_out=_Ignored(folder))


class _Ignored:
    """Callable that says whether git would ignore a path; it reads the `.gitignore` of each folder once."""

    def __init__(self, top: Path) -> None:
        above = [found for folder in _folders_above(top) for found in _ignore_file(folder)]
        self._files = {top: [*above, *_ignore_file(top)]}

    def __call__(self, path: Path, *, is_folder: bool) -> bool:
        return path.name in NEVER_PACKAGED or self._is_named(path, is_folder=is_folder)

    def _is_named(self, path: Path, *, is_folder: bool) -> bool:
        for ignore_file in reversed(self._files_for(path.parent)):
            ignored = ignore_file.ignores(path, is_folder=is_folder)
            if ignored is not None:
                return ignored
        return False

    def _files_for(self, folder: Path) -> list[_IgnoreFile]:
        """List the ignore files that apply in *folder*; a walk has visited its parent before."""
        if folder not in self._files:
            self._files[folder] = [*self._files[folder.parent], *_ignore_file(folder)]
        return self._files[folder]


def _folders_above(folder: Path) -> list[Path]:
    """List the folders from the top of *folder*'s repository to its parent; none outside a repository."""
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
