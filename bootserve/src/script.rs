//! iPXE scripts: text in the command language of iPXE, of 2019 or later (what qemu's boot ROMs have).
//!
//! Every script that could not boot ends by fetching itself anew after a pause, so that a node heals by itself when the
//! server was restarted in the middle or the image was not published yet.

use std::fmt::{self, Write};

use bootspec::MacAddr;
use bootspec::cmdline::{BaseUrl, BootParams, KernelArg};
use bootspec::event::BootId;
use bootspec::manifest::Manifest;
use bootspec::store::VMLINUZ;

/// What the kernel calls the segment with the node's overlay, in its `initrd=`.
const OVERLAY_NAME: &str = "overlay.img";
/// What it calls the segment with the node's credential.
const CREDENTIAL_NAME: &str = "credential.img";
/// First pause before a node asks again; each further one is longer by [`PAUSE_STEP_SECONDS`].
const PAUSE_SECONDS: u32 = 2;
const PAUSE_STEP_SECONDS: u32 = 2;
/// So many seconds are spread over the nodes by their MAC address, so that they do not all come back at once.
const PAUSE_SPREAD_SECONDS: u8 = 5;

/// A machine and where it finds its script.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The machine.
    pub mac: MacAddr,
    /// The URL of its script.
    pub script_url: &'a str,
}

/// What a script boots.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The image, with the version resolved.
    pub manifest: &'a Manifest,
    /// The artifact that is its initramfs.
    pub initramfs: &'a str,
    /// URL of a further segment of the initramfs.
    pub overlay: Option<&'a BaseUrl>,
    /// URL of one more, with what the node shows to be given its secrets.
    pub credential: Option<&'a str>,
    /// Base URL of this server.
    pub base_url: &'a str,
    /// Marks the downloads of this boot.
    pub id: BootId,
    /// `[boot].kernel_args`, then those of the node.
    pub kernel_args: &'a [&'a KernelArg],
    /// What init is told.
    pub params: &'a BootParams,
}

