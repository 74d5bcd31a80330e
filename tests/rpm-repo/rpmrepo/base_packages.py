"""The packages that an RPM distribution begins with and Debian has no counterpart of.

filesystem      the directories everything else stands on, and the links of the merged /usr
setup           users, groups, PAM and the other files that belong to nobody else
testos-release  who we are (`os-release`), which releasever that is, what is enabled by default
"""

from collections.abc import Iterable, Sequence

from .package import Package, config_file, directory, symlink, text_file
from .relation import Version

#: The release that dnf's `$releasever` and the package names of the test recipe speak of.
RELEASEVER = "9"

_DIRECTORIES = """
    / /boot /etc /etc/default /etc/opt /etc/pam.d /etc/profile.d /etc/security /etc/skel
    /home /media /mnt /opt /run /srv
    /usr /usr/bin /usr/games /usr/include /usr/lib /usr/lib/modules /usr/lib/systemd
    /usr/lib/systemd/system /usr/lib/tmpfiles.d /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/libexec
    /usr/local /usr/local/bin /usr/local/lib /usr/local/sbin /usr/local/share
    /usr/sbin /usr/share /usr/share/misc /usr/src
    /var /var/cache /var/lib /var/lib/misc /var/lib/rpm /var/local /var/log /var/opt /var/spool
""".split()

#: Directories whose mode is not 0755. /dev, /proc and /sys are mount points while rpm runs.
_MODES = {
    "/dev": 0o755,
    "/proc": 0o555,
    "/sys": 0o555,
    "/root": 0o700,
    "/tmp": 0o1777,
    "/var/tmp": 0o1777,
}

_LINKS = {
    "/bin": "usr/bin",
    "/lib": "usr/lib",
    "/lib64": "usr/lib64",
    "/sbin": "usr/sbin",
    "/var/lock": "../run/lock",
    "/var/run": "../run",
}

#: What no other package may own.
FILESYSTEM_PATHS = frozenset([*_DIRECTORIES, *_MODES, *_LINKS])

#: Accounts by fixed number, as `setup` has them: those that own files of some package. Others
#: come from sysusers.d. (name, uid, primary group, home, shell)
_USERS = [
    ("root", 0, 0, "/root", "/bin/sh"),
    ("daemon", 1, 1, "/usr/sbin", ""),
    ("bin", 2, 2, "/usr/bin", ""),
    ("sys", 3, 3, "/dev", ""),
    ("man", 6, 12, "/var/cache/man", ""),
    ("mail", 8, 8, "/var/mail", ""),
    ("messagebus", 81, 81, "/", ""),
    ("sshd", 74, 74, "/run/sshd", ""),
    ("_chrony", 75, 75, "/var/lib/chrony", ""),
    ("nobody", 65534, 65534, "/", ""),
]

_GROUPS = {
    **{"root": 0, "daemon": 1, "bin": 2, "sys": 3, "adm": 4, "tty": 5, "disk": 6, "lp": 7},
    **{"mail": 8, "man": 12, "kmem": 15, "dialout": 20, "cdrom": 24, "floppy": 25, "tape": 26},
    **{"audio": 29, "shadow": 42, "utmp": 43, "video": 44, "staff": 50, "games": 60},
    # What udev's rules give devices to; Debian's udev makes these in its maintainer script.
    **{"input": 101, "kvm": 102, "render": 103, "sgx": 104},
    **{"sshd": 74, "_chrony": 75, "messagebus": 81, "users": 100, "nogroup": 65534},
}

_NSSWITCH = """\
passwd:    files
group:     files
shadow:    files
hosts:     files dns
networks:  files
protocols: files
services:  files
"""

#: The stacks that every Debian service includes, without the modules of Debian's menus.
_PAM = {
    "common-auth": "auth required pam_unix.so\n",
    "common-account": "account required pam_unix.so\n",
    "common-password": "password required pam_unix.so yescrypt\n",
    "common-session": "session required pam_unix.so\nsession optional pam_systemd.so\n",
    "common-session-noninteractive": "session required pam_unix.so\n",
}

