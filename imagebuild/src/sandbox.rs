//! Where foreign programs run: with /proc, /sys and a small /dev in the root, and without a way to leave anything behind.
//!
//! Each piece of work gets a thread with a private mount namespace, and each program is PID 1 of a PID namespace. Both
//! end with the work: when imagebuild returns, fails or is killed, the kernel kills what the program started and drops
//! the mounts. So there is no clean-up code that could be skipped. It keeps accidents away from the build host; it is
//! not a jail for hostile packages, since they run as root.
//!
//! All of it works in a user namespace too, where no device node can be made, /sys can only be mounted by who has a
//! network namespace of his own, and what a mount forbids stays forbidden (mount_namespaces(7)).

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::{panic, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags, open, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount};
use rustix::process::{Pid, PidfdFlags, chroot, fchdir, pidfd_open};

use crate::{interrupt, sys, terminal, user_namespace};

/// Device nodes of the small /dev, which are those of the build host.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Symbolic links of the small /dev.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Names the name servers (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often a running program is looked after while it prints nothing.
const INTERRUPT_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// A root file system under construction, and how programs see it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    root: PathBuf,
    network: bool,
}

/// Which file system is a program's own root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The build host's, for tools that make their own mounts. These have the build host's network.
    Host,
    /// The build host's, with /proc, /sys and /dev mounted in the root under construction.
    HostAndRoot,
    /// The root under construction, with /proc, /sys and /dev mounted, and no network.
    Root,
    /// The same with the build host's network and name servers. /run is a file system of its own that is gone afterwards.
    RootOnline,
    /// The same as [`View::Root`], but nothing in the root can be changed; /run and /tmp are file systems of their own.
    RootReadOnly,
}

/// What a program that a person works with reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Our standard input; what it prints goes to our standard error.
    Inherited,
    /// A terminal of its own, between it and ours: it has job control, and keys such as Ctrl-C are its alone.
    Terminal,
}

/// The sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A namespace, mount or directory that it needs.
    #[error("cannot {action} for the sandbox of {}{}", root.display(), privilege_hint(source))]
    Prepare {
        /// What was attempted.
        action: &'static str,
        /// The root file system under construction.
        root: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The user stopped imagebuild.
    #[error("interrupted: {program} was ended")]
    Interrupted {
        /// Which program was running.
        program: String,
    },
    /// The program itself.
    #[error("cannot run {program}{}", missing_hint(source))]
    Start {
        /// Which program.
        program: String,
        /// Why it did not start.
        #[source]
        source: io::Error,
    },
}

/// Before it starts, the program mounts its /proc, which the kernel may not permit.
fn missing_hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => "\nhint: install it, or the interpreter that its first line names",
        Some(Errno::PERM) => user_namespace::mount_hint(),
        _ => "",
    }
}

fn privilege_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => user_namespace::mount_hint(),
        _ => "",
    }
}

