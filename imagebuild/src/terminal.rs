//! A terminal of its own for a program that a person works with: a pseudoterminal (pty(7)) between it and ours. So the program
//! leads a session with job control, and keys such as Ctrl-C are its alone.

use std::fs::File;
use std::io::{self, Read, Stdin, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::{interrupt, sys};

/// How often is looked whether our terminal has another size, or the user wants to stop.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
const OPEN: OpenptFlags = OpenptFlags::RDWR.union(OpenptFlags::NOCTTY).union(OpenptFlags::CLOEXEC);

/// Runs `command` on a terminal that /dev/ptmx makes, between it and the terminal that is our standard input and standard
/// error. Fails with [`io::ErrorKind::Interrupted`] when the user wants to stop; then the program is killed.
pub fn run(mut command: Command) -> io::Result<ExitStatus> {
    let master = openpt(OPEN)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    // The number of the slave is not needed: /dev may be another one by now.
    let slave = File::from(ioctl_tiocgptpeer(&master, OPEN)?);
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    sys::lead_session(&mut command);
    let mut relay = Relay { master: File::from(master), keys: Vec::new() };
    relay.copy_size();
    let raw = Raw::enter()?;
    let child = command.spawn()?;
    // It holds the slave, without which the master never ends.
    drop(command);
    let status = relay.run(child);
    drop(raw);
    status
}

/// Our terminal passes every key on and changes none, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no mending.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

struct Relay {
    master: File,
    /// What the program has not taken yet.
    keys: Vec<u8>,
}

impl Relay {
    fn run(&mut self, mut child: Child) -> io::Result<ExitStatus> {
        if let Err(error) = self.pass_on() {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
        child.wait()
    }

    /// Passes on keys and output until nothing has the program's terminal open any more.
    fn pass_on(&mut self) -> io::Result<()> {
        let stdin = io::stdin();
        loop {
            if interrupt::requested() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.copy_size();
            let (has_keys, has_output, takes_keys) = self.wait(&stdin)?;
            if has_output && self.copy_output()? == 0 {
                return Ok(());
            }
            if takes_keys {
                let written = self.master.write(&self.keys)?;
                self.keys.drain(..written);
            }
            if has_keys {
                self.read_keys(&stdin)?;
            }
        }
    }

    /// Keys are read when those before have been taken, so that a program which reads none does not make us wait for it.
    fn wait(&self, stdin: &Stdin) -> io::Result<(bool, bool, bool)> {
        let (keys, program) = match self.keys.is_empty() {
            true => (PollFlags::IN, PollFlags::IN),
            false => (PollFlags::empty(), PollFlags::IN | PollFlags::OUT),
        };
        let mut files = [PollFd::new(stdin, keys), PollFd::new(&self.master, program)];
        match poll(&mut files, Some(&LOOK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [keys, program] = files.map(|file| file.revents());
        let ended = PollFlags::HUP | PollFlags::ERR;
        Ok((
            keys.intersects(PollFlags::IN | ended),
            program.intersects(PollFlags::IN | ended),
            program.contains(PollFlags::OUT) && !self.keys.is_empty(),
        ))
    }

    /// Returns how many bytes there were; none if the program has ended.
    fn copy_output(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            // What a master reads when no slave is open any more.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
            Err(error) => Err(error),
            Ok(length) => io::stderr().write_all(&buffer[..length]).map(|()| length),
        }
    }

    /// A terminal that is gone types nothing more.
    fn read_keys(&mut self, stdin: &Stdin) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match rustix::io::read(stdin, &mut buffer) {
            Ok(0) | Err(Errno::IO) => Err(io::ErrorKind::Interrupted.into()),
            Ok(length) => {
                self.keys.extend_from_slice(&buffer[..length]);
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// The kernel tells the program if it is another one than before. One that cannot be asked for has no size.
    fn copy_size(&self) {
        let size = |file: &dyn AsFd| tcgetwinsize(file.as_fd()).ok();
        let (Some(ours), Some(its)) = (size(&io::stdin()), size(&self.master)) else { return };
        if (ours.ws_row, ours.ws_col) != (its.ws_row, its.ws_col) {
            let _ = tcsetwinsize(&self.master, ours);
        }
    }
}
