//! The few resources of Redfish (DMTF DSP0266, DSP0268) that switching a machine takes, as BMCs send them. What is missing is left
//! out, and what is there and unknown is passed over: no two vendors send the same.

use std::fmt;

use serde::Deserialize;

use crate::power::{Change, PowerState};

/// No text of a BMC is shown longer than this.
const MAX_TEXT_CHARS: usize = 300;

/// A reference to another resource: its path on the same BMC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Link {
    /// `/redfish/v1/Systems/1`.
    #[serde(default, rename = "@odata.id")]
    pub path: String,
}

/// `/redfish/v1/`.
#[derive(Debug, Default, Deserialize)]
pub struct Root {
    /// The collection of systems.
    #[serde(default, rename = "Systems")]
    pub systems: Link,
}

/// The collection of systems.
#[derive(Debug, Default, Deserialize)]
pub struct Systems {
    /// Each of them.
    #[serde(default, rename = "Members")]
    pub members: Vec<Link>,
}

/// A machine.
#[derive(Debug, Default, Deserialize)]
pub struct System {
    /// As the standard spells it: `On`, `Off`, `PoweringOn`, …
    #[serde(rename = "PowerState")]
    power: Option<String>,
    #[serde(default, rename = "Actions")]
    actions: Actions,
}

#[derive(Debug, Default, Deserialize)]
struct Actions {
    #[serde(rename = "#ComputerSystem.Reset")]
    reset: Option<Reset>,
}

/// The action that switches the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Reset {
    /// Where it is asked for.
    #[serde(default)]
    pub target: String,
    #[serde(default, rename = "ResetType@Redfish.AllowableValues")]
    types: Option<Vec<String>>,
    /// Where the types stand if they do not stand here.
    #[serde(rename = "@Redfish.ActionInfo")]
    info: Option<String>,
}

/// What an action takes.
#[derive(Debug, Default, Deserialize)]
pub struct ActionInfo {
    #[serde(default, rename = "Parameters")]
    parameters: Vec<Parameter>,
}

#[derive(Debug, Default, Deserialize)]
struct Parameter {
    #[serde(default, rename = "Name")]
    name: String,
    #[serde(default, rename = "AllowableValues")]
    values: Vec<String>,
}

/// The body of an error.
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: RefusalError,
}

#[derive(Debug, Default, Deserialize)]
struct RefusalError {
    #[serde(default)]
    message: String,
    #[serde(default, rename = "@Message.ExtendedInfo")]
    extended: Vec<Message>,
}

#[derive(Debug, Default, Deserialize)]
struct Message {
    #[serde(default, rename = "Message")]
    message: String,
}

/// How a machine can be switched: `ResetType` of the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetType {
    /// Power on.
    On,
    /// Power on, whatever the machine is doing.
    ForceOn,
    /// Power off at once.
    ForceOff,
    /// The system is asked to shut down.
    GracefulShutdown,
    /// Power off and on.
    PowerCycle,
    /// Reset at once.
    ForceRestart,
}

impl fmt::Display for ResetType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl System {
    /// Whether it is on.
    pub fn power(&self) -> PowerState {
        match self.power.as_deref() {
            Some("On") => PowerState::On,
            Some("Off") => PowerState::Off,
            Some(other) => PowerState::Other(shown(other)),
            None => PowerState::Other("unknown".to_owned()),
        }
    }

    /// How it is switched, if it can be.
    pub fn reset(&self) -> Option<&Reset> {
        self.actions.reset.as_ref()
    }
}

impl Reset {
    /// The path of the list of types, where they do not stand here.
    pub fn info(&self) -> Option<&str> {
        self.info.as_deref().filter(|_| self.types.is_none())
    }

    /// With the types of that list.
    pub fn with(self, info: ActionInfo) -> Self {
        let types = info.parameters.into_iter().find(|parameter| parameter.name == "ResetType");
        Self { types: types.map(|parameter| parameter.values), ..self }
    }

    /// The best of the offered types for `change`, or those that are offered. A BMC that lists none is taken to offer all.
    pub fn choose(&self, change: Change) -> Result<ResetType, String> {
        use ResetType::{ForceOff, ForceOn, ForceRestart, GracefulShutdown, On, PowerCycle};
        let wanted: &[ResetType] = match change {
            Change::On => &[On, ForceOn],
            Change::Off => &[ForceOff],
            Change::Shutdown => &[GracefulShutdown],
            // A restart keeps the power on, and is what is left where the power cannot be cut and given in one.
            Change::Cycle => &[PowerCycle, ForceRestart],
        };
        let offers = |wanted: &&ResetType| {
            self.types.as_ref().is_none_or(|types| types.iter().any(|offered| *offered == wanted.to_string()))
        };
        let offered = || shown(&self.types.clone().unwrap_or_default().join(", "));
        wanted.iter().find(offers).copied().ok_or_else(offered)
    }
}

impl Systems {
    /// The one with this id, or the only one; or the ids that there are.
    pub fn choose(&self, id: Option<&str>) -> Result<&Link, String> {
        let ids = || shown(&self.members.iter().map(Link::id).collect::<Vec<_>>().join(", "));
        match (id, self.members.as_slice()) {
            (Some(id), members) => members.iter().find(|member| member.id() == id).ok_or_else(ids),
            (None, [member]) => Ok(member),
            (None, _) => Err(ids()),
        }
    }
}

