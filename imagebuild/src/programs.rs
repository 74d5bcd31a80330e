//! Finds the programs that go into the initramfs: our init and a busybox, both static.

use std::io;
use std::path::{Path, PathBuf};

use object::read::elf::{FileHeader, ProgramHeader};

use crate::architecture::Architecture;
use crate::initramfs::Programs;

/// Names init's path in the environment.
pub const INIT_VARIABLE: &str = "BOOTNODE_INIT";
/// Where distributions put a static busybox.
const BUSYBOX_PATHS: [&str; 4] =
    ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox", "/usr/lib/initcpio/busybox"];

/// A program is missing or of the wrong kind.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// init is at none of the usual places.
    #[error(
        "cannot find init beside {beside}\nhint: build it with `make init`, or name it with --init or {INIT_VARIABLE}"
    )]
    NoInit {
        /// Where this program lies.
        beside: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The program.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not an executable of this kind of machine.
    #[error("{0} is not a 64-bit little-endian ELF executable")]
    NotElf(PathBuf),
    /// It is for machines of another kind than the image.
    #[error("{path} is not for {wanted}, as the image is\nhint: name one that is, with {option}")]
    Foreign {
        /// The program.
        path: PathBuf,
        /// What the image is for.
        wanted: Architecture,
        /// How another one is named.
        option: &'static str,
    },
    /// It needs libraries, which an initramfs does not have.
    #[error(
        "{0} is dynamically linked, but the initramfs holds no libraries\nhint: give a statically linked one (for init: `make init`)"
    )]
    Dynamic(PathBuf),
}

/// The programs named by the user, or those at the usual places. A missing busybox is no error: the image then has no
/// rescue shell. With `wanted`, both are for such machines.
pub fn find(
    init: Option<&Path>,
    busybox: Option<&Path>,
    wanted: Option<Architecture>,
) -> Result<Programs, ProgramError> {
    let init = match init {
        Some(path) => path.to_owned(),
        None => find_init()?,
    };
    check_program(&init, wanted, "--init")?;
    let busybox = match busybox {
        Some(path) => {
            check_program(path, wanted, "--busybox")?;
            Some(path.to_owned())
        }
        None => BUSYBOX_PATHS
            .iter()
            .map(PathBuf::from)
            .find(|path| check_program(path, wanted, "--busybox").is_ok()),
    };
    Ok(Programs { init, busybox })
}

/// init as installed (`bin/imagebuild`, `lib/bootnode/init`) or as built (`target/debug/imagebuild`, `target/init/init`).
fn find_init() -> Result<PathBuf, ProgramError> {
    let program = std::env::current_exe().unwrap_or_default();
    let above = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    ["lib/bootnode/init", "init/init"]
        .iter()
        .map(|path| above.join(path))
        .find(|path| path.is_file())
        .ok_or_else(|| ProgramError::NoInit { beside: program.clone() })
}

/// A static executable asks for no interpreter.
fn check_program(
    path: &Path,
    wanted: Option<Architecture>,
    option: &'static str,
) -> Result<(), ProgramError> {
    let data = std::fs::read(path).map_err(|source| ProgramError::Read { path: path.to_owned(), source })?;
    let not_elf = |_| ProgramError::NotElf(path.to_owned());
    let header = object::elf::FileHeader64::<object::LittleEndian>::parse(&*data).map_err(not_elf)?;
    let endian = header.endian().map_err(not_elf)?;
    let segments = header.program_headers(endian, &*data).map_err(not_elf)?;
    let dynamic = segments.iter().any(|segment| segment.p_type(endian) == object::elf::PT_INTERP);
    if dynamic {
        return Err(ProgramError::Dynamic(path.to_owned()));
    }
    match wanted.filter(|wanted| wanted.elf_machine() != header.e_machine(endian)) {
        Some(wanted) => Err(ProgramError::Foreign { path: path.to_owned(), wanted, option }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_refused_with_a_hint() {
        let this_test = std::env::current_exe().unwrap();
        let error = find(Some(&this_test), None, None).unwrap_err();
        assert!(matches!(error, ProgramError::Dynamic(_)), "{error}");
        assert!(error.to_string().contains("hint:"), "{error}");
    }

    #[test]
    fn a_script_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("init");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(matches!(find(Some(&script), None, None), Err(ProgramError::NotElf(_))));
    }
}
