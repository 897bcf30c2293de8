"""Makes the mailbox patch in a clone of the user's tree, and shows that it applies; the tree itself is only read."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve.errors import EXIT_MISSING, UserError

AUTHOR = {"user.name": "evosplit", "user.email": "evosplit@localhost"}
"""Who commits where the user's git knows no name."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The user's checkout of a target.

    Attributes:
        path: its top folder.
        revision: commit that is checked out.
        origin: URL it was cloned from, or an empty text.
    """

    path: Path
    revision: str
    origin: str

    def read(self, name: str) -> bytes | None:
        """A file as committed; None where there is none."""
        done = _git(self.path, "cat-file", "blob", f"{self.revision}:{name}", check=False)
        return done.stdout if done.returncode == 0 else None


def _git(folder: Path, *arguments: str, check: bool = True, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], input=stdin, capture_output=True, check=False, env=environment
        )
    except FileNotFoundError as error:
        raise UserError("git was not found", hint="install git", exit_code=EXIT_MISSING) from error
    if check and done.returncode:
        message = done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip()
        raise UserError(f"git {arguments[0]} failed in {folder}: {message}")
    return done


def open_tree(path: Path, target: str) -> Tree:
    """The user's checkout.

    Raises:
        UserError: no git work tree, or one with changes that are not committed.
    """
    hint = f"--source names your own checkout of the target {target}, cloned with git"
    if not path.is_dir():
        raise UserError(f"{path} is not a folder", hint=hint)
    done = _git(path, "rev-parse", "--show-toplevel", check=False)
    if done.returncode:
        raise UserError(f"{path} is not a git work tree", hint=hint)
    top = Path(os.fsdecode(done.stdout).strip())
    found = _git(top, "rev-parse", "--verify", "-q", "HEAD", check=False)
    if found.returncode:
        raise UserError(f"{top} has no commit", hint=hint)
    changed = _git(top, "status", "--porcelain", "--untracked-files=no").stdout.decode(errors="replace").splitlines()
    if changed:
        raise UserError(
            f"{top} has changes that are not committed: {', '.join(line[3:] for line in changed[:3])}",
            hint="commit or stash them: the patch is made from what is committed",
        )
    origin = _git(top, "config", "--get", "remote.origin.url", check=False).stdout.decode(errors="replace").strip()
    # A URL may carry a token before the @.
    origin = re.sub(r"(?<=://)[^/@]*@", "", origin)
    return Tree(top, found.stdout.decode().strip(), origin)


def _clone(tree: Tree, folder: Path, names: Sequence[str]) -> None:
    """A second work tree of the same commit that holds only the folders of some files."""
    _git(folder.parent, "clone", "-q", "--shared", "--no-checkout", str(tree.path), str(folder))
    top = sorted({f"/{Path(n).parent.as_posix()}/" if "/" in n else f"/{n}" for n in names})
    _git(folder, "sparse-checkout", "set", "--no-cone", *top)
    _git(folder, "checkout", "-q", "--detach", tree.revision)


def mailbox_patch(tree: Tree, edits: Mapping[str, bytes], message: str, folder: Path) -> bytes:
    """Commit the edits on top of the tree's commit and write them as `git format-patch` does.

    Args:
        tree: the user's checkout.
        edits: new content by file name.
        message: of the commit; its first line becomes the subject.
        folder: an empty folder to work in.

    Raises:
        UserError: git refused, or the patch does not apply to a clean clone.
    """
    work = folder / "work"
    _clone(tree, work, list(edits))
    for name, content in edits.items():
        (work / name).write_bytes(content)
    identity: list[str] = []
    for key, value in AUTHOR.items():
        if _git(tree.path, "config", "--get", key, check=False).returncode:
            identity += ["-c", f"{key}={value}"]
    if identity and len(identity) < 2 * len(AUTHOR):
        identity = [part for key, value in AUTHOR.items() for part in ("-c", f"{key}={value}")]
    _git(work, *identity, "commit", "-q", "--no-verify", "--no-gpg-sign", "-a", "-F", "-", stdin=message.encode())
    patch = _git(work, "format-patch", "-1", "--stdout", "--no-signature").stdout
    check = folder / "check"
    _clone(tree, check, list(edits))
    _git(check, "apply", "--check", "-", stdin=patch)
    committer = [part for key, value in AUTHOR.items() for part in ("-c", f"{key}={value}")]
    _git(check, *committer, "am", "-q", "--keep-non-patch", "--no-gpg-sign", stdin=patch)
    for name, content in edits.items():
        if (check / name).read_bytes() != content:
            raise UserError(f"after git am {name} is not what was proved", hint="report this as a bug of evosplit")
    return patch
