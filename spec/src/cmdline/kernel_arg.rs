//! Single kernel arguments, as recipes, manifests and bootserve's configuration hold them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One kernel parameter that can stand in a line of an iPXE script and leaves the parameters behind it alone: in a
/// recipe, in a manifest, in bootserve's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelArg(String);

/// The text is not one kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a kernel argument: expected one NAME or NAME=VALUE in printable ASCII, with spaces only inside one pair \
     of double quotes, other than --, and without ${{ and the words || && ; and #..."
)]
pub struct ParseKernelArgError(String);

impl KernelArg {
    /// The parameter, quotes included.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelArg {
    type Err = ParseKernelArgError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match is_one_parameter(s) && means_nothing_to_ipxe(s) {
            true => Ok(Self(s.to_owned())),
            false => Err(ParseKernelArgError(s.to_owned())),
        }
    }
}

impl TryFrom<String> for KernelArg {
    type Error = ParseKernelArgError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<KernelArg> for String {
    fn from(argument: KernelArg) -> Self {
        argument.0
    }
}

impl fmt::Display for KernelArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the kernel takes it as one parameter and goes on to read those behind it.
fn is_one_parameter(s: &str) -> bool {
    let printable = s.bytes().all(|b| (b' '..=b'~').contains(&b));
    let spaces_are_quoted = match s.split('"').collect::<Vec<_>>()[..] {
        [bare] => !bare.contains(' '),
        [before, _quoted, after] => !before.contains(' ') && !after.contains(' '),
        _ => false,
    };
    printable && spaces_are_quoted && !matches!(s.trim_matches('"').trim(), "" | "--")
}

/// Whether iPXE leaves it as it is: settings are expanded anywhere, and quotes do not hide what ends a command.
fn means_nothing_to_ipxe(s: &str) -> bool {
    let ends_command = |word: &str| matches!(word, "||" | "&&" | ";") || word.starts_with('#');
    !s.contains("${") && !s.split(' ').any(ends_command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_argument_is_one_parameter_to_ipxe_and_to_the_kernel() {
        for good in
            ["quiet", "console=ttyS0,115200", "a=\"b c\"", "\"a=b c\"", "a=x||y", "a=$b", "systemd.unit=a--b"]
        {
            assert_eq!(good.parse::<KernelArg>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            "\"\"",
            "a\nb",
            "a b",
            "a=\"b",
            "a=\"b\" c",
            "a=\"b\"\"c\"",
            "--",
            "\"--\"",
            "a=${net0/mac}",
            "||",
            "&&",
            ";",
            "#",
            "a=\"b || c\"",
            "a=\"b #c\"",
        ] {
            let error = bad.parse::<KernelArg>().unwrap_err().to_string();
            assert!(error.contains("expected one NAME or NAME=VALUE"), "{bad:?}: {error}");
        }
    }
}
