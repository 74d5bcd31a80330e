//! The values of single parameters. Each type admits only what may stand on the command line as it is.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// What init does when a boot fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Wait, then reboot: the node tries again on its own.
    #[default]
    Reboot,
    /// Start a shell on every console. Whoever reaches the console is root.
    Shell,
    /// Stop the machine.
    Halt,
}

/// A number of bytes: `48M`, `8G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// The most memory that the root's tmpfs may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootSize {
    /// So many bytes: `4G`, `4096M`.
    Bytes(u64),
    /// So many percent of the machine's memory: `50%`.
    Percent(u8),
}

impl FromStr for OnFailure {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "reboot" => Ok(Self::Reboot),
            "shell" => Ok(Self::Shell),
            "halt" => Ok(Self::Halt),
            _ => Err("expected reboot, shell or halt".to_owned()),
        }
    }
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reboot => "reboot",
            Self::Shell => "shell",
            Self::Halt => "halt",
        })
    }
}

impl FromStr for RootSize {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let error = || "expected bytes with an optional K, M, G or T, or 1% to 100%".to_owned();
        if let Some(percent) = s.strip_suffix('%') {
            return match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(error()),
            };
        }
        match s.parse() {
            Ok(ByteSize(bytes)) if bytes > 0 => Ok(Self::Bytes(bytes)),
            _ => Err(error()),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let error = || "expected bytes with an optional K, M, G or T".to_owned();
        let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match s[digits.len()..].to_ascii_uppercase().as_str() {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(error()),
        };
        let number: u64 = digits.parse().map_err(|_| error())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RootSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl BaseUrl {
    /// The URL without its last component, and that component: `http://h/overlays` and `node-001.tar`.
    pub fn split_file(&self) -> Option<(Self, String)> {
        let (dir, file) = self.0.rsplit_once('/')?;
        Some((dir.parse().ok()?, file.to_owned()))
    }
}

/// One or more base URLs, mirrors of each other: `http://192.168.0.1/images/c/1,http://192.168.0.2/images/c/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(Vec<BaseUrl>);

impl Sources {
    /// The mirrors, the preferred one first. There is at least one.
    pub fn urls(&self) -> &[BaseUrl] {
        &self.0
    }
}

impl From<BaseUrl> for Sources {
    fn from(url: BaseUrl) -> Self {
        Self(vec![url])
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        s.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, url) in self.0.iter().enumerate() {
            write!(f, "{}{url}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// An IPv4 address with the length of its network's prefix: `192.168.0.11/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: Ipv4Addr,
    prefix_len: u8,
}

impl InterfaceAddress {
    /// An address in a network whose prefix has `prefix_len` bits, of 32 at most.
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        (prefix_len <= 32).then_some(Self { address, prefix_len })
    }

    /// The prefix as a mask.
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0))
    }
}

impl FromStr for InterfaceAddress {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let parse = || {
            let (address, prefix_len) = s.split_once('/')?;
            Self::new(address.parse().ok()?, prefix_len.parse().ok()?)
        };
        parse()
            .ok_or_else(|| "expected an IPv4 address and a prefix length such as 192.168.0.11/24".to_owned())
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// A text that may stand on the command line as it is, because its type admits no quote or white space.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $accept:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(s: &str) -> Result<Self, String> {
                let accept: fn(&str) -> bool = $accept;
                let plain = s.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
                if plain && accept(s) { Ok(Self(s.to_owned())) } else { Err($expected.to_owned()) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_type! {
    /// A URL that paths are appended to: `http://192.168.0.1`, without a final slash. Init has no resolver, so the host is
    /// an address.
    BaseUrl, |s| !s.contains(',') && s.len() > "http://".len() && s.starts_with("http://") && !s.ends_with('/'),
    "expected http://ADDRESS[:PORT][/PATH]"
}
text_type! {
    /// An absolute path in the root: `/sbin/init`.
    InitPath, |s| s.starts_with('/'), "expected an absolute path"
}
text_type! {
    /// A memory policy of tmpfs: `interleave`, `bind:0-3`, `prefer=static:1` (tmpfs(5)).
    Mpol,
    |s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b":=,-".contains(&b)),
    "expected a policy of tmpfs such as interleave or bind:0-1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_which_file() {
        let url: BaseUrl = "http://10.0.0.1/overlays/n1.tar".parse().unwrap();
        assert_eq!(url.split_file(), Some(("http://10.0.0.1/overlays".parse().unwrap(), "n1.tar".into())));
        assert_eq!("http://10.0.0.1".parse::<BaseUrl>().unwrap().split_file(), None);
    }

    #[test]
    fn an_address_has_a_mask() {
        let mask = |text: &str| text.parse::<InterfaceAddress>().map(|address| address.netmask().to_string());
        assert_eq!(mask("10.0.0.1/0"), Ok("0.0.0.0".into()));
        assert_eq!(mask("10.0.0.1/22"), Ok("255.255.252.0".into()));
        assert_eq!(mask("10.0.0.1/32"), Ok("255.255.255.255".into()));
        for bad in ["10.0.0.1", "10.0.0.1/33", "10.0.0/8", "10.0.0.1/-1", "/8"] {
            assert!(mask(bad).is_err(), "{bad}");
        }
    }
}
