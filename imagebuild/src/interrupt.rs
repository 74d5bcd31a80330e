//! Ctrl-C and SIGTERM: the build notices at its next step, fails like any other failed build, and cleans up on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// From now on the first signal sets [`requested`], and a second one ends the process at once.
pub fn listen() -> std::io::Result<()> {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&REQUESTED))?;
        signal_hook::flag::register(signal, Arc::clone(&REQUESTED))?;
    }
    Ok(())
}

/// For reading and writing long files: fails if the user asked to stop.
pub fn check() -> std::io::Result<()> {
    // Not the kind `Interrupted`, upon which a call is made again.
    if requested() { Err(std::io::Error::other("interrupted")) } else { Ok(()) }
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