_OS_RELEASE = f"""\
NAME="testos"
ID="testos"
ID_LIKE="rhel centos fedora"
VERSION_ID="{RELEASEVER}"
PLATFORM_ID="platform:el{RELEASEVER}"
PRETTY_NAME="testos {RELEASEVER}, Debian packages as RPMs"
"""

_PRESET = """\
enable chrony.service
enable dbus.socket
enable getty@.service
enable ssh.service
enable sshd-keygen.service
enable systemd-networkd.service
"""

_NETWORK = """\
[Match]
Type=ether

[Network]
DHCP=yes
"""


def base_packages(login_shell: str) -> list[Package]:
    """The three packages, with `login_shell` as root's."""
    return [_filesystem(), _setup(login_shell), _release()]


def _filesystem() -> Package:
    modes = {path: 0o755 for path in _DIRECTORIES} | _MODES
    entries = [directory(path, mode) for path, mode in modes.items()]
    entries += [symlink(path, target) for path, target in _LINKS.items()]
    return Package(
        "filesystem",
        Version("", "3.16", "1"),
        "Directories and the links of the merged /usr",
        noarch=False,
        # Every package requires this one, so owners and groups are known before any file is made.
        requires=["setup"],
        entries=entries,
    )


def _setup(login_shell: str) -> Package:
    users = [(*user[:4], user[4] or "/usr/sbin/nologin") for user in _USERS]
    users[0] = (*users[0][:4], login_shell)
    texts = {
        "/etc/passwd": _lines(
            f"{u}:x:{uid}:{gid}:{u}:{home}:{sh}" for u, uid, gid, home, sh in users
        ),
        "/etc/group": _lines(f"{name}:x:{gid}:" for name, gid in _GROUPS.items()),
        "/etc/environment": "",
        "/etc/fstab": "",
        "/etc/hostname": "testos\n",
        "/etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
        "/etc/issue": "\\S\nKernel \\r on \\n (\\l)\n\n",
        "/etc/motd": "",
        "/etc/nsswitch.conf": _NSSWITCH,
        "/etc/profile": "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin\nexport PATH\n",
        "/etc/shells": "/bin/sh\n/bin/bash\n",
        **{f"/etc/pam.d/{stack}": rules for stack, rules in _PAM.items()},
    }
    secrets = {
        "/etc/shadow": _lines(f"{user[0]}:*:19000:0:99999:7:::" for user in users),
        "/etc/gshadow": _lines(f"{name}:*::" for name in _GROUPS),
    }
    package = Package("setup", Version("", "2.13.7", "1"), "Users, groups and basic configuration")
    package.add(*(config_file(path, text) for path, text in texts.items()))
    # 0000 root:root as in EL: rpm cannot give them to the group shadow before /etc/group exists.
    package.add(*(config_file(path, text, mode=0) for path, text in secrets.items()))
    return package


def _release() -> Package:
    return Package(
        "testos-release",
        Version("", RELEASEVER, "1"),
        "Release, presets and network defaults",
        requires=["filesystem"],
        provides=[f"system-release = {RELEASEVER}", f"system-release(releasever) = {RELEASEVER}"],
        entries=[
            text_file("/usr/lib/os-release", _OS_RELEASE),
            symlink("/etc/os-release", "../usr/lib/os-release"),
            directory("/usr/lib/systemd/system-preset"),
            text_file("/usr/lib/systemd/system-preset/80-testos.preset", _PRESET),
            # As in EL: what no preset before this one names stays disabled.
            text_file("/usr/lib/systemd/system-preset/99-testos.preset", "disable *\n"),
            directory("/usr/lib/systemd/network"),
            text_file("/usr/lib/systemd/network/90-testos-dhcp.network", _NETWORK),
        ],
    )


def image_base(requires: Sequence[str]) -> Package:
    """The metapackage that pulls in everything a bootable image of a set consists of."""
    return Package(
        "image-base",
        Version("", "1.0", "1"),
        "Everything for an image that boots",
        requires=list(requires),
    )


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
