//! One static binary with two names: `/init` in the initramfs, `bootnode-report` in the booted system.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::boot::boot();
    }
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == "bootnode-report") {
        return match init::report::send_ready() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bootnode-report: {error}");
                ExitCode::FAILURE
            }
        };
    }
    eprintln!("init: runs as PID 1 of an initramfs that imagebuild made, or under the name bootnode-report");
    ExitCode::from(2)
}
