//! The RPM repository that tests install from: made of Debian packages, because no mirror can be reached from test
//! machines. `tests/rpm-repo/README.md` says what is in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::places::{cache_dir, lab_dir};

/// The directory with `repo/` and `RPM-GPG-KEY-test`: all packages that a compute node needs, made once.
pub fn full() -> Result<PathBuf> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("rpm-repo/make-rpm-repo");
    let out = lab_dir().join("rpm-repo/full");
    let made = Command::new(&tool)
        .args(["--set", "full", "--out"])
        .arg(&out)
        .arg("--cache")
        .arg(cache_dir().join("rpm-repo"))
        .output()?;
    ensure!(made.status.success(), "{} failed\n{}", tool.display(), String::from_utf8_lossy(&made.stderr));
    Ok(out)
}
