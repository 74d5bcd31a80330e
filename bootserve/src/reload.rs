//! A changed configuration is put in force while we serve: all of it, or nothing. What is wrong with it is logged, and what
//! was served before is served on.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tracing::{debug, error, info, warn};

use crate::config::{Changes, Config, ConfigError, inventory_path};
use crate::database::{Database, DatabaseError};
use crate::edits::Edits;
use crate::edits::store::{self, newest_revision};
use crate::http::admission::Downloads;
use crate::http::recent::RecentScripts;
use crate::http::tls::{Certificate, TlsError};
use crate::in_use::InUse;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::nbp::{NbpError, NbpSet};
use crate::notify::Notifier;

/// How often the file is looked at. It is read once it was found the same twice, so not while it is being written.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Changes that are logged one by one.
const MAX_LOGGED: usize = 50;

/// What has to do with a changed configuration.
#[derive(Debug)]
pub struct Reload {
    /// The files.
    pub file: WatchedFiles,
    /// What `bootserve node` has changed.
    pub edits: StoredEdits,
    /// What is served.
    pub live: Arc<Live>,
    /// Whose pinned versions change.
    pub in_use: Arc<InUse>,
    /// Whose limit changes.
    pub downloads: Arc<Downloads>,
    /// Scripts of what was served before.
    pub recent: Arc<RecentScripts>,
    /// May have been renewed.
    pub certificate: Option<Arc<Certificate>>,
    /// Told of each attempt.
    pub metrics: Arc<Metrics>,
    /// Told of changes of nodes.
    pub in_force: Arc<InForce>,
}

/// Which changes of nodes were put in force.
#[derive(Debug, Default)]
pub struct InForce {
    asked: Notify,
    reached: watch::Sender<i64>,
}

impl InForce {
    /// Has changes put in force without waiting for the moment when they are looked for.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Has the changes up to this one put in force at once, and waits for it.
    pub async fn wait_for(&self, revision: i64) {
        self.ask();
        let mut reached = self.reached.subscribe();
        // It fails only where the sender is gone, which is ours.
        let _ = reached.wait_for(|reached| *reached >= revision).await;
    }
}

/// Why a configuration is not put in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It cannot be read, or is wrong in itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What `bootserve node` has changed cannot be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A part of it is read at the start alone.
    #[error("{0}\nhint: restart bootserve, or take this back")]
    NeedsRestart(Changes),
    /// Its boot programs cannot be used.
    #[error(transparent)]
    Nbp(#[from] NbpError),
    /// Its certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What is to be put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// The files.
    Files,
    /// What `bootserve node` has changed.
    Edits,
}

impl Reload {
    /// Reads the files again on SIGHUP, and when they have changed, unless the configuration says otherwise; and what `bootserve node`
    /// changes. It does not end.
    pub async fn run(mut self, notifier: &Notifier) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut interval = tokio::time::interval(WATCH_INTERVAL);
        loop {
            let news = tokio::select! {
                _ = hangup.recv() => {
                    info!("reading the configuration again on SIGHUP");
                    Some(News::Files)
                }
                () = self.in_force.asked.notified() => Some(News::Edits),
                _ = interval.tick() => self.news().await,
            };
            if let Some(news) = news {
                notifier.reloading();
                let edits = self.edits.read().await;
                let revision = self.edits.revision;
                let is_in_force;
                (self, is_in_force) = tokio::task::spawn_blocking(move || {
                    let is_in_force = self.reload(news, edits);
                    (self, is_in_force)
                })
                .await?;
                if is_in_force {
                    self.in_force.reached.send_replace(revision);
                }
                notifier.ready();
            }
        }
    }

    async fn news(&mut self) -> Option<News> {
        if self.file.has_changed() && self.live.now().config.server.watch {
            return Some(News::Files);
        }
        self.edits.have_changed().await.then_some(News::Edits)
    }

    /// Whether it is in force.
    fn reload(&mut self, news: News, edits: Result<Edits, DatabaseError>) -> bool {
        let applied = edits.map_err(ReloadError::from).and_then(|edits| match news {
            News::Files => self.apply_files(edits),
            News::Edits => self.apply_edits(edits),
        });
        let is_in_force = applied.is_ok();
        self.metrics.reloaded(is_in_force);
        match applied {
            Ok(changes) => {
                for change in changes.0.iter().take(MAX_LOGGED) {
                    info!(%change, "configuration");
                }
                info!(changes = changes.0.len(), "the configuration is in force");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                error!(error, "the configuration is not in force, the one before goes on");
            }
        }
        is_in_force
    }

    /// The files stay as they were read.
    fn apply_edits(&mut self, edits: Edits) -> Result<Changes, ReloadError> {
        let before = self.live.now();
        let config = before.config.with_edits(edits)?;
        let changes = before.config.settings().changes(&config.settings());
        self.put_in_force(config, Arc::clone(&before.nbps));
        Ok(changes)
    }

    fn apply_files(&mut self, edits: Edits) -> Result<Changes, ReloadError> {
        let config = self.file.read()?.edited(edits)?;
        let changes = self.live.now().config.settings().changes(&config.settings());
        let restart = changes.needing_restart();
        if !restart.is_empty() {
            return Err(ReloadError::NeedsRestart(restart));
        }
        let nbps = NbpSet::read(&config.nbp_dirs)?;
        if let (Some(certificate), Some(tls)) = (&self.certificate, &config.tls) {
            match certificate.renew(tls) {
                Ok(()) => {}
                // The key may be for root alone, which we are no longer.
                Err(error) if !changes.touch("tls") => {
                    let hint = "restart bootserve to use the renewed one";
                    warn!(error = &error as &dyn std::error::Error, hint, "the certificate stays as it was");
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.put_in_force(config, Arc::new(nbps));
        Ok(changes)
    }

    fn put_in_force(&self, config: Config, nbps: Arc<NbpSet>) {
        self.in_use.pin(config.pinned_images());
        self.downloads.set_limit(config.max_downloads);
        self.live.replace(config, nbps);
        self.recent.clear();
    }
}

/// Edits of the database, and the number of the newest change when they were last read.
#[derive(Debug)]
pub struct StoredEdits {
    /// Where they are.
    pub database: Database,
    /// Of the newest change that was read.
    pub revision: i64,
}

impl StoredEdits {
    async fn have_changed(&self) -> bool {
        match newest_revision(&self.database).await {
            Ok(revision) => revision != self.revision,
            // The watchdog says so louder.
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "cannot look for changes of nodes");
                false
            }
        }
    }

    async fn read(&mut self) -> Result<Edits, DatabaseError> {
        // What comes in between is read twice.
        self.revision = newest_revision(&self.database).await?;
        store::read(&self.database).await
    }
}

