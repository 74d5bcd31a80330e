//! What is served now. It is replaced as a whole, so whoever looks at it once sees one configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::nbp::NbpSet;
use crate::overlay::Overlays;

/// A configuration and the boot programs that it names.
#[derive(Clone, Debug)]
pub struct Served {
    /// What is served to whom.
    pub config: Arc<Config>,
    /// The boot programs.
    pub nbps: Arc<NbpSet>,
    /// What is made of the configuration's overlays.
    pub overlays: Arc<Overlays>,
}

impl Served {
    fn new(config: Config, nbps: Arc<NbpSet>) -> Self {
        let config = Arc::new(config);
        let overlays = Arc::new(Overlays::new(Arc::clone(&config)));
        Self { config, nbps, overlays }
    }
}

/// What is served now.
#[derive(Debug)]
pub struct Live(ArcSwap<Served>);

impl Live {
    /// At first, this.
    pub fn new(config: Config, nbps: NbpSet) -> Self {
        Self(ArcSwap::from_pointee(Served::new(config, Arc::new(nbps))))
    }

    /// What is served at this moment.
    pub fn now(&self) -> Arc<Served> {
        self.0.load_full()
    }

    /// Serves this from now on. What was learned of nodes is not forgotten.
    pub fn replace(&self, mut config: Config, nbps: Arc<NbpSet>) {
        config.learned = Arc::clone(&self.0.load().config.learned);
        self.0.store(Arc::new(Served::new(config, nbps)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::MacAddr;

    #[test]
    fn what_was_learned_of_a_node_outlives_its_configuration() {
        let config = || {
            let key = "uuid = '00112233-4455-6677-8899-aabbccddeeff'";
            let text = include_str!("../bootserve.example.toml").replace("mac = \"fc:ab:14:e8:66:02\"", key);
            Config::parse(&text).unwrap()
        };
        let live = Live::new(config(), NbpSet::default());
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        live.now().config.learned.learn(mac, &"node-001".parse().unwrap());
        live.replace(config(), Arc::default());
        assert_eq!(live.now().config.node_name(mac), Some("node-001"));
    }
}
