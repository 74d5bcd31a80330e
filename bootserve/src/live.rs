//! What is served now. It is replaced as a whole, so whoever looks at it once sees one configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::nbp::NbpSet;

/// A configuration and the boot programs that it names.
#[derive(Clone, Debug)]
pub struct Served {
    /// What is served to whom.
    pub config: Arc<Config>,
    /// The boot programs.
    pub nbps: Arc<NbpSet>,
}

/// What is served now.
#[derive(Debug)]
pub struct Live(ArcSwap<Served>);

impl Live {
    /// At first, this.
    pub fn new(config: Config, nbps: NbpSet) -> Self {
        Self(ArcSwap::from_pointee(Served { config: Arc::new(config), nbps: Arc::new(nbps) }))
    }

    /// What is served at this moment.
    pub fn now(&self) -> Arc<Served> {
        self.0.load_full()
    }

    /// Serves this from now on.
    pub fn replace(&self, config: Config, nbps: NbpSet) {
        self.0.store(Arc::new(Served { config: Arc::new(config), nbps: Arc::new(nbps) }));
    }
}
