"""Small packages that each show one thing a builder of images must get right.

hello 1.0, 2.0  an update, with a dependency, a weak one and a configuration file
greeter 1.0, 2.0  of two streams of one module, and of the group greetings
odd-files       metadata and names that get lost easily; a sparse file, a FIFO, devices
scriptlog       notes in /var/log/scriptlog which scriptlets ran, with what mounted
bad-pre         its %pre fails: rpm does not install it, dnf fails
bad-post        its %post fails: rpm installs it all the same, dnf succeeds
unmet           requires what nothing provides
conflict-a, -b  cannot be installed together
"""

from .package import (
    Entry,
    Kind,
    Package,
    Scriptlet,
    config_file,
    directory,
    hard_link,
    symlink,
    text_file,
)
from .relation import Version

_ODD = "/usr/libexec/odd"

#: Where a hole of 64 MiB ends and the data of the sparse file begins, in MiB.
_HOLE_MIB = 64

#: The longest name that rpm can install: it adds nine bytes until the file is complete.
_LONGEST_NAME = "n" * (255 - 9)

#: One file each: quoting, globs, macros, a leading dash, UTF-8, long names and paths.
_STRANGE_NAMES = [
    "a b [c]{d}*?%e\\x2d é",
    "-rf",
    "'$HOME;`id`&|<>#!~^",
    "日本語",
    _LONGEST_NAME,
    "/".join(["a-long-path-of-its-own"] * 12 + ["file"]),
]


def edge_packages() -> list[Package]:
    """All of them."""
    return [
        _hello("1.0"),
        _hello("2.0"),
        _small("libhello", entries=[text_file("/usr/share/libhello/data", "data\n")]),
        _small("hello-weak", entries=[text_file("/usr/share/hello-weak", "weak\n")]),
        _small("greeter"),
        _small("greeter", version="2.0"),
        _odd_files(),
        _scriptlog(),
        _small("bad-pre", Scriptlet("pre", "echo 'bad-pre refuses' >&2; exit 4")),
        _small("bad-post", Scriptlet("post", "echo 'bad-post gives up' >&2; exit 3")),
        _small("unmet", requires=["no-such-thing >= 2"]),
        _small("conflict-a", conflicts=["conflict-b"]),
        _small("conflict-b"),
    ]


def _small(
    name: str,
    *scriptlets: Scriptlet,
    version: str = "1.0",
    requires: list[str] | None = None,
    conflicts: list[str] | None = None,
    entries: list[Entry] | None = None,
) -> Package:
    return Package(
        name,
        Version("", version, "1"),
        f"Test package {name}",
        requires=["filesystem", *(["/bin/sh"] if scriptlets else []), *(requires or [])],
        conflicts=conflicts or [],
        scriptlets=list(scriptlets),
        entries=entries or [],
    )


def _hello(version: str) -> Package:
    package = _small("hello", version=version, requires=["libhello >= 1.0", "/bin/sh"])
    package.recommends = ["hello-weak"]
    package.add(
        text_file("/usr/bin/hello", f"#!/bin/sh\necho hello {version}\n", mode=0o755),
        config_file("/etc/hello.conf", f"greeting={version}\n"),
    )
    return package


def _odd_files() -> Package:
    script = "#!/bin/sh\n"
    shared = text_file(f"{_ODD}/hard-a", "one file, three names\n")
    package = _small(
        "odd-files",
        # rpm's payload has no holes and rpm cannot install FIFOs: both come from a scriptlet.
        Scriptlet(
            "post",
            f"echo data | dd of=/var/lib/odd/sparse bs=1M seek={_HOLE_MIB} 2>/dev/null\n"
            "mkfifo -m 0640 /var/lib/odd/fifo",
        ),
    )
    package.add(
        directory(_ODD),
        text_file(f"{_ODD}/setuid", script, mode=0o4755),
        Entry(f"{_ODD}/setgid-mail", mode=0o2755, group="mail", content=script.encode()),
        Entry(
            f"{_ODD}/capable", mode=0o755, content=script.encode(), capabilities="cap_net_raw=ep"
        ),
        text_file(f"{_ODD}/unreadable", "nobody\n", mode=0),
        text_file(f"{_ODD}/empty", ""),
        Entry(f"{_ODD}/old", content=b"1970-01-01 00:00:01\n", mtime=1),
        shared,
        hard_link(f"{_ODD}/hard-b", shared),
        hard_link("/usr/lib/odd-hard-c", shared),
        symlink(f"{_ODD}/relative", "../odd/hard-a"),
        symlink(f"{_ODD}/dangling", "/nowhere/at all"),
        Entry(f"{_ODD}/null", Kind.DEVICE, 0o666, device=("c", 1, 3)),
        Entry(f"{_ODD}/loop", Kind.DEVICE, 0o660, group="disk", device=("b", 7, 0)),
        Entry("/var/lib/odd", Kind.DIRECTORY, 0o2775, user="daemon", group="staff"),
        directory("/var/lib/odd/sticky", 0o1777),
        Entry("/var/log/odd.log", Kind.GHOST),
        *(text_file(f"{_ODD}/names/{name}", "strange\n") for name in _STRANGE_NAMES),
    )
    return package


def _scriptlog() -> Package:
    note = (
        "{0} $1 proc=$(test -e /proc/self && echo yes) sys=$(test -d /sys/kernel && echo yes)"
        " null=$(test -c /dev/null && echo device)"
    )
    return _small(
        "scriptlog",
        *(
            Scriptlet(when, f'echo "{note.format(when)}" >>/var/log/scriptlog')
            for when in ("pre", "post", "posttrans", "preun", "postun")
        ),
    )
