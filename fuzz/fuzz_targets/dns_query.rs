//! DNS queries, in bootserve: whatever comes, the reply is read back as one to it.
#![no_main]

use std::sync::OnceLock;
use std::time::SystemTime;

use bootserve::config::Config;
use bootserve::dns::answer::{Answer, Transport, answer};
use hickory_proto::op::{Message, MessageType};
use libfuzzer_sys::fuzz_target;

const CONFIG: &str = "
[server]
interface = 'br0'
address = '192.168.0.1'
store = '/s'
state = '/t'
[network]
subnet = '192.168.0.0/24'
[dns]
zone = 'cluster.example'
forwarders = ['10.0.0.53']
[[node]]
name = 'n1.rack1'
mac = 'fc:ab:14:e8:66:01'
address = '192.168.0.101'
image = 'failsafe'
";
const MAX_UDP_BYTES: usize = 1232;

fuzz_target!(|data: &[u8]| {
    static SERVED: OnceLock<Config> = OnceLock::new();
    let config = SERVED.get_or_init(|| Config::parse(CONFIG).expect("it is valid"));
    let dns = config.dns.as_ref().expect("it has the section");
    for transport in [Transport::Udp, Transport::Tcp] {
        let reply = match answer(config, dns, transport, [192, 168, 0, 9].into(), data) {
            Answer::Reply(reply) => reply,
            Answer::Lease(question) => question.reply(config, &dns.zone, None, SystemTime::UNIX_EPOCH),
            Answer::Forward(asked) => asked.failed(),
            Answer::Nothing(_) => continue,
        };
        let message = Message::from_vec(&reply.packet).expect("a reply can be read");
        assert_eq!(message.metadata.message_type, MessageType::Response);
        assert_eq!(reply.packet[..2], data[..2]);
        assert!(transport == Transport::Tcp || reply.packet.len() <= MAX_UDP_BYTES);
    }
});
