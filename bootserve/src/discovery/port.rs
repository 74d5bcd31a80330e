//! Where machines are plugged in: as the relay says it in DHCP option 82, or as the machine has heard it from the switch by LLDP.
//!
//! The relay's word is taken from the packet with which the machine asked for its address. It is stored, as a machine that renews its
//! address later asks without the relay.

use std::collections::HashMap;

use bootspec::MacAddr;
use serde_json::Value;
use sqlx::SqliteConnection;

use crate::config::OptionBytes;
use crate::database::{DatabaseError, query_error};

/// What a relay says of a machine's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayPort {
    /// The port (option 82, sub-option 1).
    pub circuit_id: Option<OptionBytes>,
    /// The switch or relay (sub-option 2).
    pub remote_id: Option<OptionBytes>,
}

/// Whose word counts for where a machine is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The relay's.
    ByRelay,
    /// The machine's own, which has it from the switch.
    ByLldp,
}

/// What a port may be called: the first is how it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortNames {
    by_relay: Vec<String>,
    by_lldp: Vec<String>,
}

impl RelayPort {
    /// As a fact: what can be read as text is, all else is hexadecimal.
    pub fn fact(&self) -> Value {
        let ids = [("circuit_id", &self.circuit_id), ("remote_id", &self.remote_id)];
        let ids =
            ids.into_iter().filter_map(|(key, id)| Some((key.to_owned(), id.as_ref()?.to_string().into())));
        Value::Object(ids.collect())
    }
}

impl PortNames {
    /// The names of the port of a machine with these facts, `port` and `lldp` among them.
    pub fn of(facts: &Value) -> Self {
        let text = |table: &str, key: &str| facts.get(table)?.get(key)?.as_str().map(str::to_owned);
        let (circuit, remote) = (text("port", "circuit_id"), text("port", "remote_id"));
        let both =
            circuit.as_ref().zip(remote.as_ref()).map(|(circuit, remote)| format!("{remote}/{circuit}"));
        let switches = ["system_name", "chassis_id"].map(|key| text("lldp", key));
        let ports = ["port_id", "port_description"].map(|key| text("lldp", key));
        let by_lldp = switches
            .iter()
            .flatten()
            .flat_map(|switch| ports.iter().flatten().map(move |port| format!("{switch}/{port}")));
        Self { by_relay: both.into_iter().chain(circuit).collect(), by_lldp: by_lldp.collect() }
    }

    /// Those that this one says.
    pub fn said(&self, by: Said) -> &[String] {
        match by {
            Said::ByRelay => &self.by_relay,
            Said::ByLldp => &self.by_lldp,
        }
    }

    /// How it is shown.
    pub fn shown(&self) -> Option<&str> {
        self.by_relay.first().or(self.by_lldp.first()).map(String::as_str)
    }
}

/// What the switch has said by LLDP to the interface that the machine with these facts checks in by.
pub fn lldp_of(facts: &Value) -> Option<Value> {
    let mac = facts.get("mac")?;
    let interfaces = facts.get("interfaces")?.as_array()?;
    let interface = interfaces.iter().find(|interface| interface.get("mac") == Some(mac))?;
    interface.get("lldp").filter(|lldp| lldp.is_object()).cloned()
}

/// Stores what relays have said of machines, in place of what they said before.
pub async fn write_ports(
    connection: &mut SqliteConnection,
    ports: impl IntoIterator<Item = (MacAddr, RelayPort)>,
) -> Result<(), DatabaseError> {
    // Of a machine that has asked several times, the last time counts.
    let ports: HashMap<_, _> = ports.into_iter().collect();
    if ports.is_empty() {
        return Ok(());
    }
    let text = |id: Option<OptionBytes>| id.map(|id| id.to_string());
    let rows: Vec<_> = ports
        .into_iter()
        .map(|(mac, port)| (mac.to_string(), text(port.circuit_id), text(port.remote_id)))
        .collect();
    sqlx::query(
        "INSERT OR REPLACE INTO switch_ports (mac, circuit_id, remote_id) \
         SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
    )
    .bind(serde_json::to_string(&rows).expect("texts are JSON"))
    .execute(connection)
    .await
    .map_err(query_error("store ports of switches in"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn facts() -> Value {
        json!({
            "mac": "02:00:00:00:00:01",
            "interfaces": [
                {"name": "eth0", "mac": "02:00:00:00:00:02", "lldp": {"system_name": "other", "port_id": "x"}},
                {"name": "eth1", "mac": "02:00:00:00:00:01", "lldp": {
                    "chassis_id": "aa:bb", "system_name": "sw1", "port_id": "Eth1/7", "port_description": "to node",
                }},
            ],
        })
    }

    #[test]
    fn a_port_has_the_names_that_the_relay_and_the_switch_give_it() {
        let mut facts = facts();
        facts["lldp"] = lldp_of(&facts).unwrap();
        let id = |text: &str| Some(text.parse().unwrap());
        facts["port"] = RelayPort { circuit_id: id("Gi1/0/7"), remote_id: id("0x0102") }.fact();
        let names = PortNames::of(&facts);
        assert_eq!(names.said(Said::ByRelay), ["0x0102/Gi1/0/7", "Gi1/0/7"]);
        assert_eq!(names.said(Said::ByLldp), ["sw1/Eth1/7", "sw1/to node", "aa:bb/Eth1/7", "aa:bb/to node"]);
        assert_eq!(names.shown(), Some("0x0102/Gi1/0/7"));
    }

    #[test]
    fn a_machine_that_says_nothing_of_its_switch_has_no_port() {
        assert_eq!(lldp_of(&json!({"mac": "a", "interfaces": [{"mac": "a"}]})), None);
        assert_eq!(
            PortNames::of(&json!({"lldp": {"port_id": "7"}})),
            PortNames::default(),
            "of which switch?"
        );
        assert_eq!(PortNames::of(&json!({"port": {"remote_id": "7"}})).shown(), None);
    }

    proptest! {
        #[test]
        fn no_facts_make_it_panic(text in "\\PC{0,10}", number: i64) {
            for value in [json!(text), json!(number), json!([text]), json!({"mac": text, "lldp": number})] {
                let _ = lldp_of(&json!({"mac": text, "interfaces": value}));
                let _ = lldp_of(&json!({"mac": text, "interfaces": [value]}));
                let _ = PortNames::of(&json!({"port": value, "lldp": value}));
            }
        }
    }
}