impl Boot<'_> {
    /// URL of the kernel.
    pub fn kernel_url(&self) -> String {
        self.url(VMLINUZ)
    }

    /// URLs of the parts of the initramfs, in their order.
    pub fn initrd_urls(&self) -> Vec<String> {
        let own = self.own_segments().map(|(_, url)| url);
        [self.url(self.initramfs)].into_iter().chain(own).collect()
    }

    /// Names and URLs of the segments that are made for the node.
    fn own_segments(&self) -> impl Iterator<Item = (&'static str, String)> {
        let overlay = self.overlay.map(|url| (OVERLAY_NAME, url.to_string()));
        overlay.into_iter().chain(self.credential.map(|url| (CREDENTIAL_NAME, url.to_owned())))
    }

    fn url(&self, artifact: &str) -> String {
        format!("{}{}?boot={}", self.base_url, self.manifest.image.url_path(artifact), self.id)
    }

    /// Length of the command line that the kernel gets: UEFI builds of iPXE put the name of the kernel before it.
    pub fn command_line_bytes(&self) -> usize {
        VMLINUZ.len() + " ".len() + self.arguments().len()
    }

    /// The command line without `initrd=`, for boot loaders that give the parts of the initramfs names of their own.
    pub fn bare_arguments(&self) -> String {
        let image = self.manifest.kernel_args.iter().map(KernelArg::as_str);
        let site = self.kernel_args.iter().map(|argument| argument.as_str());
        let params = self.params.to_string();
        let words = image.chain(site).chain([params.as_str()]);
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn arguments(&self) -> String {
        // UEFI kernels find the parts of their initramfs by `initrd=`, and join them in this order; on BIOS it does no harm.
        let segments = [self.initramfs].into_iter().chain(self.own_segments().map(|(name, _)| name));
        let words = segments.map(|name| format!("initrd={name}")).chain([self.bare_arguments()]);
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// A script that finds out the MAC address and fetches the machine's own script from beside itself. `netX` is the network
/// device that iPXE opened last: the one that it boots from, which need not be the first.
pub const FIRST_SCRIPT: &str = "#!ipxe\nchain ipxe?mac=${netX/mac:hexhyp}&uuid=${uuid}\n";

/// The script that boots an image.
pub fn boot(client: Client, boot: &Boot) -> String {
    let image = &boot.manifest.image;
    let who = boot.params.node.as_ref().map_or_else(|| client.mac.to_string(), |node| node.to_string());
    let mut script = Script::new();
    script.line(format_args!(
        "echo bootnode: {who} boots {image}, boot {}, attempt {}",
        boot.id, boot.params.attempt
    ));
    let initramfs = boot.initramfs;
    script.line(format_args!("kernel {} {} || goto retry", boot.kernel_url(), boot.arguments()));
    script.line(format_args!("initrd --name {initramfs} {} || goto retry", boot.url(initramfs)));
    for (name, url) in boot.own_segments() {
        script.line(format_args!("initrd --name {name} {url} || goto retry"));
    }
    script.line(format_args!("boot || goto retry"));
    script.retry(client)
}

/// The script of a machine that cannot boot for now: it says why and asks again later.
pub fn wait(client: Client, reason: &str) -> String {
    let mut script = Script::new();
    script.echo(&format!("bootnode: {} cannot boot: {reason}", client.mac));
    script.retry(client)
}

/// The script of a machine that boots from its own disk. BIOS is told which; where that fails, and on UEFI, the firmware goes on to its
/// next boot device.
pub fn local_disk(mac: MacAddr) -> String {
    let mut script = Script::new();
    script.line(format_args!("echo bootnode: {mac} boots from its disk"));
    script.line(format_args!("iseq ${{platform}} pcbios && sanboot --no-describe --drive 0x80 ||"));
    script.line(format_args!("exit"));
    script.0
}

/// The script of a machine that has nothing to boot here.
pub fn next_device(mac: MacAddr, reason: &str) -> String {
    let mut script = Script::new();
    script.echo(&format!("bootnode: nothing to boot for {mac}: {reason}"));
    script.line(format_args!("echo bootnode: going on to the next boot device"));
    script.line(format_args!("sleep {PAUSE_SECONDS}"));
    script.line(format_args!("exit"));
    script.0
}

/// Keeps a text from being more than one line of a script.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { ' ' }).collect()
}

struct Script(String);

impl Script {
    fn new() -> Self {
        Self("#!ipxe\n".to_owned())
    }

    fn line(&mut self, line: fmt::Arguments) {
        writeln!(self.0, "{line}").expect("a String takes whatever is written");
    }

    fn echo(&mut self, text: &str) {
        for line in text.lines() {
            self.line(format_args!("echo {}", plain(line)));
        }
    }

    fn retry(mut self, client: Client) -> String {
        let pause = PAUSE_SECONDS + u32::from(client.mac.octets()[5] % PAUSE_SPREAD_SECONDS);
        self.line(format_args!(":retry"));
        // Images of the failed attempt would be handed to the kernel of the next one.
        self.line(format_args!("imgfree"));
        // Settings outlive a script, so the pause goes on growing while the server is away.
        self.line(format_args!("isset ${{pause}} || set pause:int32 {pause}"));
        self.line(format_args!("echo bootnode: asking again in ${{pause}} seconds"));
        self.line(format_args!("sleep ${{pause}}"));
        self.line(format_args!("inc pause {PAUSE_STEP_SECONDS}"));
        self.line(format_args!("chain --replace {} || goto retry", client.script_url));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::manifest::{BootMode, Build, FORMAT, RootOrigin};

    const MAC: MacAddr = MacAddr::new([0xfc, 0xab, 0x14, 0xe8, 0x66, 0x02]);
    const CLIENT: Client = Client { mac: MAC, script_url: "http://192.168.0.1/ipxe?mac=fc-ab-14-e8-66-02" };

    fn manifest(kernel_args: &[&str]) -> Manifest {
        Manifest {
            format: FORMAT,
            image: "failsafe/v1".parse().unwrap(),
            architecture: "x86_64".into(),
            kernel_release: "6.1".into(),
            mode: BootMode::Failsafe,
            kernel_args: kernel_args.iter().map(|arg| arg.parse().unwrap()).collect(),
            artifacts: Default::default(),
            root: None,
            rollback_index: 0,
            packages: Vec::new(),
            build: Build {
                inputs: bootspec::Sha256Digest::new([0; 32]),
                tool: "imagebuild".into(),
                host: "head".into(),
                time_unix: 0,
                root: RootOrigin::default(),
            },
        }
    }

    fn boot_script(image_args: &[&str]) -> String {
        let site: KernelArg = "console=ttyS0,115200".parse().unwrap();
        let params =
            BootParams { node: Some("node-001".parse().unwrap()), attempt: 2, ..BootParams::default() };
        let manifest = manifest(image_args);
        let id = BootId::new(0xabc);
        let base_url = "http://192.168.0.1";
        let initramfs = "initramfs.img";
        boot(
            CLIENT,
            &Boot {
                manifest: &manifest,
                initramfs,
                overlay: None,
                credential: None,
                base_url,
                id,
                kernel_args: &[&site],
                params: &params,
            },
        )
    }

    #[test]
    fn a_node_loads_kernel_and_initramfs_and_asks_again_if_that_fails() {
        let expected = "#!ipxe\n\
            echo bootnode: node-001 boots failsafe/v1, boot 0000000000000abc, attempt 2\n\
            kernel http://192.168.0.1/images/failsafe/v1/vmlinuz?boot=0000000000000abc initrd=initramfs.img \
            quiet console=ttyS0,115200 bootnode.node=node-001 bootnode.attempt=2 || goto retry\n\
            initrd --name initramfs.img http://192.168.0.1/images/failsafe/v1/initramfs.img?boot=0000000000000abc \
            || goto retry\n\
            boot || goto retry\n\
            :retry\n\
            imgfree\n\
            isset ${pause} || set pause:int32 4\n\
            echo bootnode: asking again in ${pause} seconds\n\
            sleep ${pause}\n\
            inc pause 2\n\
            chain --replace http://192.168.0.1/ipxe?mac=fc-ab-14-e8-66-02 || goto retry\n";
        assert_eq!(boot_script(&["quiet"]), expected);
    }

    #[test]
    fn nothing_can_add_a_line_to_a_script() {
        assert!(wait(CLIENT, "no image\nhint: build it").contains("\necho hint: build it\n"));
    }

    #[test]
    fn a_machine_with_nothing_to_boot_leaves_ipxe() {
        let script = next_device(MAC, "it is not configured");
        assert!(script.contains("fc:ab:14:e8:66:02: it is not configured"), "{script}");
        assert!(script.ends_with("\nexit\n"), "{script}");
    }
}