impl Sandbox {
    /// A sandbox for the root file system at `root`, an absolute path. The directory is made when first needed.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), network: true }
    }

    /// The same sandbox without network: programs reach neither other machines nor services of this one.
    pub fn without_network(&self) -> Self {
        Self { network: false, ..self.clone() }
    }

    /// The root file system.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `command` to its end, with an empty standard input; `on_line` gets each line
    /// of standard output and standard error, in the order in which they were written, without its end.
    pub fn run(
        &self,
        view: View,
        command: Command,
        on_line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<ExitStatus, SandboxError> {
        self.start(view, command, |command, proc_dirs| run_as_namespace_init(command, proc_dirs, on_line))
    }

    /// Runs `command` to its end for a person to work with.
    pub fn run_attached(
        &self,
        view: View,
        command: Command,
        console: Console,
    ) -> Result<ExitStatus, SandboxError> {
        self.start(view, command, |command, proc_dirs| run_attached(command, proc_dirs, console))
    }

    fn start(
        &self,
        view: View,
        command: Command,
        run: impl FnOnce(Command, Vec<PathBuf>) -> io::Result<ExitStatus> + Send,
    ) -> Result<ExitStatus, SandboxError> {
        in_own_thread(|| {
            self.enter(view)?;
            let program = command.get_program().to_string_lossy().into_owned();
            run(command, self.proc_dirs(view)).map_err(|source| match source.kind() {
                io::ErrorKind::Interrupted => SandboxError::Interrupted { program },
                _ => SandboxError::Start { program, source },
            })
        })
    }

    /// Makes the directories on which /proc, /sys and /dev are mounted, if the root lacks one.
    pub fn make_mount_points(&self) -> Result<(), SandboxError> {
        let made = self.inside(make_mount_points)?;
        self.prepare("make mount points", made)
    }

    /// Does `work` with the root file system as `/`: no link inside it leads out of it. File descriptors that were
    /// opened before keep their meaning. /proc, /sys and /dev are as they are in the root, that is, empty.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, SandboxError> {
        in_own_thread(|| {
            // The work is our own, which asks for no network: it need not wait for the kernel to make one.
            self.prepare("unshare namespaces", sys::unshare_thread(true))?;
            self.prepare("change into the root", change_root(&self.root))?;
            Ok(work())
        })
    }

    fn enter(&self, view: View) -> Result<(), SandboxError> {
        let online = self.network && matches!(view, View::Host | View::HostAndRoot | View::RootOnline);
        self.prepare("unshare namespaces", sys::unshare_thread(online))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        self.prepare("make mounts private", mount_change("/", private).map_err(io::Error::from))?;
        match view {
            View::Host => Ok(()),
            View::HostAndRoot => {
                let host = self.prepare("open /", open_dir("/"))?;
                self.enter_root()?;
                self.prepare("return to /", fchdir(&host).and_then(|()| chroot(".")).map_err(io::Error::from))
            }
            View::Root => self.enter_root(),
            View::RootOnline => {
                let name_servers = fs::read(RESOLV_CONF).unwrap_or_default();
                self.enter_root()?;
                // Without it, name servers would stay in the root.
                self.prepare("make /run", make_dir("/run", 0o755))?;
                self.prepare("mount /run", mount_tmpfs("/run"))?;
                self.prepare("make /etc/resolv.conf", provide_name_servers(&name_servers))
            }
            View::RootReadOnly => {
                // Made while that is possible; the file systems on them can be written.
                self.prepare("change into the root", self.as_mount_point())?;
                self.enter_root()?;
                ["/run", "/tmp"]
                    .into_iter()
                    .try_for_each(|dir| self.prepare("mount /run and /tmp", mount_tmpfs(dir)))?;
                self.prepare("make the root read-only", make_read_only(Path::new("/")))
            }
        }
    }

    /// Only a mount can be made read-only.
    fn as_mount_point(&self) -> io::Result<()> {
        Ok(mount_bind(&self.root, &self.root)?)
    }

    /// Mounts from within the root, so that links in it cannot lead the mounts elsewhere.
    fn enter_root(&self) -> Result<(), SandboxError> {
        // Relative paths lead to what the build host has until the end.
        self.prepare("change to /", std::env::set_current_dir("/"))?;
        self.prepare("change into the root", chroot(&self.root).map_err(io::Error::from))?;
        self.prepare("make mount points", make_mount_points())?;
        self.prepare("mount /sys", mount_sys())?;
        self.prepare("mount /dev", mount_dev())?;
        self.prepare("change into the root", std::env::set_current_dir("/"))
    }

    /// Where the program's /proc has to be mounted: by itself, since it shows the namespace of who mounts it.
    fn proc_dirs(&self, view: View) -> Vec<PathBuf> {
        match view {
            View::Host | View::Root | View::RootOnline | View::RootReadOnly => vec!["/proc".into()],
            View::HostAndRoot => vec!["/proc".into(), self.root.join("proc")],
        }
    }

    fn prepare<T>(&self, action: &'static str, result: io::Result<T>) -> Result<T, SandboxError> {
        result.map_err(|source| SandboxError::Prepare { action, root: self.root.clone(), source })
    }
}

/// Namespaces and root directory belong to a thread and end with it.
fn in_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

