"""A signing key that lives as long as one run.

The private key exists in a temporary directory only, so no test can come to rely on it.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from .command import run

_USER_ID = "bootnode test repository <test@localhost>"

#: rpm 4.14 (EL 8) knows RSA but no EdDSA.
_ALGORITHM = "rsa3072"


class SigningKey:
    """A key pair in a GnuPG home directory."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
        run(
            [
                *self._gpg,
                "--passphrase",
                "",
                "--quick-gen-key",
                _USER_ID,
                _ALGORITHM,
                "sign",
                "never",
            ]
        )

    def public_key(self) -> bytes:
        """The public key, armoured, as dnf's `gpgkey` wants it."""
        return run([*self._gpg, "--armor", "--export"])

    def sign_packages(self, packages: Sequence[Path]) -> None:
        """Signs RPM files in place."""
        macros = {
            # Debian's rpm looks for /usr/bin/gpg2, which Debian does not have.
            "__gpg": shutil.which("gpg"),
            "_gpg_path": self._home,
            "_gpg_name": _USER_ID,
        }
        defines = (
            word for name, value in macros.items() for word in ("--define", f"{name} {value}")
        )
        run(["rpmsign", *defines, "--addsign", *packages])

    def sign_detached(self, file: Path) -> None:
        """Writes the armoured signature of `file` beside it, with `.asc` added to its name."""
        run([*self._gpg, "--armor", "--detach-sign", file])

    def forget(self) -> None:
        """Ends the agent that GnuPG has started for the key."""
        run(["gpgconf", "--homedir", self._home, "--kill", "all"])


@contextmanager
def throw_away_key() -> Iterator[SigningKey]:
    """A new key, destroyed at the end."""
    # The agent's socket lies in the home directory and its path may have 107 bytes only: the
    # directory is made below the system's temporary directory, not below the output.
    with TemporaryDirectory(prefix="rpm-key-") as home:
        key = SigningKey(Path(home))
        try:
            yield key
        finally:
            key.forget()
