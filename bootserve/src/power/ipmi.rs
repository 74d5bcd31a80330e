//! Switches machines by IPMI 2.0 over the network, with the program ipmitool.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::{Change, Password, PowerState};
use crate::config::Bmc;
use crate::config::bmc::BmcAddress;

/// Of ipmitool, looked for in PATH.
const PROGRAM: &str = "ipmitool";
/// How long ipmitool waits for an answer.
const ANSWER_SECONDS: &str = "2";
/// How often it sends what may be sent twice.
const ATTEMPTS: &str = "3";
/// For one command, should ipmitool not end by itself. Without a cipher suite, it spends 10 s on old BMCs that cannot tell theirs.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// No more of what ipmitool says is shown.
const MAX_TEXT_CHARS: usize = 300;

/// A BMC was asked or told something in vain.
#[derive(Debug, thiserror::Error)]
pub enum IpmiError {
    /// ipmitool cannot be run.
    #[error("cannot run {PROGRAM}\nhint: install it: apt-get install ipmitool, or dnf install ipmitool")]
    Program(#[source] io::Error),
    /// It does not come to an end.
    #[error("{PROGRAM} {command} at {bmc} has not ended after {} s", COMMAND_LIMIT.as_secs())]
    TimeOut {
        /// What it was to do.
        command: &'static str,
        /// Where.
        bmc: BmcAddress,
    },
    /// It fails.
    #[error("{PROGRAM} {command} at {bmc} as {user} failed: {text}{}", hint(text))]
    Failed {
        /// What it was to do.
        command: &'static str,
        /// Where.
        bmc: BmcAddress,
        /// As whom.
        user: String,
        /// What it says.
        text: String,
    },
    /// It says something else than whether the machine is on.
    #[error("{PROGRAM} {command} at {bmc} says '{text}': expected 'Chassis Power is on' or 'off'")]
    Answer {
        /// What it was to do.
        command: &'static str,
        /// Where.
        bmc: BmcAddress,
        /// What it says.
        text: String,
    },
}

/// ipmitool does not tell a wrong password from a BMC that is not there.
fn hint(text: &str) -> &'static str {
    match text.contains("Unable to establish") {
        true => {
            "\nhint: are bmc_address, bmc.user and what is in bmc.password_file right, may the user come over the network, and has the BMC the cipher suite? Some want bmc = { cipher_suite = 3 }, others 17"
        }
        false => "",
    }
}

/// One machine behind a BMC.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Where, and as whom.
    pub bmc: &'a Bmc,
    /// With what.
    pub password: &'a Password,
}

impl Machine<'_> {
    /// Whether it is on.
    pub async fn state(&self) -> Result<PowerState, IpmiError> {
        let command = "chassis power status";
        let text = self.run(command, ATTEMPTS).await?;
        let answer = || IpmiError::Answer { command, bmc: self.bmc.address.clone(), text: shown(&text) };
        parse_state(&text).ok_or_else(answer)
    }

    /// Sends the command of ipmitool.
    pub async fn carry_out(&self, change: Change) -> Result<(), IpmiError> {
        // Of a cycle the second would be another one.
        let attempts = if change == Change::Cycle { "1" } else { ATTEMPTS };
        self.run(command(change), attempts).await.map(drop)
    }

    async fn run(&self, command: &'static str, attempts: &str) -> Result<String, IpmiError> {
        let mut program = Command::new(PROGRAM);
        program.args(arguments(self.bmc, attempts)).args(command.split(' '));
        // ipmitool prefers the other variable.
        program.env_remove("IPMITOOL_PASSWORD").env("IPMI_PASSWORD", self.password.expose());
        program.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
        let bmc = || self.bmc.address.clone();
        let ended = timeout(COMMAND_LIMIT, program.output()).await;
        let ended = ended.map_err(|_| IpmiError::TimeOut { command, bmc: bmc() })?;
        let Output { status, stdout, stderr } = ended.map_err(IpmiError::Program)?;
        if !status.success() {
            let text = shown(&String::from_utf8_lossy(if stderr.is_empty() { &stdout } else { &stderr }));
            return Err(IpmiError::Failed { command, bmc: bmc(), user: self.bmc.user.clone(), text });
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }
}

/// What brings `change` about.
pub fn command(change: Change) -> &'static str {
    match change {
        Change::On => "chassis power on",
        Change::Off => "chassis power off",
        Change::Shutdown => "chassis power soft",
        Change::Cycle => "chassis power cycle",
    }
}

/// All but the command. The password is in the environment, for which -E stands: everybody may read command lines.
fn arguments(bmc: &Bmc, attempts: &str) -> Vec<String> {
    // An operator may do all of this, and an administrator is one.
    let fixed =
        ["-I", "lanplus", "-L", "OPERATOR", "-E", "-N", ANSWER_SECONDS, "-R", attempts, "-U", &bmc.user];
    let mut arguments: Vec<_> = fixed.map(str::to_owned).into();
    arguments.extend(["-H".to_owned(), bmc.address.host.clone()]);
    if let Some(port) = bmc.address.port {
        arguments.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(suite) = bmc.cipher_suite {
        arguments.extend(["-C".to_owned(), suite.to_string()]);
    }
    arguments
}

fn parse_state(text: &str) -> Option<PowerState> {
    text.lines().find_map(|line| match line.trim().strip_prefix("Chassis Power is ")? {
        "on" => Some(PowerState::On),
        "off" => Some(PowerState::Off),
        other => Some(PowerState::Other(shown(other))),
    })
}

/// What ipmitool says, on one line.
fn shown(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|character| !character.is_control()).take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bmc::{Protocol, Trust};
    use proptest::prelude::*;

    #[test]
    fn the_command_line_has_no_password() {
        let bmc = Bmc {
            address: "10.1.9.4:6230".parse().unwrap(),
            protocol: Protocol::Ipmi,
            user: "admin".into(),
            password_file: "/etc/bootnode/bmc.password".into(),
            trust: Trust::System,
            system: None,
            cipher_suite: Some(17),
        };
        let expected = "-I lanplus -L OPERATOR -E -N 2 -R 3 -U admin -H 10.1.9.4 -p 6230 -C 17";
        assert_eq!(arguments(&bmc, "3").join(" "), expected);
    }

    #[test]
    fn the_state_is_read_from_what_ipmitool_prints() {
        assert_eq!(parse_state("Chassis Power is on\n"), Some(PowerState::On));
        assert_eq!(parse_state("a warning\nChassis Power is off\n"), Some(PowerState::Off));
        assert_eq!(parse_state("Chassis Power is up"), Some(PowerState::Other("up".into())));
        assert_eq!(parse_state("Chassis Power Control: Up/On"), None);
    }

    proptest! {
        #[test]
        fn any_output_is_read(text: String) {
            let _ = (parse_state(&text), parse_state(&format!("Chassis Power is {text}")), shown(&text));
        }
    }
}