fn open_dir(path: &str) -> io::Result<std::os::fd::OwnedFd> {
    Ok(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn change_root(root: &Path) -> io::Result<()> {
    chroot(root)?;
    std::env::set_current_dir("/")
}

/// The package that owns the directories expects these modes, and some package managers do not mend them.
fn make_mount_points() -> io::Result<()> {
    [("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755)]
        .into_iter()
        .try_for_each(|(path, mode)| make_dir(path, mode))
}

fn make_dir(path: &str, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// A directory that is not there stays so.
fn mount_tmpfs(dir: &str) -> io::Result<()> {
    if !Path::new(dir).symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    Ok(mount(c"tmpfs", dir, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?)
}

/// What else the mount forbids stays so.
fn make_read_only(path: &Path) -> io::Result<()> {
    let had = statvfs(path)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    flags.set(MountFlags::NOSUID, had.contains(StatVfsMountFlags::NOSUID));
    flags.set(MountFlags::NODEV, had.contains(StatVfsMountFlags::NODEV));
    flags.set(MountFlags::NOEXEC, had.contains(StatVfsMountFlags::NOEXEC));
    Ok(mount_remount(path, flags, c"")?)
}

/// Gives the root the build host's name servers for the time of the mount. A link leads to /run as a rule.
fn provide_name_servers(contents: &[u8]) -> io::Result<()> {
    let own = Path::new(RESOLV_CONF);
    if !own.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    if own.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
        let target = Path::new("/etc").join(fs::read_link(own)?);
        if let Some(dir) = target.parent() {
            fs::create_dir_all(dir)?;
        }
        return fs::write(own, contents);
    }
    let provided = Path::new("/run/bootnode-resolv.conf");
    fs::create_dir_all("/run")?;
    fs::write(provided, contents)?;
    if !own.exists() {
        File::create(own)?;
    }
    Ok(mount_bind(provided, own)?)
}

/// Only who owns the network may mount it. With the build host's network and without root, it is that of a network of its
/// own, which ends with the thread that mounts it: it shows no interface.
fn mount_sys() -> io::Result<()> {
    match mount_sys_of_network() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => in_own_thread(|| {
            sys::unshare_network()?;
            mount_sys_of_network()
        }),
        result => result,
    }
}

/// Read-only: a scriptlet that triggers udev would act on the build host's devices.
fn mount_sys_of_network() -> io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount(c"sysfs", "/sys", c"sysfs", flags, None)?)
}

fn mount_dev() -> io::Result<()> {
    mount(c"dev", "/dev", c"tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=0755,size=64k")?;
    for name in DEVICES {
        let in_device = |error: io::Error| io::Error::new(error.kind(), format!("/dev/{name}: {error}"));
        mount_device(name).map_err(in_device)?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, Path::new("/dev").join(name))?;
    }
    mount_dev_pts()?;
    fs::create_dir("/dev/shm")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount(c"shm", "/dev/shm", c"tmpfs", flags, c"mode=1777")?)
}

/// Shows the build host's device node, with the working directory still there. Read-only is its mode, not the device.
fn mount_device(name: &str) -> io::Result<()> {
    let path = Path::new("/dev").join(name);
    File::create(&path)?;
    mount_bind(Path::new("dev").join(name), &path)?;
    make_read_only(&path)
}

fn mount_dev_pts() -> io::Result<()> {
    fs::create_dir("/dev/pts")?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    Ok(mount(c"devpts", "/dev/pts", c"devpts", flags, c"newinstance,ptmxmode=0666,mode=620,gid=5")?)
}

