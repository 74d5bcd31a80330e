//! `bootserve explain`: what a machine is told, and why. The packet is answered as the daemon would answer it; nothing is sent,
//! and nothing stored.

mod capture;
mod question;
mod text;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bootspec::MacAddr;
use bootspec::diagnosis::explain;
use dhcproto::v4::{DhcpOption, MessageType, borrowed};
use serde::Serialize;
use uuid::Uuid;

pub use capture::{CaptureError, Captured, Port, read_capture};
pub use question::{Asks, Question};

use crate::compat::Labels;
use crate::config::{Config, DhcpMode, SecretsProblem};
use crate::database::{Database, DatabaseError};
use crate::dhcp::client::{Client, KnownBy};
use crate::dhcp::ignored::Ignored;
use crate::dhcp::leases::Lease;
use crate::dhcp::proxy::Proxy;
use crate::dhcp::reply::Reply;
use crate::dhcp::request::Request;
use crate::dhcp::server::{Action, Server};
use crate::dhcp::store::read_leases;
use crate::nbp::{NbpError, NbpSet};
use crate::overlay::OverlayName;
use crate::policy::{BootDecision, Machine, Stage, decide, initramfs};
use crate::store::selected_manifest;

/// What answers depend on.
#[derive(Debug)]
pub struct Setting {
    config: Arc<Config>,
    nbps: Arc<NbpSet>,
    leases: Vec<Lease>,
    now: SystemTime,
}

/// It cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The boot programs.
    #[error(transparent)]
    Nbp(#[from] NbpError),
    /// The leases.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// What is done about a packet.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Who asks.
    pub mac: Option<MacAddr>,
    /// The name of its `[[node]]`.
    pub node: Option<String>,
    /// How we know that it is this node: `mac fc:ab:14:e8:66:01`.
    pub known_by: Option<String>,
    /// What is done otherwise for its firmware.
    pub quirks: Option<String>,
    /// As what it asks.
    pub stage: Option<String>,
    /// DHCP message type: `DISCOVER`; or `BOOTP`.
    pub request: Option<String>,
    /// The networks of the link that it is on, and how we know.
    pub link: Option<Link>,
    /// The address that it gets.
    pub address: Option<Address>,
    /// The reply, if there is one.
    pub reply: Option<ReplyView>,
    /// Why there is none, and what helps.
    pub ignored: Option<String>,
    /// What iPXE's script boots.
    pub boots: Option<Boots>,
}

/// Where a machine is.
#[derive(Debug, Serialize)]
pub struct Link {
    /// The subnets on the wire.
    pub subnets: Vec<String>,
    /// How we know.
    pub because: String,
}

/// An address and why it is this one.
#[derive(Debug, Serialize)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// Why.
    pub because: String,
}

/// A reply as its client reads it.
#[derive(Debug, Serialize)]
pub struct ReplyView {
    /// Where it goes.
    pub to: SocketAddrV4,
    /// `OFFER`, `ACK`, `NAK`, `BOOTREPLY`.
    pub kind: String,
    /// What is offered for booting, or why nothing.
    pub offer: String,
    /// The address given, 0.0.0.0 if none is.
    pub yiaddr: Ipv4Addr,
    /// The server of the boot file.
    pub siaddr: Ipv4Addr,
    /// The field `file`.
    pub file: String,
    /// The options in their order.
    pub options: Vec<OptionView>,
    /// The whole packet, in hexadecimal digits.
    pub packet: String,
}

/// A DHCP option.
#[derive(Debug, Serialize)]
pub struct OptionView {
    /// Its code.
    pub code: u8,
    /// What the library calls it.
    pub name: String,
    /// Its value in words or hexadecimal digits.
    pub value: String,
}

/// What a script boots.
#[derive(Debug, Default, Serialize)]
pub struct Boots {
    /// Which rule says so: `node-001` or `boot.default_image`, or what of a data directory: `bootcfg boot/default`.
    pub rule: String,
    /// Image and version, if there is one.
    pub image: Option<String>,
    /// The mode of the boot.
    pub mode: Option<String>,
    /// The file that is loaded.
    pub initramfs: Option<String>,
    /// The overlays that the node is handed as secrets. What they hold is not told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// What it boots instead: the kernel of a data directory, as that names it, or its own disk.
    pub kernel: Option<String>,
    /// Why it boots nothing.
    pub problem: Option<String>,
}

