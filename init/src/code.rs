//! The names of failures, which stay the same from release to release. `docs/operations.md` says of each what it means and
//! what to do; a test sees to that.

use std::fmt;

/// Defines [`Code`] and the list of all of them in one place.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What kind of failure ended a boot.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All codes, in the order in which a boot can come upon them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as operators read it: `E-VERIFY`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// A file system cannot be mounted that every Linux has, or the root's tmpfs.
    Mount = "E-MOUNT",
    /// A file of /proc cannot be read.
    Proc = "E-PROC",
    /// There is no usable image, or the initramfs is not whole.
    Image = "E-IMAGE",
    /// A kernel is running that is not the image's.
    Kernel = "E-KERNEL",
    /// No trusted key has signed it.
    Signature = "E-SIGNATURE",
    /// It is another image than was asked for.
    OtherImage = "E-OTHERIMAGE",
    /// The image is older than may boot.
    Rollback = "E-ROLLBACK",
    /// There is no usable network card.
    Nic = "E-NIC",
    /// There is no link.
    Link = "E-LINK",
    /// There is no address by DHCP.
    Dhcp = "E-DHCP",
    /// The kernel refuses address or gateway.
    Address = "E-ADDRESS",
    /// Something cannot be fetched.
    Fetch = "E-FETCH",
    /// The node's secrets cannot be had.
    Secrets = "E-SECRETS",
    /// The image's SELinux policy cannot be loaded.
    Selinux = "E-SELINUX",
    /// The image does not fit into memory.
    Memory = "E-MEMORY",
    /// A piece of the root is not what the manifest says.
    Verify = "E-VERIFY",
    /// The root's tmpfs is full.
    Full = "E-FULL",
    /// The root archive cannot be unpacked.
    Unpack = "E-UNPACK",
    /// The root's file system image cannot be mounted.
    Overlay = "E-OVERLAY",
    /// The node's own files cannot be laid over the root.
    NodeOverlay = "E-NODEOVERLAY",
    /// The root has nothing to execute.
    NoInit = "E-NOINIT",
    /// The root cannot be entered.
    SwitchRoot = "E-SWITCHROOT",
    /// No shell can be started.
    Shell = "E-SHELL",
    /// There is no boot server to tell of the machine.
    Discover = "E-DISCOVER",
    /// init itself is defective.
    Panic = "E-PANIC",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