fn run_as_namespace_init(
    mut command: Command,
    proc_dirs: Vec<PathBuf>,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> io::Result<ExitStatus> {
    start_as_namespace_init(&mut command, proc_dirs)?;
    let (output, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // It holds the pipe's writing ends, without which the pipe never ends.
    drop(command);
    if let Err(error) = each_line(output, on_line) {
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    child.wait()
}

fn run_attached(mut command: Command, proc_dirs: Vec<PathBuf>, console: Console) -> io::Result<ExitStatus> {
    start_as_namespace_init(&mut command, proc_dirs)?;
    if console == Console::Terminal {
        return terminal::run(command);
    }
    let mut child = command.stdin(Stdio::inherit()).stdout(io::stderr()).stderr(Stdio::inherit()).spawn()?;
    let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    while !is_ready(&ended)? {
        if interrupt::requested() {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    child.wait()
}

fn start_as_namespace_init(command: &mut Command, proc_dirs: Vec<PathBuf>) -> io::Result<()> {
    let proc_dirs = proc_dirs.into_iter().map(|dir| CString::new(dir.into_os_string().into_encoded_bytes()));
    sys::start_as_namespace_init(command, proc_dirs.collect::<Result<_, _>>()?)
}

/// Gives `on_line` each line of `output` up to its end, and notices within [`INTERRUPT_CHECK`] when the user wants to
/// stop. Bytes that are not UTF-8 are replaced: the lines are for people.
fn each_line(mut output: PipeReader, on_line: &mut dyn FnMut(&str)) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if interrupt::requested() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if !is_ready(&output)? {
            continue;
        }
        let length = output.read(&mut buffer)?;
        if length == 0 {
            if !pending.is_empty() {
                emit(&pending, on_line);
            }
            return Ok(());
        }
        pending.extend_from_slice(&buffer[..length]);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            emit(&pending[..end], on_line);
            pending.drain(..=end);
        }
    }
}

fn emit(line: &[u8], on_line: &mut dyn FnMut(&str)) {
    on_line(String::from_utf8_lossy(line).trim_end());
}

/// Waits until there is something to read, or the end, or for [`INTERRUPT_CHECK`].
fn is_ready(file: &impl AsFd) -> io::Result<bool> {
    match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&INTERRUPT_CHECK)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::is_root;
    use std::os::unix::fs::MetadataExt;

    /// A root that holds a static busybox, and nothing else.
    fn busybox_root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::copy("/bin/busybox", dir.path().join("bin/sh")).unwrap();
        dir
    }

    fn sh(root: &Path, view: View, script: &str) -> (Vec<String>, ExitStatus) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let mut lines = Vec::new();
        let status = Sandbox::new(root).run(view, command, &mut |line| lines.push(line.to_owned())).unwrap();
        (lines, status)
    }

    #[test]
    fn programs_see_proc_sys_and_dev_and_leave_empty_directories() {
        if !is_root() {
            return;
        }
        let root = busybox_root();
        let script = "cd /proc && echo [0-9]*; test -d /sys/kernel && echo x >/dev/null && cat /dev/null && \
                      test -c /dev/urandom && test -d /dev/pts && test -h /dev/fd && echo complete";
        // Without the applets' links, busybox' shell runs its own applets.
        let (lines, status) = sh(root.path(), View::Root, script);
        assert!(status.success(), "{lines:?}");
        assert_eq!(lines, ["1", "complete"]);
        for mount_point in ["proc", "sys", "dev"] {
            assert_eq!(root.path().join(mount_point).read_dir().unwrap().count(), 0, "{mount_point}");
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(root.path().to_str().unwrap()), "{mounts}");
    }

    #[test]
    fn the_devices_are_the_hosts_and_their_modes_cannot_be_changed() {
        if !is_root() {
            return;
        }
        let mode = || fs::metadata("/dev/null").unwrap().mode();
        let before = mode();
        let script = "chmod 600 /dev/null || rm /dev/null || echo x > /dev/null && echo kept";
        let (lines, _) = sh(busybox_root().path(), View::Root, script);
        assert_eq!(lines.last().map(String::as_str), Some("kept"), "{lines:?}");
        assert_eq!(mode(), before);
    }

    #[test]
    fn a_tool_of_the_host_finds_them_in_the_root() {
        if !is_root() {
            return;
        }
        let root = busybox_root();
        let dir = root.path().display();
        let script = format!(
            "test -c {dir}/dev/null && test -d {dir}/proc/1 && test -d {dir}/sys/kernel && echo complete"
        );
        assert_eq!(sh(root.path(), View::HostAndRoot, &script).0, ["complete"]);
        assert_eq!(sh(root.path(), View::Host, &format!("ls {dir}/dev")).0, [""; 0]);
    }

    #[test]
    fn links_out_of_the_root_lead_into_the_root() {
        if !is_root() {
            return;
        }
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), root.path().join("escape")).unwrap();
        let write = || fs::write("/escape/file", "");
        let sandbox = Sandbox::new(root.path());
        assert!(sandbox.inside(write).unwrap().is_err());
        let twin = root.path().join(outside.path().strip_prefix("/").unwrap());
        fs::create_dir_all(&twin).unwrap();
        sandbox.inside(write).unwrap().unwrap();
        assert!(twin.join("file").exists());
        assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn without_network_a_program_does_not_even_reach_this_machine() {
        if !is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let script = format!("echo > /dev/tcp/127.0.0.1/{}", listener.local_addr().unwrap().port());
        let reaches = |sandbox: Sandbox| {
            let mut command = Command::new("bash");
            command.args(["-c", &script]);
            sandbox.run(View::HostAndRoot, command, &mut |_| {}).unwrap().success()
        };
        assert!(reaches(Sandbox::new(root.path())));
        assert!(!reaches(Sandbox::new(root.path()).without_network()));
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        if !is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let command = Command::new("no-such-program");
        let error = Sandbox::new(root.path()).run(View::Host, command, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("cannot run no-such-program"), "{error}");
    }
}