impl Setting {
    /// Reads what `config` refers to. Without a state there are no leases.
    pub async fn read(config: Config) -> Result<Self, SettingError> {
        let nbps = NbpSet::read(&config.nbp_dirs)?;
        let leases = leases(&config.server.state).await?;
        Ok(Self { config: Arc::new(config), nbps: Arc::new(nbps), leases, now: SystemTime::now() })
    }

    /// What is done about what arrived.
    pub async fn explain(&self, captured: &Captured) -> Explanation {
        let answer = self.answer(captured);
        let request = Request::parse(&captured.packet).ok();
        let client = request.as_ref().map(|request| Client::identify(&self.config, request));
        let reply = match &answer {
            Ok(actions) => actions.iter().find_map(|action| match action {
                Action::Send(reply) => Some(reply),
                _ => None,
            }),
            Err(_) => None,
        };
        let reply = reply.zip(client.as_ref()).and_then(|(reply, client)| self.view(client, reply));
        let address = reply.as_ref().filter(|reply| !reply.yiaddr.is_unspecified());
        // What the server would know when the script is asked for.
        if let Some(client) = &client {
            client.remember(&self.config);
        }
        let boots = match &request {
            Some(request @ Request { stage: Stage::Ipxe, .. }) if reply.is_some() => {
                Some(self.boots(request))
            }
            _ => None,
        };
        let mac = request.as_ref().map(|request| request.mac);
        Explanation {
            mac,
            node: client.as_ref().and_then(Client::node_name).map(str::to_owned),
            known_by: client.as_ref().and_then(Client::known_by).map(KnownBy::to_string),
            quirks: client
                .as_ref()
                .map(|client| client.quirks.to_string())
                .filter(|quirks| !quirks.is_empty()),
            stage: request.as_ref().map(|request| request.stage.to_string()),
            request: request.as_ref().map(|request| request.kind.to_string()),
            link: request.as_ref().and_then(|request| self.link(request)),
            address: address.zip(client.as_ref()).map(|(reply, client)| self.address(client, reply.yiaddr)),
            ignored: ignored(&answer, reply.is_some()),
            reply,
            boots,
        }
    }

    fn answer(&self, captured: &Captured) -> Result<Vec<Action>, Ignored> {
        let Captured { port, from, packet } = captured;
        let (config, nbps) = (Arc::clone(&self.config), Arc::clone(&self.nbps));
        match (self.config.dhcp, port) {
            (DhcpMode::Off, _) => Err(Ignored::Off),
            (_, Port::Pxe) => Proxy::new(config, nbps).acknowledge(packet, *from),
            (DhcpMode::Proxy, Port::Dhcp) => Proxy::new(config, nbps).offer(packet),
            (DhcpMode::Authoritative, Port::Dhcp) => {
                Server::new(config, nbps, self.leases.clone()).answer(self.now, packet)
            }
        }
    }

    fn link(&self, request: &Request) -> Option<Link> {
        let at = request.link().unwrap_or(self.config.server.address);
        let link = self.config.networks.on_link_of(at)?;
        let because = match request.link() {
            None => format!("no relay: the network of server.address {at}"),
            Some(at) if at == request.giaddr => format!("the relay is {at}"),
            Some(at) if at == request.ciaddr => format!("the client has {at}"),
            Some(at) => format!("the relay or the client selects {at}"),
        };
        Some(Link { subnets: link.iter().map(|network| network.subnet.to_string()).collect(), because })
    }

    fn address(&self, client: &Client, address: Ipv4Addr) -> Address {
        let lease = self.leases.iter().find(|lease| (lease.mac, lease.address) == (client.mac(), address));
        let because = match (client.node(), lease) {
            (Some(node), _) if node.address == address => format!("reserved by [[node]] {}", node.name),
            (_, Some(lease)) => match lease.expires.duration_since(self.now) {
                Ok(left) => format!("its lease, for {} s more", left.as_secs()),
                Err(_) => "the one that it had before".to_owned(),
            },
            (Some(node), None) => {
                format!("of the range: {}, which is reserved for it, is of another network", node.address)
            }
            (None, None) => "of the range: it has no [[node]] and no lease".to_owned(),
        };
        Address { address, because }
    }

    fn view(&self, client: &Client, reply: &Reply) -> Option<ReplyView> {
        let message = borrowed::Message::new(&reply.packet).ok()?;
        let offer = crate::dhcp::boot::boot_options(&self.config, &self.nbps, client);
        let options: Vec<_> = message.opts().map(view_option).collect();
        let kind = options.iter().find(|option| option.code == 53).map(|option| option.value.clone());
        let bootp = || "BOOTREPLY".to_owned();
        Some(ReplyView {
            to: reply.to,
            kind: kind.unwrap_or_else(bootp),
            offer: offer.explained(),
            yiaddr: message.yiaddr(),
            siaddr: message.siaddr(),
            file: String::from_utf8_lossy(message.fname()).trim_end_matches('\0').to_owned(),
            options,
            packet: hex::encode(&reply.packet),
        })
    }

