//! What we tell the service manager (sd_notify(3)). Without one, nothing.

use std::convert::Infallible;

use sd_notify::NotifyState;
use tracing::warn;

use crate::database::Database;

/// We serve.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// We are about to end.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Gives the watchdog a sign of life twice in the time that it allows, as long as the database answers.
pub async fn keep_watchdog(database: &Database) -> Infallible {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut signs = tokio::time::interval(limit / 2);
    loop {
        signs.tick().await;
        match database.probe().await {
            Ok(()) => tell(NotifyState::Watchdog),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "no sign of life to the watchdog"),
        }
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "cannot tell the service manager");
    }
}
