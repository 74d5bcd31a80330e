"""What Debian's maintainer scripts and triggers would have done, as entries and RPM scriptlets.

Only what an image needs to boot to multi-user with nothing failed: every function below names
the package it completes. The kernel has a module of its own.
"""

import dataclasses
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from .command import Failure
from .deb import canonical
from .package import Entry, Package, Scriptlet, config_file, directory, symlink, text_file

_SSHD_KEYGEN = """\
[Unit]
Description=Host key of the SSH server
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
"""

_INITTAB = """\
::sysinit:/etc/init.d/rcS
::askfirst:-/bin/sh
::ctrlaltdel:/sbin/reboot
"""

_RC_S = """\
#!/bin/sh
# An initramfs may have mounted these already.
test -e /proc/self || mount -t proc proc /proc
mounted() { grep -q " $1 " /proc/mounts; }
mounted /sys || mount -t sysfs sysfs /sys
mounted /dev || mount -t devtmpfs devtmpfs /dev
mounted /run || mount -t tmpfs -o mode=0755 tmpfs /run
hostname -F /etc/hostname
modprobe virtio_pci
modprobe virtio_net
ip link set lo up
"""


def complete(packages: Mapping[str, Package]) -> None:
    """Completes every package of the set that its maintainer scripts would have completed."""
    for name, step in _STEPS.items():
        if name in packages:
            step(packages[name])


def _busybox(package: Package) -> None:
    """Shell, init and every other applet, with an inittab that starts a shell on the console."""
    package.provides += ["/bin/sh", "/usr/bin/sh", "/usr/sbin/depmod"]
    program = package.entry("/usr/bin/busybox")
    package.add(
        *(symlink(path, program.path) for path in _applets(program) if path != program.path),
        config_file("/etc/inittab", _INITTAB),
        directory("/etc/init.d"),
        text_file("/etc/init.d/rcS", _RC_S, mode=0o755),
    )


def _applets(busybox: Entry) -> list[str]:
    """The paths of busybox' applets. The program is static: it runs here, to be asked."""
    with TemporaryDirectory() as folder:
        program = Path(folder) / "busybox"
        program.write_bytes(busybox.content)
        program.chmod(0o755)
        listed = subprocess.run([program, "--list-full"], capture_output=True, check=False)
    if listed.returncode != 0:
        raise Failure(f"busybox --list-full ended with status {listed.returncode}")
    return [canonical(path) for path in listed.stdout.decode().split()]


def _dash(package: Package) -> None:
    package.provides += ["/bin/sh", "/usr/bin/sh"]


def _mawk(package: Package) -> None:
    package.add(symlink("/usr/bin/awk", "mawk"))


def _libc_bin(package: Package) -> None:
    package.scriptlets.append(
        Scriptlet("transfiletriggerin", "/usr/sbin/ldconfig", on=("/usr/lib", "/usr/lib64"))
    )


def _dbus(package: Package) -> None:
    """dpkg-statoverride makes the helper that starts system services setuid root."""
    helper = package.entry("/usr/lib/dbus-1.0/dbus-daemon-launch-helper")
    package.add(dataclasses.replace(helper, mode=0o4754, group="messagebus"))


def _iputils_ping(package: Package) -> None:
    ping = package.entry("/usr/bin/ping")
    package.add(dataclasses.replace(ping, capabilities="cap_net_raw=ep"))


def _systemd(package: Package) -> None:
    """Users, enabled units and the default target, in the order in which EL's scriptlets run."""
    # An empty machine-id is made anew at each boot. "uninitialized" would be a first boot, in
    # which systemd-firstboot waits for a key.
    package.add(config_file("/etc/machine-id", "", mode=0o444))
    package.scriptlets += [
        Scriptlet("transfiletriggerin", "systemd-sysusers", on=("/usr/lib/sysusers.d",)),
        Scriptlet(
            "posttrans",
            "systemctl --quiet preset-all\n"
            "systemctl --quiet set-default multi-user.target\n"
            "journalctl --update-catalog\n"
            # What ConditionNeedsUpdate= compares with: spares each boot the same work.
            "touch -r /usr /etc/.updated /var/.updated",
        ),
    ]


def _udev(package: Package) -> None:
    package.scriptlets.append(Scriptlet("posttrans", "systemd-hwdb --usr update"))


def _openssh_server(package: Package) -> None:
    """ucf installs sshd_config; the host key must be made on the node, not in the image."""
    template = package.entry("/usr/share/openssh/sshd_config").content.decode()
    package.add(
        config_file("/etc/ssh/sshd_config", template + "HostKey /etc/ssh/ssh_host_ed25519_key\n"),
        text_file("/usr/lib/systemd/system/sshd-keygen.service", _SSHD_KEYGEN),
    )


def _chrony(package: Package) -> None:
    """ucf installs the configuration; the daemon owns its state."""
    template = package.entry("/usr/share/chrony/chrony.conf").content.decode()
    keys = config_file("/etc/chrony/chrony.keys", "", mode=0o640)
    package.add(
        config_file("/etc/chrony/chrony.conf", template),
        dataclasses.replace(keys, group="_chrony"),
        *(
            dataclasses.replace(directory(path, 0o750), user="_chrony", group="_chrony")
            for path in ("/var/lib/chrony", "/var/log/chrony")
        ),
    )


_STEPS: dict[str, Callable[[Package], None]] = {
    "busybox": _busybox,
    "chrony": _chrony,
    "dash": _dash,
    "dbus": _dbus,
    "iputils-ping": _iputils_ping,
    "libc-bin": _libc_bin,
    "mawk": _mawk,
    "openssh-server": _openssh_server,
    "systemd": _systemd,
    "udev": _udev,
}
