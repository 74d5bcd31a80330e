//! `GET /api/microkernel/bootstrap`: the script that iPXE starts with at sites of Razor, where it lies on a TFTP server.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;

/// How many interfaces are tried, if it is not said.
const DEFAULT_NIC_MAX: u8 = 4;
/// iPXE tries each for a minute.
const NIC_MAX: u8 = 32;

/// What the script is asked for with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// How many interfaces are tried.
    pub nic_max: u8,
    /// The port that we are asked at.
    pub http_port: u16,
}

/// The script cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {found:?}, expected a number from 1 to {max}")]
pub struct BootstrapError {
    key: &'static str,
    found: String,
    max: u16,
}

impl Bootstrap {
    /// That of the part of a URL behind `?`; `http_port` is what it is without one.
    pub fn parse(query: &str, http_port: u16) -> Result<Self, BootstrapError> {
        let mut bootstrap = Self { nic_max: DEFAULT_NIC_MAX, http_port };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let error = |key, max| BootstrapError { key, found: value.chars().take(20).collect(), max };
            match &*key {
                "nic_max" => {
                    let number = value.parse().ok().filter(|number| (1..=NIC_MAX).contains(number));
                    bootstrap.nic_max = number.ok_or_else(|| error("nic_max", NIC_MAX.into()))?;
                }
                "http_port" => {
                    let port: Option<NonZeroU16> = value.parse().ok();
                    bootstrap.http_port = port.ok_or_else(|| error("http_port", u16::MAX))?.get();
                }
                _ => {}
            }
        }
        Ok(bootstrap)
    }

    /// The script: an address by the first interface that gets one, then the boot script of the machine from `server`.
    pub fn script(&self, server: Ipv4Addr) -> String {
        let mut script = "#!ipxe\nset pause:int32 1\n:retry\nisset ${ip} && goto ask ||\n".to_owned();
        let mut query = String::new();
        for number in 0..self.nic_max {
            let _ = writeln!(script, "isset ${{net{number}/mac}} && dhcp net{number} && goto ask ||");
            let _ = write!(query, "net{number}=${{net{number}/mac:hexhyp}}&");
        }
        let url = format!("http://{server}:{}/svc/boot?{query}", self.http_port);
        let _ = write!(
            script,
            "goto later\n\
             :ask\n\
             chain {url}serial=${{serial:uristring}}&asset=${{asset:uristring}}&uuid=${{uuid}} || goto later\n\
             exit\n\
             :later\n\
             echo bootnode: no address or no script, trying again in ${{pause}} seconds\n\
             sleep ${{pause}}\n\
             inc pause\n\
             iseq ${{pause}} 60 && reboot ||\n\
             goto retry\n"
        );
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        assert_eq!(Bootstrap::parse("", 8150).unwrap(), Bootstrap { nic_max: 4, http_port: 8150 });
        for (query, key, max) in [
            ("http_port=0", "http_port", "65535"),
            ("http_port=65536", "http_port", "65535"),
            ("http_port=", "http_port", "65535"),
            ("nic_max=33", "nic_max", "32"),
            ("nic_max=0", "nic_max", "32"),
        ] {
            let error = Bootstrap::parse(query, 80).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(&format!("from 1 to {max}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_query_makes_a_bounded_script_or_an_error(query in "(nic_max|http_port|\\PC{0,3})=\\PC{0,30}(&nic_max=[0-9]{0,4})?") {
            if let Ok(bootstrap) = Bootstrap::parse(&query, 80) {
                prop_assert!(bootstrap.script(Ipv4Addr::LOCALHOST).len() < 8192);
            }
        }
    }
}
