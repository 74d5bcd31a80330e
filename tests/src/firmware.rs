//! A node's firmware, and the files it needs beside the machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use bootspec::store::NodeName;
use serde::Serialize;

/// The firmware that starts the network boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// SeaBIOS, which runs the iPXE in the network card's ROM.
    Bios,
    /// OVMF and its own PXE client.
    Uefi,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        })
    }
}

/// The files of one node's firmware.
#[derive(Debug)]
pub enum FirmwareFiles {
    /// SeaBIOS comes with qemu.
    Bios {
        /// Holds the I/O port of the serial console, where SeaBIOS and iPXE then print.
        serial_port: PathBuf,
    },
    /// OVMF.
    Uefi {
        /// Read-only code.
        code: PathBuf,
        /// The node's own variables.
        variables: PathBuf,
    },
}

/// The firmware's files are missing or cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// OVMF is not installed.
    #[error("found no OVMF in {}\nhint: run scripts/setup, which installs it", ovmf_places())]
    NoOvmf,
    /// The node's own files could not be written.
    #[error("cannot write the firmware file {}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where distributions put OVMF's code and the template of its variables: Debian and Ubuntu, then Fedora and EL.
const OVMF_PLACES: [(&str, &str); 3] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
];

/// SeaBIOS reads a little-endian u16. qemu takes it from a file, as fw_cfg strings cannot hold every byte.
const COM1: u16 = 0x3f8;

impl FirmwareFiles {
    /// Writes the files that belong to `node` alone into `dir`.
    pub fn prepare(firmware: Firmware, node: &NodeName, dir: &Path) -> Result<Self, Error> {
        match firmware {
            Firmware::Bios => {
                let path = dir.join(format!("serial-port-{node}"));
                let written = fs::write(&path, COM1.to_le_bytes());
                written.map_err(|source| Error::Write { path: path.clone(), source })?;
                Ok(Self::Bios { serial_port: path })
            }
            Firmware::Uefi => {
                let (code, template) = find_ovmf()?;
                let path = dir.join(format!("ovmf-variables-{node}"));
                let copied = fs::copy(template, &path);
                copied.map_err(|source| Error::Write { path: path.clone(), source })?;
                Ok(Self::Uefi { code: code.into(), variables: path })
            }
        }
    }

    /// qemu's machine type for this firmware.
    pub fn machine(&self) -> &'static str {
        match self {
            Self::Bios { .. } => "pc",
            Self::Uefi { .. } => "q35",
        }
    }

    /// qemu's arguments for this firmware.
    pub fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Bios { serial_port } => {
                vec!["-fw_cfg".into(), with_file("name=etc/sercon-port", serial_port)]
            }
            Self::Uefi { code, variables } => vec![
                "-drive".into(),
                with_file("if=pflash,format=raw,readonly=on", code),
                "-drive".into(),
                with_file("if=pflash,format=raw", variables),
            ],
        }
    }
}

fn find_ovmf() -> Result<(&'static str, &'static str), Error> {
    let installed =
        |(code, variables): &(&str, &str)| Path::new(code).exists() && Path::new(variables).exists();
    OVMF_PLACES.into_iter().find(installed).ok_or(Error::NoOvmf)
}

fn ovmf_places() -> String {
    OVMF_PLACES.map(|(code, _)| code).join(", ")
}

/// `options,file=path`, with the commas of the path doubled as qemu wants them.
fn with_file(options: &str, path: &Path) -> OsString {
    format!("{options},file={}", path.display().to_string().replace(',', ",,")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seabios_gets_the_port_in_little_endian() {
        let dir = tempfile::tempdir().unwrap();
        let node = "node-000".parse().unwrap();
        let files = FirmwareFiles::prepare(Firmware::Bios, &node, dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("serial-port-node-000")).unwrap(), [0xf8, 0x03]);
        assert_eq!(files.machine(), "pc");
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        let files = FirmwareFiles::Bios { serial_port: "/a,b/port".into() };
        assert_eq!(files.arguments()[1], "name=etc/sercon-port,file=/a,,b/port");
    }
}