    /// What the script that iPXE fetches next would boot.
    fn boots(&self, request: &Request) -> Boots {
        let mac = request.mac;
        let nothing = |rule, problem| Boots { rule, problem: Some(problem), ..Boots::default() };
        let decision = match decide(&self.config, &Machine { mac, stage: Stage::Script }) {
            BootDecision::LookUp(look_up) => match look_up.site.boot(&labels(request)) {
                Ok(Some(found)) => {
                    return Boots { rule: found.rule, kernel: Some(found.kernel), ..Boots::default() };
                }
                Ok(None) => look_up.otherwise(Some(mac)),
                Err(error) => return nothing(look_up.site.to_string(), explain(&error)),
            },
            decision => decision,
        };
        let assignment = match decision {
            BootDecision::Boot(assignment) => assignment,
            BootDecision::LocalDisk => {
                let rule =
                    self.config.node(mac).map_or("none".to_owned(), |node| format!("[[node]] {}", node.name));
                return Boots { rule, kernel: Some("its own disk".to_owned()), ..Boots::default() };
            }
            BootDecision::NextDevice(reason) => return nothing("none".to_owned(), reason.to_string()),
            other => return nothing("none".to_owned(), format!("{other:?}")),
        };
        let rule = match assignment.node {
            Some(node) => format!("[[node]] {}", node.name),
            None => "boot.default_image".to_owned(),
        };
        let store = &self.config.server.store;
        match selected_manifest(store, assignment.image) {
            Ok(manifest) => {
                let mode = assignment.mode(&manifest);
                let initramfs = initramfs(&manifest, mode);
                let secrets = assignment.node.map_or(&[][..], |node| &node.secrets);
                let no_secrets = SecretsProblem::of_mode(mode)
                    .filter(|_| !secrets.is_empty())
                    .map(|error| explain(&error));
                Boots {
                    rule,
                    image: Some(manifest.image.to_string()),
                    mode: Some(mode.to_string()),
                    problem: initramfs.as_ref().err().map(|error| explain(error)).or(no_secrets),
                    initramfs: initramfs.ok().map(str::to_owned),
                    secrets: secrets.iter().map(OverlayName::to_string).collect(),
                    kernel: None,
                }
            }
            Err(error) => nothing(rule, explain(&error)),
        }
    }
}

/// What a packet says of the labels that iPXE passes on.
fn labels(request: &Request) -> Labels {
    let uuid = request.client_uuid.map(|[_, uuid @ ..]| Uuid::from_bytes(uuid).to_string());
    Labels::of(&request.mac.into(), uuid)
}

/// Leases as they are on the disk.
async fn leases(state: &Path) -> Result<Vec<Lease>, DatabaseError> {
    match Database::open_to_read(state).await? {
        Some(database) => read_leases(&database).await,
        None => Ok(Vec::new()),
    }
}

fn ignored(answer: &Result<Vec<Action>, Ignored>, is_answered: bool) -> Option<String> {
    match answer {
        Err(ignored) => Some(explain(ignored)),
        Ok(_) if is_answered => None,
        Ok(_) => Some("it is noted; no answer is due".to_owned()),
    }
}

fn kind_name(kind: MessageType) -> String {
    format!("{kind:?}").to_uppercase()
}

fn view_option(option: borrowed::DhcpOption<'_>) -> OptionView {
    let (code, data) = (option.code(), option.data().to_vec());
    let value = match option.into_option() {
        Ok(DhcpOption::MessageType(kind)) => kind_name(kind),
        Ok(
            DhcpOption::ClassIdentifier(_)
            | DhcpOption::VendorExtensions(_)
            | DhcpOption::ClientMachineIdentifier(_)
            | DhcpOption::BootfileName(_)
            | DhcpOption::RelayAgentInformation(_)
            | DhcpOption::Unknown(_),
        )
        | Err(_) => text_or_hex(&data),
        // `Router([192.168.0.1])`, without the name.
        Ok(known) => {
            let text = format!("{known:?}");
            let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
            inner.unwrap_or(&text).trim_matches(['[', ']', '"']).to_owned()
        }
    };
    OptionView { code: code.into(), name: format!("{code:?}"), value }
}

fn text_or_hex(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(text) if !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => {
            text.to_owned()
        }
        _ => hex::encode(data),
    }
}
