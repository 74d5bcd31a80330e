//! What is at the other end of a wire.

use serde::{Deserialize, Serialize};

use super::Text;

/// The port of a switch that an interface is plugged in at, as the switch says it by LLDP (IEEE 802.1AB). Addresses are hexadecimal
/// with colons, what is no text is hexadecimal, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The switch: often its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chassis_id: Option<Text>,
    /// The port: `Ethernet1/7`, or its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_id: Option<Text>,
    /// The name of the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_name: Option<Text>,
    /// What the switch's manager has written to the port, or its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_description: Option<Text>,
}
