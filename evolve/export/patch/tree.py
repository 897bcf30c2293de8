"""Makes the mailbox patch from the user's tree and checks that it applies; the tree is only read."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve.errors import EXIT_MISSING, UserError
from evolve.export.targets.targets import ExportTarget

AUTHOR = {"user.name": "evosplit", "user.email": "evosplit@localhost"}
"""Committer if the user's git has no name."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The user's checkout of a target.

    Attributes:
        path: its top folder.
        revision: commit that is checked out.
        origin: URL that it was cloned from; empty for a path on this machine, or if unknown.
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


def open_tree(path: Path, target: ExportTarget) -> Tree:
    """The user's checkout.

    Raises:
        UserError: not a git work tree, one with uncommitted changes, or one of another project.
    """
    hint = f"--source names your own checkout of {target.project}, cloned with git"
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
    # A URL may carry a token before the @, and a path on this machine is private.
    origin = re.sub(r"(?<=://)[^/@]*@", "", origin) if re.match(r"https?://|ssh://|git@", origin) else ""
    tree = Tree(top, found.stdout.decode().strip(), origin)
    if tree.read(target.file) is None:
        raise UserError(f"{top} holds no {target.file}", hint=f"{hint}; nothing was changed")
    return tree


def _beginning(tree: Tree, folder: Path, names: Sequence[str], identity: Sequence[str]) -> None:
    """Make a new work tree that holds only some files of the tree's commit.

    Clones of the tree would need all of its objects, which a shallow, sparse or blobless checkout lacks.
    """
    folder.mkdir()
    _git(folder, "init", "-q", "-b", "main")
    for name in names:
        listed = _git(tree.path, "ls-tree", tree.revision, "--", name).stdout
        content = tree.read(name)
        assert content is not None
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if listed.startswith(b"100755") else 0o644)
    _git(folder, "-c", "core.autocrlf=false", "add", "-A", "-f")
    _git(folder, *identity, "commit", "-q", "--no-verify", "--no-gpg-sign", "-m", f"The files at {tree.revision}")


def mailbox_patch(tree: Tree, edits: Mapping[str, bytes], message: str, folder: Path) -> bytes:
    """Commit the edits on top of the tree's commit and write them as `git format-patch` does.

    The first line of `message` becomes the subject; `folder` is an empty one to work in.

    Raises:
        UserError: git refused, or the patch does not apply to clean files of the tree.
    """
    evosplit = [part for key, value in AUTHOR.items() for part in ("-c", f"{key}={value}")]
    known = {key: _git(tree.path, "config", "--get", key, check=False).stdout.decode().strip() for key in AUTHOR}
    identity = [part for key, value in known.items() for part in ("-c", f"{key}={value}")]
    identity = identity if all(known.values()) else evosplit
    work, check = folder / "work", folder / "check"
    _beginning(tree, work, list(edits), evosplit)
    for name, content in edits.items():
        (work / name).write_bytes(content)
    quiet = ("-q", "--no-verify", "--no-gpg-sign")
    _git(work, "-c", "core.autocrlf=false", *identity, "commit", *quiet, "-a", "-F", "-", stdin=message.encode())
    patch = _git(work, "format-patch", "-1", "--stdout", "--no-signature").stdout
    _beginning(tree, check, list(edits), evosplit)
    _git(check, "apply", "--check", "-", stdin=patch)
    _git(check, *evosplit, "am", "-q", "--keep-non-patch", "--no-gpg-sign", stdin=patch)
    for name, content in edits.items():
        if (check / name).read_bytes() != content:
            raise UserError(f"after git am {name} is not what was proved", hint="report this as a bug of evosplit")
    return patch
