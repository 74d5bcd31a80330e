//! Runs the programs that build a root: shows what they print, keeps it, and says what failed.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::progress::Step;
use crate::sandbox::{Sandbox, SandboxError, View};

/// How to reach the network. Programs see these variables of imagebuild's environment, and the time to write into files.
const PROXY_VARIABLES: [&str; 7] =
    ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
const SOURCE_DATE_VARIABLE: &str = "SOURCE_DATE_EPOCH";
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How many lines of output an error message shows.
const TAIL_LINES: usize = 25;

/// A command with an environment that does not depend on who runs imagebuild. Messages are English, for they are read
/// by programs too; systemd's tools do not look for a running systemd.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8").env("HOME", "/root");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("SYSTEMD_OFFLINE", "1");
    let passed = PROXY_VARIABLES.iter().chain([&SOURCE_DATE_VARIABLE]);
    command.envs(passed.filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// Keeps from `command` what the environment says of proxies: something else decides about them.
pub fn hide_proxies(command: &mut Command) {
    for name in PROXY_VARIABLES {
        command.env_remove(name);
    }
}

/// Whether the build host has a program called `name` where [`program`] would find it.
pub fn host_has(name: &str) -> bool {
    SEARCH_PATH.split(':').any(|dir| Path::new(dir).join(name).is_file())
}

/// Runs programs on one root file system. Everything they print goes into one log file.
pub struct Tools {
    sandbox: Sandbox,
    log: File,
    log_path: PathBuf,
}

/// A program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be run.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// It ended with another status than 0.
    #[error("{what} failed ({status}); its output ends with:\n{tail}\nhint: the whole output is in {}", log.display())]
    Failed {
        /// What it was to do.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it printed, indented.
        tail: String,
        /// Where everything it printed is.
        log: PathBuf,
    },
    /// The log file cannot be written.
    #[error("cannot write the log {}", path.display())]
    Log {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Tools {
    /// Tools for the root of `sandbox`, with a new log at `log_path`.
    pub fn new(sandbox: Sandbox, log_path: &Path) -> Result<Self, ToolError> {
        let create = || {
            fs::create_dir_all(log_path.parent().unwrap_or(Path::new("/")))?;
            File::create(log_path)
        };
        let log = create().map_err(|source| ToolError::Log { path: log_path.to_owned(), source })?;
        Ok(Self { sandbox, log, log_path: log_path.to_owned() })
    }

    /// Tools for the same root and with the same log, whose programs have no network.
    pub fn without_network(&self) -> Result<Self, ToolError> {
        let log = self.log.try_clone();
        let log = log.map_err(|source| ToolError::Log { path: self.log_path.clone(), source })?;
        Ok(Self { sandbox: self.sandbox.without_network(), log, log_path: self.log_path.clone() })
    }

    /// The root and its sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Where everything that the programs print is kept.
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// Whether the root has a program called `name` where [`program`] would find it.
    pub fn root_has(&self, name: &str) -> Result<bool, SandboxError> {
        let exists = |dir: &str| Path::new(dir).join(name).exists();
        self.sandbox.inside(|| SEARCH_PATH.split(':').any(exists))
    }

    /// Runs `command`; `what` says what it is to do: `install packages with dnf`. Its last line is `step`'s message.
    pub fn run(&self, what: &str, view: View, command: Command, step: &Step) -> Result<(), ToolError> {
        self.run_watched(what, view, command, step, &mut |_| {})
    }

    /// Like [`Tools::run`]; `on_line` sees each line that the program prints.
    pub fn run_watched(
        &self,
        what: &str,
        view: View,
        command: Command,
        step: &Step,
        on_line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), ToolError> {
        let mut tail = Tail::default();
        let mut log = Ok(());
        let status = self.sandbox.run(view, command, &mut |line| {
            step.message(line);
            on_line(line);
            if log.is_ok() {
                log = writeln!(&self.log, "{line}");
            }
            tail.push(line);
        })?;
        log.map_err(|source| ToolError::Log { path: self.log_path.clone(), source })?;
        if status.success() {
            return Ok(());
        }
        Err(ToolError::Failed {
            what: what.to_owned(),
            status,
            tail: tail.text(),
            log: self.log_path.clone(),
        })
    }

    /// Copies the directory `from` to `to`, which is not there yet, with all that an archive of it can tell: owners, modes,
    /// times, hard links, attributes, holes, device nodes.
    pub fn copy_tree(&self, from: &Path, to: &Path, step: &Step) -> Result<(), ToolError> {
        let mut command = program("cp");
        command.args(["--archive", "--reflink=auto", "--no-target-directory"]).arg(from).arg(to);
        self.run(&format!("copying {}", from.display()), View::Host, command, step)
    }

    /// Runs `command` and returns the lines it prints.
    pub fn lines(
        &self,
        what: &str,
        view: View,
        command: Command,
        step: &Step,
    ) -> Result<Vec<String>, ToolError> {
        let mut lines = Vec::new();
        self.run_watched(what, view, command, step, &mut |line| lines.push(line.to_owned()))?;
        Ok(lines)
    }
}

/// The last lines of an output.
#[derive(Default)]
pub struct Tail(VecDeque<String>);

impl Tail {
    /// Takes one line more, and forgets the first if there are too many.
    pub fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    /// Forgets all lines.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The lines, indented, as one text.
    pub fn text(&self) -> String {
        self.0.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    /// Runs a shell command on the build host's root and returns its lines or the error's text.
    fn run(script: &str) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let tools = Tools::new(Sandbox::new(dir.path()), &dir.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let step = Progress::quiet().step("test");
        tools.lines("say something", View::Host, command, &step).map_err(|error| error.to_string())
    }

    #[test]
    fn output_and_errors_come_in_order_and_without_line_ends() {
        assert_eq!(run("echo one; echo two >&2; printf three").unwrap(), ["one", "two", "three"]);
    }

    #[test]
    fn a_failure_shows_the_end_of_the_output() {
        let error = run("seq 100; echo cannot >&2; exit 3").unwrap_err();
        assert!(error.contains("say something failed (exit status: 3)"), "{error}");
        assert!(error.contains("  100\n  cannot\n") && !error.contains("  50\n"), "{error}");
    }

    #[test]
    fn a_program_is_alone_in_its_namespace_and_leaves_no_process_behind() {
        assert_eq!(run("echo $$; ls -d /proc/[0-9]* | head -1; sleep 1000 &").unwrap(), ["1", "/proc/1"]);
    }
}