/// The configuration file and the inventory that it names, and what they were like when they were read and when they were last looked
/// at.
#[derive(Debug)]
pub struct WatchedFiles {
    path: PathBuf,
    inventory: Option<PathBuf>,
    read: Stamps,
    seen: Stamps,
}

/// Of the configuration, and of the inventory.
type Stamps = [Option<Stamp>; 2];

/// Changes with every way to change a file: it is written to, replaced by another, or its link is led elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size_bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let file = path.metadata().ok()?;
        Some(Self {
            inode: (file.dev(), file.ino()),
            size_bytes: file.size(),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

impl WatchedFiles {
    /// The file as it is before it is read.
    pub fn new(path: &Path) -> Self {
        let read = [Stamp::of(path), None];
        Self { path: path.to_owned(), inventory: None, read, seen: read }
    }

    /// Reads the configuration, and notes what the files are like.
    pub fn read(&mut self) -> Result<Config, ConfigError> {
        self.note();
        let config = Config::read(&self.path)?;
        let inventory = config.server.inventory.as_ref().map(|file| inventory_path(&self.path, file));
        if inventory == self.inventory {
            return Ok(config);
        }
        // It may have been changed since it was read, before anyone looked.
        self.inventory = inventory;
        self.note();
        Config::read(&self.path)
    }

    /// They are read now.
    fn note(&mut self) {
        let stamps = self.stamps();
        (self.read, self.seen) = (stamps, stamps);
    }

    /// Whether one of them is another than the one that was read, and none is being changed any more. A file that is gone is no news.
    fn has_changed(&mut self) -> bool {
        let now = self.stamps();
        let are_there = now[0].is_some() && now[1].is_some() == self.inventory.is_some();
        let is_settled = are_there && now == std::mem::replace(&mut self.seen, now);
        is_settled && now != self.read
    }

    fn stamps(&self) -> Stamps {
        [Stamp::of(&self.path), self.inventory.as_deref().and_then(Stamp::of)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_has_changed_once_it_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        fs::write(&path, "one").unwrap();
        let mut file = WatchedFiles::new(&path);
        assert!(!file.has_changed());
        fs::write(&path, "other").unwrap();
        assert!(!file.has_changed(), "it may be being written");
        fs::write(&path, "others").unwrap();
        assert!(!file.has_changed(), "it was");
        assert!(file.has_changed());
        file.note();
        assert!(!file.has_changed());
    }

    #[test]
    fn a_file_that_is_replaced_or_linked_elsewhere_has_changed_and_one_that_is_gone_has_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name| dir.path().join(name);
        for name in ["one", "two"] {
            fs::write(at(name), "same").unwrap();
        }
        std::os::unix::fs::symlink(at("one"), at("link")).unwrap();
        let mut file = WatchedFiles::new(&at("link"));
        fs::remove_file(at("link")).unwrap();
        assert!(!file.has_changed() && !file.has_changed());
        std::os::unix::fs::symlink(at("two"), at("link")).unwrap();
        assert!(!file.has_changed());
        assert!(file.has_changed());
    }
}