impl Link {
    /// The last part of its path.
    fn id(&self) -> &str {
        let path = self.path.trim_end_matches('/');
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// What the body of an error says, if it says anything.
pub fn refusal(body: &[u8]) -> Option<String> {
    let Refusal { error } = serde_json::from_slice(body).ok()?;
    let first = error.extended.into_iter().map(|message| message.message).find(|text| !text.is_empty());
    let text = shown(&first.unwrap_or(error.message));
    (!text.is_empty()).then_some(text)
}

/// A text of a BMC as it may stand on a terminal.
fn shown(text: &str) -> String {
    let printable = text.trim().chars().map(|character| if character.is_control() { ' ' } else { character });
    printable.take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn system(json: &str) -> System {
        serde_json::from_str(json).unwrap()
    }

    /// As an iDRAC sends it, without what does not matter here.
    const SYSTEM: &str = r##"{"@odata.id": "/redfish/v1/Systems/System.Embedded.1", "PowerState": "On", "Actions": {
        "#ComputerSystem.Reset": {"target": "/redfish/v1/Systems/System.Embedded.1/Actions/ComputerSystem.Reset",
        "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "ForceRestart", "GracefulShutdown", "PushPowerButton", "Nmi", "PowerCycle"]}}}"##;

    #[test]
    fn the_best_offered_type_is_chosen() {
        let choose = |types: &str, change| {
            let json = format!(r##"{{"Actions": {{"#ComputerSystem.Reset": {{"target": "/r" {types}}}}}}}"##);
            system(&json).reset().unwrap().choose(change)
        };
        let with = |types: &str| format!(r#", "ResetType@Redfish.AllowableValues": {types}"#);
        let idrac = system(SYSTEM);
        assert_eq!(idrac.power(), PowerState::On);
        assert_eq!(idrac.reset().unwrap().choose(Change::Cycle), Ok(ResetType::PowerCycle));
        assert_eq!(choose(&with(r#"["On", "ForceRestart"]"#), Change::Cycle), Ok(ResetType::ForceRestart));
        assert_eq!(choose(&with(r#"["ForceOn"]"#), Change::On), Ok(ResetType::ForceOn));
        assert_eq!(choose(&with(r#"["On", "Nmi"]"#), Change::Off), Err("On, Nmi".to_owned()));
        assert_eq!(choose("", Change::Shutdown), Ok(ResetType::GracefulShutdown));
    }

    #[test]
    fn types_may_stand_in_a_list_of_their_own() {
        let json =
            r##"{"Actions": {"#ComputerSystem.Reset": {"target": "/r", "@Redfish.ActionInfo": "/i"}}}"##;
        let reset = system(json).reset().unwrap().clone();
        assert_eq!(reset.info(), Some("/i"));
        let info = r#"{"Parameters": [{"Name": "ResetType", "AllowableValues": ["ForceOff"]}]}"#;
        let reset = reset.with(serde_json::from_str(info).unwrap());
        assert_eq!(reset.choose(Change::Off), Ok(ResetType::ForceOff));
        assert_eq!(reset.choose(Change::On), Err("ForceOff".to_owned()));
    }

    #[test]
    fn of_several_systems_one_must_be_named() {
        let of = |ids: &[&str]| Systems {
            members: ids.iter().map(|id| Link { path: format!("/redfish/v1/Systems/{id}/") }).collect(),
        };
        assert_eq!(of(&["1"]).choose(None).unwrap().id(), "1");
        assert_eq!(of(&["1", "2"]).choose(Some("2")).unwrap().id(), "2");
        assert_eq!(of(&["1", "2"]).choose(None), Err("1, 2".to_owned()));
        assert_eq!(of(&["1"]).choose(Some("2")), Err("1".to_owned()));
        assert_eq!(of(&[]).choose(None), Err(String::new()));
    }

    #[test]
    fn an_error_is_told_in_the_words_of_the_bmc_and_without_escapes() {
        let extended = br#"{"error": {"message": "general", "@Message.ExtendedInfo": [{"Message": "is \u001b[2J locked"}]}}"#;
        assert_eq!(refusal(extended).unwrap(), "is  [2J locked");
        assert_eq!(refusal(br#"{"error": {"message": "general"}}"#).unwrap(), "general");
        assert_eq!(refusal(b"<html>"), None);
        assert_eq!(system(r#"{"PowerState": "Powering\nOn"}"#).power().to_string(), "Powering On");
    }

    /// Reads `json` as everything that a BMC can be asked for.
    fn read_all(json: &[u8]) {
        let _ = serde_json::from_slice::<Root>(json);
        if let Ok(systems) = serde_json::from_slice::<Systems>(json) {
            let _ = (systems.choose(None).is_ok(), systems.choose(Some("1")).is_ok());
        }
        if let Ok(system) = serde_json::from_slice::<System>(json) {
            let _ = system.power();
            for change in [Change::On, Change::Off, Change::Shutdown, Change::Cycle] {
                let _ = system.reset().map(|reset| reset.choose(change));
            }
        }
        let _ = serde_json::from_slice::<ActionInfo>(json).map(|info| Reset::default().with(info));
        let _ = refusal(json);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0..SYSTEM.len(),
            at in 0..SYSTEM.len(),
            byte: u8,
        ) {
            read_all(&bytes);
            read_all(&SYSTEM.as_bytes()[..cut]);
            let mut changed = SYSTEM.as_bytes().to_vec();
            changed[at] = byte;
            read_all(&changed);
        }
    }
}
