//! Warewulf's nodes.conf, version 4: the primary network device of each node.

use yaml_rust2::{Yaml, YamlLoader};

use super::{Host, ImportError};

/// All nodes.
pub(super) fn hosts(text: &str) -> Result<Vec<Host>, ImportError> {
    let documents = YamlLoader::load_from_str(text)?;
    let nodes =
        documents.iter().find_map(|document| document["nodes"].as_hash()).ok_or(ImportError::NoNodes)?;
    Ok(nodes.iter().filter_map(|(name, node)| Some(host(name.as_str()?, node))).collect())
}

fn host(name: &str, node: &Yaml) -> Host {
    let devices = &node["network devices"];
    let primary = node["primary network"].as_str().unwrap_or("default");
    let first = || devices.as_hash().and_then(|devices| devices.values().next()).unwrap_or(&Yaml::BadValue);
    let device = if devices[primary].is_badvalue() { first() } else { &devices[primary] };
    // Unlike older releases, newer ones write the prefix length behind it.
    let address = device["ipaddr"].as_str().and_then(|text| text.split('/').next()?.parse().ok());
    let macs = device["hwaddr"].as_str().map(str::to_owned).into_iter().collect();
    Host { name: name.to_owned(), macs, address }
}
