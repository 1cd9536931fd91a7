"""A root file system that stands for a fresh instance: user data runs in it, what it calls only records."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Each call becomes one line of `/recorded`, its words divided by U+001F; the line is written at once, because the two
# ends of a pipe write together. What is called in the background is recorded in `/signs` alone.
# `/failures/PROGRAM-WORD` says how many calls of `PROGRAM WORD` are still to fail.
RECORDER = r"""#!/bin/bash
line=$(printf '%s\x1f' "${0##*/}" "$@")
case "${0##*/} $1" in
  'aws dynamodb' | 'curl '*) echo "$line" >> /signs ;;
  *) echo "$line" >> /recorded ;;
esac
last=${*: -1}
failures=/failures/${0##*/}-$1
if [ -s "$failures" ]; then
  left=$(cat "$failures")
  if [ "$left" -gt 0 ]; then
    echo $((left - 1)) > "$failures"
    exit 1
  fi
fi
case "${0##*/} $1" in
  'aws ecr') echo a-password ;;
  'docker login') cat > /received; touch "$DOCKER_CONFIG/config.json" ;;
  'docker image') echo "${last%:*}@sha256:0123" ;;
  'aws dynamodb') [ "$2" != get-item ] || echo run-1 Training/run-1/20261126T110236Z ;;
  'curl '*) case "$last" in
    http://169.254.169.254/latest/api/token) echo a-token ;;
    http://169.254.169.254/latest/meta-data/instance-type) echo g5.xlarge ;;
    http://169.254.169.254/latest/meta-data/placement/availability-zone) echo eu-west-1a ;;
  esac ;;
  'systemctl cat') [ -e "/units/$2" ] ;;
esac
"""
_TIME = re.compile(r"(CDK_HOROVOD_[A-Z_]+_AT=)\d+")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("aws", "curl", "dnf", "docker", "sleep", "systemctl")


@dataclass(frozen=True, kw_only=True)
class Instance:
    """
    A root file system that boots from user data.

    Args:
        base: The root file system underneath, never changed.
        changes: What the instance has beside *base*, path by path: an overlay's upper layer.
    """

    base: Path
    changes: Path

    @classmethod
    def create(cls, base: Path, folder: Path) -> Instance:
        """Lay an instance over *base*, in *folder*, with the recording programs and cloud-init's facts."""
        changes = folder / "changes"
        for path in ("failures", "units", "usr/local/bin", "var/lib/cloud/data", "dev"):
            (changes / path).mkdir(parents=True)
        for path in ("mount", "work"):
            (folder / path).mkdir()
        for program in PROGRAMS:
            script = changes / "usr/local/bin" / program
            script.write_text(RECORDER)
            script.chmod(0o755)
        (changes / "var/lib/cloud/data/instance-id").write_text("i-0123456789abcdef0\n")
        return cls(base=base, changes=changes)

    def boot(
        self, user_data: list[str], *, before: str = "true", after: str = "true"
    ) -> subprocess.CompletedProcess[str]:
        """
        Run *user_data* as cloud-init does: as root, with hardly any environment.

        Args:
            user_data: The commands, one line each.
            before: Shell command to run first, in the same mounts.
            after: Shell command to run afterwards if the boot went well; its output is the result's.
        """
        script = self.changes / "user-data"
        script.write_text("\n".join(["#!/bin/bash", *user_data, ""]))
        script.chmod(0o755)
        folder = self.changes.parent
        root = folder / "mount"
        layers = f"lowerdir={self.base},upperdir={self.changes},workdir={folder / 'work'}"
        enter = ["chroot", str(root), "/usr/bin/env", "--ignore-environment", f"PATH={PATH}", "/bin/bash", "-c"]
        mounts = [f"mount -t overlay -o {layers} none {root}", f"mount -t proc none {root}/proc"]
        # Mounts and processes of its own: nothing that the script does stays behind.
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c"]
        mount = " && ".join([*mounts, 'exec "$@"'])
        command = [*unshare, mount, "sh", *enter, f"{before} && /user-data && {after}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def fail(self, program: str, word: str, *, times: int) -> None:
        """Let the next *times* calls of *program* with *word* as first argument fail."""
        (self.changes / "failures" / f"{program}-{word}").write_text(str(times))

    def recorded(self) -> list[list[str]]:
        """List the calls so far, each as its words; times of the boot are the word `TIME`."""
        return [[_TIME.sub(r"\1TIME", word) for word in call] for call in self._calls("recorded")]

    def signs(self) -> list[list[str]]:
        """List the calls so far that were made in the background, each as its words."""
        return self._calls("signs")

    def boot_times(self) -> list[float]:
        """Give the times that the container was told, in the order of their names."""
        words = [word for call in self._calls("recorded") for word in call if _TIME.fullmatch(word)]
        return [float(word.partition("=")[2]) for word in sorted(words)]

    def _calls(self, file: str) -> list[list[str]]:
        lines = (self.changes / file).read_text().splitlines()
        return [line.removesuffix("\x1f").split("\x1f") for line in lines]
